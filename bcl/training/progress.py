"""Progress of a run: Lightning's bar in a terminal, plain lines elsewhere."""

import sys
import time

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar

from bcl.training.checkpoints import is_last_epoch
from bcl.training.record import RunRecorder


def progress_callback(recorder: RunRecorder, short: bool = False) -> Callback:
    """Choose how a run shows its progress; ``short`` epochs share one bar."""
    if not in_terminal():
        return PlainProgress(recorder)
    return EpochBar(recorder) if short else TQDMProgressBar()


def in_terminal() -> bool:
    """Whether a bar can be drawn: standard output, where Lightning draws it, is a terminal."""
    return sys.stdout.isatty()


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


class EpochBar(TQDMProgressBar):
    """One bar over the epochs of a short run, where a bar per epoch would flicker."""

    def __init__(self, recorder: RunRecorder) -> None:
        super().__init__()
        self.recorder = recorder

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar."""
        super().on_train_start(trainer, pl_module)
        bar = self.train_progress_bar
        bar.set_description(self.recorder.record["name"])
        bar.reset(total=trainer.max_epochs)
        bar.update(trainer.current_epoch)

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: object) -> None:
        """Keep the bar: it counts epochs."""

    def on_train_batch_end(self, *args: object) -> None:
        """Leave the terminal alone within an epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Advance by one epoch."""
        row = self.recorder.row()
        if row is not None:
            self.train_progress_bar.set_postfix_str(f"loss {row['loss']:.3f}", refresh=False)
        self.train_progress_bar.update()
