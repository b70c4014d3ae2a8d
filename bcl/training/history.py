"""The tracker's history, written while a run is running."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from bcl.core.checks import check_count
from bcl.memorization.history import forget_epochs, write_epoch
from bcl.memorization.tracker import trackers_of
from bcl.training.checkpoints import is_cut, is_last_epoch


class HistoryWriter(Callback):
    """Write what the memory holds of all samples to disk every n epochs.

    Rank 0 writes one file per epoch, 8 bytes per sample, for the signal that steers, and others in
    folders named after the signals that are watched, before the epoch's checkpoint; so a resumed
    run has the files of an uninterrupted one. Read them with `bcl.TrackerHistory`.

    Args:
        folder: where the files go.
        every_n_epochs: epochs between files; the last epoch always has one.
        keep: keep the files of the epochs before a resumed checkpoint.

    Example:
        >>> import tempfile
        >>> from bcl import SimCLR, TrackerHistory
        >>> from datamodules import DigitsLT
        >>> writer = HistoryWriter(tempfile.mkdtemp(), every_n_epochs=2)
        >>> settings = {"accelerator": "cpu", "barebones": True, "callbacks": [writer]}
        >>> method = SimCLR("resnet8", views=16)
        >>> pl.Trainer(**settings, max_epochs=3).fit(method, DigitsLT())
        >>> TrackerHistory(writer.folder).epochs  # the last is always written
        [1, 2]
    """

    def __init__(self, folder: str | Path, every_n_epochs: int = 1, keep: bool = True) -> None:
        check_count("every_n_epochs of the tracker's history", every_n_epochs)
        self.folder = Path(folder)
        self.every_n_epochs = every_n_epochs
        self.keep = keep

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove what a replaced run, or a run killed after its checkpoint, left behind."""
        if trainer.is_global_zero:
            forget_epochs(self.folder, trainer.current_epoch if self.keep else 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch."""
        trackers = trackers_of(pl_module)
        if not trackers or not trainer.is_global_zero or is_cut(trainer):
            return
        done = trainer.current_epoch + 1
        if done % self.every_n_epochs == 0 or is_last_epoch(trainer):
            steering, *_ = trackers
            for signal, tracker in trackers.items():
                folder = self.folder if signal == steering else self.folder / signal
                write_epoch(folder, trainer.current_epoch, tracker)
