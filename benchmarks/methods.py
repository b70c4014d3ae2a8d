"""Time and memory of a training step of every named method, beside SimCLR's.

    python benchmarks/methods.py --encoder resnet8 --batch 256
    python benchmarks/methods.py --only simclr gh rwsam

Each method trains in `bcl.training`'s trainer on random images in memory, past the epoch from which
all its parts work, with one encoder, batch and number of views of SimCLR's chain (two; CACR's
configurations keep theirs). Methods take turns; a round has the median step of each, measured from
the start of a step to that of the next. Memory is that of the step beyond what the method holds: on
a GPU the peak that PyTorch allocated; on a CPU the largest growth of the process in a step, in a
process of its own. Selections of images, and what is measured between epochs, are not part of a
step; epochs with external images have more steps.
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import results
import torch
from losses import status_kb

from bcl.cli.configuration import compose, merge, parts
from bcl.core.instantiate import instantiate

SAME = {"bcl_i_neighbors"}  # as bcl_i: its signal is measured between epochs
EPOCHS = 2  # GH harmonizes and TS swings from the first on


def config(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """A method's model with the encoder, size and batch of all."""
    shared = {
        "encoder": {"name": args.encoder},
        "channels_last": args.channels_last,
        "views": {"init_args": {"size": args.size}},
        "schedule": {"warmup_epochs": 0},
        "num_samples": args.samples,
    }
    model = merge(compose(f"image_folder/{name}")["model"], {"init_args": shared})
    loss: dict[str, Any] = model["init_args"].get("loss", {})
    if loss.get("class_path") == "bcl.GeometricHarmonization":
        loss["init_args"] |= {"start": 0, "ramp": 0}
    if sharpness := model["init_args"].get("optimizer", {}).get("sharpness"):
        # A signal of the steps: that of rwSAM's configuration is measured between epochs.
        sharpness["signal"] = "loss"
        model["init_args"]["memory"] = {}
    return model


class Images(pl.LightningDataModule):
    """Random images on the device; where a method has external ones, as many of them."""

    def __init__(self, args: argparse.Namespace, external: bool) -> None:
        super().__init__()
        self.args, self.external_half, self.num_samples = args, external, args.samples

    def train_dataloader(self) -> Any:
        """An epoch of the same batches."""
        shape = (self.args.batch, 3, self.args.size, self.args.size)
        found = []
        for step in range(self.args.steps + self.args.warmup):
            generator = torch.Generator().manual_seed(step)
            images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
            ids = torch.randperm(self.args.samples, generator=generator)[: self.args.batch]
            if self.external_half:
                ids[1::2] = -1
            places = torch.where(ids < 0, torch.arange(self.args.batch), -1)
            batch = {"image": images, "id": ids, "external": places}
            found.append({key: value.to(self.args.device) for key, value in batch.items()})
        return torch.utils.data.DataLoader(found, batch_size=None)  # type: ignore[arg-type]


class Clock(pl.Callback):
    """Seconds and bytes of the steps of the last epoch."""

    def __init__(self, device: torch.device, warmup: int) -> None:
        self.device, self.warmup = device, warmup
        self.starts: list[float] = []
        self.peak = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note the time."""
        if trainer.current_epoch + 1 == EPOCHS:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
                if len(self.starts) == self.warmup:
                    torch.cuda.reset_peak_memory_stats()
                    self.held = torch.cuda.memory_allocated()
            self.starts.append(time.perf_counter())

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note the peak."""
        if self.device.type == "cuda" and trainer.current_epoch + 1 == EPOCHS:
            self.peak = (torch.cuda.max_memory_allocated() - self.held) / 1e6

    @property
    def step(self) -> float:
        """Median milliseconds of a step."""
        steps = [b - a for a, b in zip(self.starts, self.starts[1:], strict=False)]
        return 1e3 * statistics.median(steps[self.warmup :])


def train(name: str, args: argparse.Namespace) -> Clock:
    """Two short epochs of a method; the second is timed."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.manual_seed(0)
    method = instantiate(config(name, args))
    rule = compose(f"image_folder/{name}")["data"]["init_args"].get("selection", {}).get("rule")
    device = torch.device(args.device)
    clock = Clock(device, args.warmup)
    precision: Any = {"fp32": "32-true", "bf16": "bf16-mixed"}[args.precision]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=EPOCHS, accelerator="gpu" if device.type == "cuda" else "cpu", devices=1,
            precision=precision, logger=False, enable_checkpointing=False, callbacks=[clock],
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(method, datamodule=Images(args, rule not in (None, "balanced")))
    return clock


def memory(name: str, args: argparse.Namespace) -> float:
    """Megabytes that a method's steps need at their peak."""
    if args.device.startswith("cuda"):
        return train(name, args).peak
    command = [sys.executable, __file__, "--memory-of", name]
    for option in ("encoder", "size", "batch", "samples", "precision", "device"):
        command += [f"--{option}", str(getattr(args, option))]
    command += ["--warmup", "0", "--steps", "2"]
    command += ["--channels-last"] if args.channels_last else []
    # Every tensor in its own pages, so that freed memory does not hide the next peak.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    return float(subprocess.check_output(command, text=True, env=environment).split()[-1])


def own_memory(name: str, args: argparse.Namespace) -> float:
    """The growth of this process by training, in megabytes."""
    train(name, argparse.Namespace(**{**vars(args), "batch": 8}))  # loads what is loaded once
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status_kb("VmRSS")
    train(name, args)
    return max(0.0, (status_kb("VmHWM") - before) * 1024 / 1e6)


def names(only: list[str] | None) -> Iterator[str]:
    """SimCLR, and the others in their order."""
    yield "simclr"
    others = (name for name in parts("methods") if name not in {"simclr", *SAME})
    yield from (name for name in others if not only or name in only)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="resnet8")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--samples", type=int, default=10_000, help="samples that are tracked")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--warmup", type=int, default=2, help="steps that are not timed")
    parser.add_argument("--steps", type=int, default=8, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's choice)")
    parser.add_argument("--only", nargs="+", choices=[*parts("methods")], help="beside SimCLR")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    results.add_json_option(parser)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_of:
        print(own_memory(args.memory_of, args))
        return 0
    methods = [*names(args.only)]
    values: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(args.rounds):
        for name in methods:
            values[name].append(train(name, args).step)
            print(f"round {number + 1}: {name} {values[name][-1]:.1f} ms", flush=True)
    extra = {} if args.no_memory else {n: f"{memory(n, args):.0f} MB" for n in methods}
    precision = f"{args.precision}, channels last" if args.channels_last else args.precision
    where = ", GPU" if args.device.startswith("cuda") else ""
    case = (
        f"training step of every method, {args.encoder}, {args.batch} images of {args.size} px, "
        f"{precision}{where}"
    )
    rows = results.compare(case, "ms", values, ours="simclr", extra=extra)
    for row in rows:
        ratio = f" ({row['ratio']:.2f} x SimCLR)" if "ratio" in row else ""
        print(f"{row['contender']}: {row['median']:.1f} ms{ratio} {row.get('extra', '')}")
    if args.json:
        options = {name: value for name, value in vars(args).items() if name != "json"}
        results.save(args.json, "methods", rows, options=options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
