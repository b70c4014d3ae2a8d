"""Progress of a run outside a terminal, where Lightning's bar would fill the log."""

import time

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from bcl.training.checkpoints import is_last_epoch
from bcl.training.record import RunRecorder


class PlainProgress(Callback):
    """Print one line per epoch, and none within ``seconds`` of the last."""

    def __init__(self, recorder: RunRecorder, seconds: float = 10.0) -> None:
        self.recorder = recorder
        self.seconds = seconds
        self._last = float("-inf")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch and its loss."""
        now = time.monotonic()
        if now - self._last < self.seconds and not is_last_epoch(trainer):
            return
        self._last = now
        row = self.recorder.row()
        if row is not None and trainer.is_global_zero:
            place = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            print(f"{self.recorder.record['name']}: {place}  loss {row['loss']:.4f}", flush=True)
