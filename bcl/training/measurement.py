"""Measurements beside a running pretraining: when, and where their values go."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from bcl.training.checkpoints import is_cut, is_last_epoch
from bcl.training.record import RunRecorder


class Measurement(Callback):
    """Measure every n epochs and after the last; a subclass says what.

    Values are logged, and added to the history of the recorders before it among the callbacks.
    """

    every_n_epochs: int

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Compute the values by name, equal on every rank; all ranks must call it."""
        raise NotImplementedError

    def is_due(self, trainer: pl.Trainer) -> bool:
        """Whether this epoch is measured."""
        return (trainer.current_epoch + 1) % self.every_n_epochs == 0 or is_last_epoch(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure where it is due; an epoch that was cut is measured when a resume has ended it."""
        if not self.is_due(trainer) or is_cut(trainer):
            return
        values = self.measure(trainer, pl_module)
        for recorder in self.recorders(trainer):
            recorder.record["history"][-1].update(values)
        pl_module.log_dict(values)

    def recorders(self, trainer: pl.Trainer) -> list[RunRecorder]:
        """The recorders among the callbacks before this one, which have made the epoch's row."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        before = callbacks[: callbacks.index(self)]
        return [callback for callback in before if isinstance(callback, RunRecorder)]


@contextmanager
def undisturbed(
    trainer: pl.Trainer, pl_module: pl.LightningModule
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield the method's ``encode`` in the run's precision; torch's generators are put back."""
    method: Any = pl_module
    device = trainer.strategy.root_device

    def encode(images: Tensor) -> Tensor:
        with trainer.precision_plugin.val_step_context():
            features: Tensor = method.encode(images)
        return features

    # Loaders draw random numbers to start their workers.
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        yield encode
