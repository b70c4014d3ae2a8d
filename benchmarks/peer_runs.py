"""One pretraining run of one contender of peers.py, in a process of its own.

    python benchmarks/peer_runs.py lightly-train '{"root": ..., "out": ..., "size": 32, ...}'

Knows nothing of this project but in `ours` and `bare`, to run in other programs' environments too.
Writes when the first step and each epoch ended, peak memory and processor time to `out`/clock.json.
"""

import functools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPERATURE, WIDTH = 0.2, 128
JITTER = (0.8, 0.8, 0.8, 0.2)  # brightness, contrast, saturation, hue; of all contenders
Job = dict[str, Any]


class Clock:
    """Seconds since the process was started, at the end of the first step and of each epoch."""

    def __init__(self, job: Job) -> None:
        self.job, self.first, self.epochs = job, None, list[float]()

    def now(self) -> float:
        """Seconds since the process was started; what was queued on the GPU is done."""
        if self.job["device"] == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.time() - self.job["started"]

    def step(self) -> None:
        """Call after every step."""
        if self.first is None:
            self.first = self.now()

    def epoch(self) -> None:
        """Call after every epoch."""
        self.epochs.append(self.now())

    def write(self) -> None:
        """Write the times, processor time and peak memory."""
        mine, children = (
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        # ru_maxrss of a process that was started by a larger one is the larger one's.
        status = Path("/proc/self/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0])  # kB
        found = {
            "first_step": self.first,
            "epochs": self.epochs,
            "processor": sum((*mine[:2], *children[:2])),
            "peak_mb": max(peak, children.ru_maxrss) * 1024 / 1e6,
        }
        (Path(self.job["out"]) / "clock.json").write_text(json.dumps(found))


def watch_lightning(clock: Clock) -> None:
    """Add the clock to every trainer that this process builds."""
    import pytorch_lightning as pl

    class Watch(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            clock.step()

        def on_train_epoch_end(self, *_: Any) -> None:
            clock.epoch()

    plain = pl.Trainer.__init__

    @functools.wraps(plain)  # its signature is what the command line offers
    def init(self: Any, *args: Any, **options: Any) -> None:
        callbacks = options.pop("callbacks", None) or []
        several = callbacks if isinstance(callbacks, list) else [callbacks]
        plain(self, *args, **options, callbacks=[*several, Watch()])

    pl.Trainer.__init__ = init  # type: ignore[method-assign]


def ours(job: Job, clock: Clock, method: str = "simclr", storage: str = "auto") -> None:
    """The command line, as a user types it, with the chain that all contenders have."""
    from bcl.cli import main
    from bcl.core.machine import own_process

    own_process()  # as the command does
    watch_lightning(clock)
    chain = {"scale": [0.08, 1.0], "color_jitter": list(JITTER), "blur_probability": 0.5}
    options = {
        "--data.root": job["root"],
        "--model.encoder": job["encoder"],
        "--model.encoder.args": json.dumps({"small_stem": False} if job["resnet"] else {}),
        "--model.views.chain": json.dumps(chain),
        "--size": job["size"],
        "--data.batch_size": job["batch"],
        "--data.workers": job["workers"],
        "--data.storage": storage,
        "--data.cache_dir": f"{job['out']}/cache",
        "--trainer.max_epochs": job["epochs"],
        "--trainer.precision": job["precision"],
        "--trainer.accelerator": "gpu" if job["device"] == "cuda" else "cpu",
        "--trainer.default_root_dir": f"{job['out']}/run",
    }
    words = [str(word) for pair in options.items() for word in pair]
    if status := main(["fit", "--config", f"images/{method}", *words]):
        raise SystemExit(status)


def lightly_train(job: Job, clock: Clock) -> None:
    """LightlyTrain's command for SimCLR."""
    import lightly_train as library

    watch_lightning(clock)
    library.pretrain(
        out=f"{job['out']}/run",
        data=job["root"],
        model=f"timm/{job['encoder']}",  # without weights
        method="simclr",
        method_args={
            "hidden_dim": job["features"],
            "output_dim": WIDTH,
            "temperature": TEMPERATURE,
        },
        epochs=job["epochs"],
        batch_size=job["batch"],
        num_workers=job["workers"],
        precision=job["precision"],
        accelerator="gpu" if job["device"] == "cuda" else "cpu",
        transform_args={"image_size": (job["size"], job["size"])},
    )


def lightly(job: Job, clock: Clock) -> None:
    """Lightly's transform, head and loss in a Lightning module, as its examples have it."""
    import pytorch_lightning as pl
    import timm
    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms.simclr_transform import SimCLRTransform
    from torchvision.datasets import ImageFolder

    class SimCLR(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = timm.create_model(job["encoder"], num_classes=0)
            self.head = SimCLRProjectionHead(job["features"], job["features"], WIDTH)
            self.loss = NTXentLoss(TEMPERATURE)

        def training_step(self, batch: Any, _: int) -> Any:
            first, second = batch[0]
            return self.loss(self.head(self.encoder(first)), self.head(self.encoder(second)))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    watch_lightning(clock)
    dataset = ImageFolder(job["root"], SimCLRTransform(input_size=job["size"]))
    loader = torch.utils.data.DataLoader(
        dataset, job["batch"], shuffle=True, drop_last=True, num_workers=job["workers"],
        persistent_workers=job["workers"] > 0,
    )  # fmt: skip
    trainer = pl.Trainer(
        max_epochs=job["epochs"],
        precision=job["precision"],
        accelerator="gpu" if job["device"] == "cuda" else "cpu",
        devices=1,
        default_root_dir=job["out"],
    )
    trainer.fit(SimCLR(), loader)


def _network(job: Job) -> Any:
    import timm
    from torch import nn

    encoder = timm.create_model(job["encoder"], num_classes=0)
    width = job["features"]
    head = [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, WIDTH)]
    return nn.Sequential(encoder, *head).to(job["device"])


def plain(job: Job, clock: Clock) -> None:
    """Transforms of torchvision, a DataLoader and SimCLR's formula: what one writes oneself."""
    import torch
    from torch.nn.functional import cross_entropy, normalize
    from torchvision import transforms as t
    from torchvision.datasets import ImageFolder

    size = job["size"]
    chain = t.Compose([
        t.RandomResizedCrop(size), t.RandomHorizontalFlip(),
        t.RandomApply([t.ColorJitter(*JITTER)], 0.8), t.RandomGrayscale(0.2),
        t.RandomApply([t.GaussianBlur(size // 10 | 1)], 0.5), t.ToTensor(),
        t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    dataset = ImageFolder(job["root"], lambda image: (chain(image), chain(image)))
    loader = torch.utils.data.DataLoader(
        dataset, job["batch"], shuffle=True, drop_last=True, num_workers=job["workers"],
        persistent_workers=job["workers"] > 0, pin_memory=job["device"] == "cuda",
    )  # fmt: skip
    network = _network(job)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    reduced = job["precision"] == "bf16-mixed"
    for _ in range(job["epochs"]):
        for (first, second), _ in loader:
            views = torch.cat([first, second]).to(job["device"], non_blocking=True)
            with torch.autocast(job["device"], torch.bfloat16, enabled=reduced):
                z = normalize(network(views).float(), dim=1)  # (2B, D)
            logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
            partner = torch.arange(len(z), device=z.device).roll(len(first))
            cross_entropy(logits, partner).backward()
            optimizer.step()
            optimizer.zero_grad()
            clock.step()
        clock.epoch()


def bare(job: Job, clock: Clock) -> None:
    """Steps of the network alone, on one batch of noise that is there already: the limit.

    Memory is kept and laid out as in `ours`.
    """
    import torch

    from bcl.core.machine import keep_freed_memory

    keep_freed_memory()
    layout = torch.channels_last
    network = _network(job).to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    views = torch.rand(2 * job["batch"], 3, job["size"], job["size"], device=job["device"])
    views = views.contiguous(memory_format=layout)
    reduced = job["precision"] == "bf16-mixed"
    for _ in range(job["epochs"]):
        for _ in range(job["images"] // job["batch"]):
            with torch.autocast(job["device"], torch.bfloat16, enabled=reduced):
                loss = network(views).float().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            clock.step()
        clock.epoch()


CONTENDERS: dict[str, Callable[[Job, Clock], None]] = {
    "ours": ours,
    "ours-bcl-i": lambda job, clock: ours(job, clock, "bcl_i"),
    "ours-files": lambda job, clock: ours(job, clock, storage="files"),
    "lightly-train": lightly_train,
    "lightly": lightly,
    "plain": plain,
    "bare": bare,
}

if __name__ == "__main__":
    job = {"started": float(os.environ["STARTED"]), **json.loads(sys.argv[2])}
    clock = Clock(job)
    CONTENDERS[sys.argv[1]](job, clock)
    clock.write()
