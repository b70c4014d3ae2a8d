"""Which images the next epochs have, selected between epochs where the data asks for it."""

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from bcl.augment import ContrastiveViews
from bcl.core.errors import InputError
from bcl.core.random import permutation
from bcl.discovery.external import balanced_order, colt_selection, k_means, mak_selection
from bcl.evaluation.features import extract_features
from bcl.evaluation.unlabeled import resized
from bcl.losses import expected_loss
from bcl.losses.context import in_epochs
from bcl.training.measurement import Measurement, undisturbed

_STREAM = 0x5E1E


class Selection(Measurement):
    """Select the images of the next epochs by the rule that the datamodule's settings name.

    After ``selection.start`` epochs, and every ``selection.every`` from there, ranks share the
    images, encode them in evaluation mode, and rank 0 selects. Selections are saved; a resumed run
    goes on with the one that it had. Without settings it does nothing.

    Args:
        batch_size: images encoded at a time.

    Raises:
        InputError: a rule that needs what the method or the data lack.

    Example:
        >>> Selection().batch_size
        512
    """

    selects_images = True

    def __init__(self, batch_size: int = 512) -> None:
        self.batch_size = batch_size
        self.every_n_epochs = 1
        self._settings: Any = None  # of the datamodule
        # Rows of the external images, or the cluster of each training image.
        self.selected: Tensor | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """See whether there is something to select, and whether the method knows enough."""
        self._settings = getattr(getattr(trainer, "datamodule", None), "selection", None)
        memory: Any = getattr(pl_module, "memory", None)
        rule = getattr(self._settings, "rule", None)
        if rule == "colt" and "tailness" not in getattr(memory, "signals", ()):
            raise InputError(
                "selection.rule 'colt' needs the memory's tailness; add tailness to memory.watch, "
                "or train a configuration such as colt."
            )
        samples: int | None = getattr(getattr(trainer, "datamodule", None), "num_samples", None)
        clusters: int = 0 if rule in (None, "random") else self._settings.clusters
        if samples is not None and clusters > samples:
            raise InputError(
                f"selection.clusters is {clusters:,}, more than the {samples:,} training images; "
                f"set it to at most {samples}."
            )
        if rule is not None and self._start(trainer) >= (trainer.max_epochs or 0):
            raise InputError(
                f"selection.start={self._settings.start!r} lies beyond the {trainer.max_epochs} "
                "epochs of the run, so that nothing would be selected; set it lower."
            )

    def _start(self, trainer: pl.Trainer) -> int:
        """Epochs before the first selection."""
        start = self._settings.start
        return max(round(in_epochs("selection.start", start, trainer.max_epochs)), int(start > 0))

    def state_dict(self) -> dict[str, Any]:
        """The images selected."""
        return {} if self.selected is None else {"selected": self.selected}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the images selected."""
        self.selected = state_dict.get("selected")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand the selection to the loader, also where a resume continues within an epoch."""
        fresh = self.selected is None and trainer.current_epoch == 0
        if fresh and self._settings is not None and self._start(trainer) == 0:
            self.measure(trainer, pl_module)
        self._choose(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Hand the selection to the loader."""
        self._choose(trainer)

    def _choose(self, trainer: pl.Trainer) -> None:
        if self.selected is None:
            return
        loader: Any = trainer.train_dataloader
        samples = len(loader.dataset)
        ids = torch.arange(samples)
        if self._settings.rule == "balanced":
            ids = balanced_order(
                self.selected, samples, loader.seed, _STREAM, trainer.current_epoch
            )
        else:
            ids = torch.cat([ids, -1 - self.selected])
        loader.choose(ids)

    def is_due(self, trainer: pl.Trainer) -> bool:
        """Whether the epochs done are the start, or a whole number of intervals more."""
        if self._settings is None or trainer.current_epoch + 1 == trainer.max_epochs:
            return False
        since, every = trainer.current_epoch + 1 - self._start(trainer), self._settings.every
        return bool(since % every == 0 if since > 0 and every else since == 0)

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Select; all ranks must call it."""
        begin, first = time.perf_counter(), self.selected is None
        with undisturbed(trainer, pl_module):
            selected = self._select(trainer, pl_module)
        self.selected = trainer.strategy.broadcast(selected)
        took = {"epoch": trainer.current_epoch + 1, "seconds": time.perf_counter() - begin}
        if first and trainer.is_global_zero:
            print(f"note: the first selection of images took {took['seconds']:.1f} s", flush=True)
        for recorder in self.recorders(trainer):
            recorder.record.setdefault("selections", []).append(took)
        return {}

    def _select(self, trainer: pl.Trainer, method: Any) -> Tensor:
        settings, data = self._settings, trainer.datamodule  # type: ignore[attr-defined]
        seed = data.seed
        if settings.rule == "random":
            keys = seed, _STREAM, trainer.current_epoch
            return permutation(len(data.external), *keys)[: settings.budget].sort().values
        if settings.rule == "balanced":
            features = self._encode(trainer, method, data.train_set(), 0)
            rows = torch.nn.functional.normalize(features, dim=1)
            return k_means(rows, settings.clusters, seed).of
        which = 1 if settings.rule == "colt" else 0  # projections, features
        own, external = (
            self._encode(trainer, method, images, which)
            for images in (data.train_set(), data.external)
        )
        if settings.rule == "colt":
            tracker = method.trackers["tailness"]
            tailness = torch.where(tracker.seen, tracker.momentum_loss, torch.nan).cpu()
            return colt_selection(
                own, tailness, external, settings.budget, settings.clusters,
                settings.temperature, seed,
            )  # fmt: skip
        losses = self._losses(trainer, method, data.external)
        return mak_selection(
            own, external, losses, settings.budget, settings.clusters, settings.alpha, seed=seed
        )

    def _encode(self, trainer: pl.Trainer, method: Any, images: Any, which: int) -> Tensor:
        """Features (0) or projections (1) of all images, (N, D) on the CPU."""

        def encode(batch: Tensor) -> Tensor:
            with trainer.precision_plugin.val_step_context():
                found: Tensor = method.embed(batch)[which]
            return found

        device, size = trainer.strategy.root_device, method.views.size
        return extract_features(
            resized(encode, size), images, batch_size=self.batch_size, device=device
        )

    def _losses(self, trainer: pl.Trainer, method: Any, images: Any) -> Tensor:
        """(M,) expected losses, in random batches of one size; the first images fill the last."""
        view = ContrastiveViews(method.views.size, 1, method.views.chain, seed=method.views.seed)
        count = len(images)
        size = math.ceil(count / math.ceil(count / self.batch_size))
        order = permutation(count, method.views.seed, _STREAM)
        mixed = images.subset(torch.cat([order, order[: -count % size]]))
        precision = trainer.precision_plugin.val_step_context

        def encode(batch: Tensor) -> Tensor:
            places = torch.arange(len(batch), device=batch.device)  # which key the views
            with precision():
                views = [
                    method.embed(view(batch, ids=places, epoch=number)[0])[1]
                    for number in range(self._settings.passes)
                ]
            return expected_loss(torch.stack(views), gather=False)[:, None]

        found = extract_features(
            encode,
            mixed,
            batch_size=size,
            device=trainer.strategy.root_device,
        )
        losses = torch.empty(count)
        losses[order] = found[:count, 0]
        return losses
