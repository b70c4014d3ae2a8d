"""Signals of the tail that need the features of all images, measured between epochs."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from bcl.core.distributed import rank, world_size
from bcl.core.errors import InputError
from bcl.core.progress import say
from bcl.evaluation.density import check_neighbors, feature_signals
from bcl.evaluation.features import extract_features
from bcl.evaluation.unlabeled import resized
from bcl.memorization.signals import PROJECTED, neighbors_of
from bcl.memorization.tracker import update_together
from bcl.training.measurement import Measurement, undisturbed


class FeatureSignals(Measurement):
    """Give the memory the signals of features that its settings name; without those, do nothing.

    After the first epoch, every ``memory.every_n_epochs`` and after the last, all training images
    are encoded in evaluation mode and without augmentation, and the distances between them become
    the values of the trackers (`bcl.evaluation.feature_signals`), before the scores are refreshed.
    Between measurements the values stay. Ranks share the images and the rows. The first
    measurement prints how long it took beside the epoch; the record has the sums.

    Args:
        batch_size: images encoded at a time.

    Example:
        >>> FeatureSignals().batch_size
        512
    """

    measures_signals = True

    def __init__(self, batch_size: int = 512) -> None:
        self.batch_size = batch_size
        self.every_n_epochs = 1
        self._names: tuple[str, ...] = ()
        self._begin = 0.0
        self._took = {"measurements": 0, "seconds": 0.0, "epoch_seconds": 0.0}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """See which signals there are to measure, and whether the images suffice."""
        settings: Any = getattr(pl_module, "memory", None)
        self._names = getattr(settings, "of_features", ())
        if not self._names:
            return
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "train_set"):
            raise InputError(
                f"{', '.join(self._names)} need a datamodule with train_set, not "
                f"{type(data).__name__}; leave them out of memory.signal and memory.watch."
            )
        self.every_n_epochs = settings.every_n_epochs
        check_neighbors(max(map(neighbors_of, self._names)), data.num_samples)

    def state_dict(self) -> dict[str, Any]:
        """What the measurements took so far."""
        return dict(self._took) if self._names else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from an interrupted run."""
        self._took |= state_dict

    def is_due(self, trainer: pl.Trainer) -> bool:
        """Whether this epoch is measured; the first is, too."""
        return bool(self._names) and (trainer.current_epoch == 0 or super().is_due(trainer))

    def on_train_start(self, *_: Any) -> None:
        """Start the clock, also where a resume continues within an epoch."""
        self._begin = time.perf_counter()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock of the epoch."""
        self._begin = time.perf_counter()

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Fill the trackers; all ranks must call it."""
        begin, method = time.perf_counter(), pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        ids = torch.arange(rank(), data.num_samples, world_size())
        found = self._signals(trainer, method, ids)
        trackers: Any = method.trackers
        values = torch.stack([found[name] for name in self._names])
        update_together([trackers[name] for name in self._names], ids, values)
        self._tell(trainer, time.perf_counter() - begin, begin - self._begin)
        return {}

    def _signals(self, trainer: pl.Trainer, method: Any, ids: Tensor) -> dict[str, Tensor]:
        """(n,) signals of the ids by name."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]

        def embed(images: Tensor) -> Tensor:
            with trainer.precision_plugin.val_step_context():
                features, projections = method.embed(images)
            return torch.cat([features.float(), projections.float()], 1)

        with undisturbed(trainer, method):
            both = extract_features(
                resized(embed, method.views.size),
                data.train_set(),
                batch_size=self.batch_size,
                device=trainer.strategy.root_device,
            )
        width, found = method.encoder.num_features, dict[str, Tensor]()
        both = both.to(trainer.strategy.root_device)
        for start, rows in (("", both[:, :width]), (PROJECTED, both[:, width:])):
            names = [name for name in self._names if name.startswith(PROJECTED) == bool(start)]
            plain = tuple(name.removeprefix(PROJECTED) for name in names)
            values = feature_signals(rows, plain, ids=ids) if plain else {}
            found |= {start + name: value for name, value in values.items()}
        return found

    def _tell(self, trainer: pl.Trainer, seconds: float, epoch: float) -> None:
        """Say once what a measurement takes beside its epoch; the record has the sums."""
        self._took["measurements"] += 1
        self._took["seconds"] += seconds
        self._took["epoch_seconds"] += epoch
        for recorder in self.recorders(trainer):
            recorder.record["feature_signals"] = dict(self._took)
        if self._took["measurements"] == 1 and trainer.is_global_zero:
            say(
                f"note: {', '.join(self._names)} took {seconds:.1f} s after an epoch of "
                f"{epoch:.1f} s; they are measured every {self.every_n_epochs} epochs"
            )
