"""What a run says of itself: what it trains on, how far it is."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from bcl.core.machine import device_text
from bcl.core.progress import Progress, rows
from bcl.models.encoders import describe
from bcl.training.record import RunRecorder


class RunProgress(Callback):
    """Say what a run does; then show epoch, loss, images per second and the time to its end.

    Args:
        recorder: the run's record, which knows the loss.
    """

    def __init__(self, recorder: RunRecorder) -> None:
        self.recorder = recorder
        self.progress = Progress(sys.stdout)
        self._batch = 0  # images of a step, over all ranks

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what the run is about to do."""
        self._batch = 0
        if trainer.is_global_zero:
            print(rows(about_run(trainer, pl_module, self.recorder.folder)), flush=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, _: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Show the mean loss of the epoch so far, on a terminal."""
        if not trainer.is_global_zero:
            return
        if not self._batch:
            rows_ = batch["id"] if isinstance(batch, Mapping) else batch
            self._batch = len(rows_) * trainer.world_size
            self.progress.begin(self._done(trainer, index))
        # A GPU has to wait only when a line is due; an epoch's end has its own.
        if self.progress.live and self.progress.due() and not trainer.is_last_batch:
            self._show(trainer, index, self.recorder.mean_loss())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch's loss; outside a terminal, unless the last line was seconds ago."""
        row, last = self.recorder.row(), int(trainer.num_training_batches) - 1
        over = self._done(trainer, last) >= self._total(trainer) or trainer.should_stop
        if row is not None and trainer.is_global_zero and (over or self.progress.due()):
            self._show(trainer, last, row["loss"])

    def _show(self, trainer: pl.Trainer, index: int, loss: float) -> None:
        text = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}  loss {loss:.4f}"
        name = self.recorder.record["name"]
        done, total = self._done(trainer, index), self._total(trainer)
        self.progress.show(f"{name}: {text}", done, total)

    def _done(self, trainer: pl.Trainer, index: int) -> int:
        """Images trained on when a batch of this epoch has ended."""
        return (trainer.current_epoch * int(trainer.num_training_batches) + index + 1) * self._batch

    def _total(self, trainer: pl.Trainer) -> int:
        """Images of the whole run, by epochs or by steps."""
        batches = int(trainer.num_training_batches) * (trainer.max_epochs or 0)
        if trainer.max_steps >= 0:
            batches = min(batches, trainer.max_steps * trainer.accumulate_grad_batches)
        return batches * self._batch


def about_images(data: Any) -> str | None:
    """The training images of a datamodule, and its classes, if it knows them."""
    images = getattr(data, "num_samples", None)
    if images is None:
        return None
    if not len(getattr(data, "class_names", ())):
        return f"{images:,} without labels"
    counts = data.class_counts.tolist()
    return f"{images:,} in {len(counts):,} classes of {max(counts):,} to {min(counts):,}"


def about_run(trainer: pl.Trainer, method: Any, folder: Path) -> dict[str, object]:
    """What a run is about to do, by name."""
    what = f"{type(method).__name__}, encoder {describe(getattr(method, 'encoder', method))}"
    size = max(getattr(getattr(method, "views", None), "size", (0,)))
    device = device_text(trainer.strategy.root_device, trainer.world_size)
    steps = f"{trainer.num_training_batches:,} per epoch"
    batch = getattr(trainer.train_dataloader, "batch_size", None)
    images = getattr(trainer.train_dataloader, "images", None)
    rest = images % batch if batch and images else 0
    each = f" of {batch:,} images" if batch else ""
    return {
        "images": about_images(getattr(trainer, "datamodule", None)),
        "method": what + (f", views of {size} px" if size else ""),
        "device": f"{device}, precision {trainer.precision}",
        "steps": steps + each + (f"; {rest:,} others left out, new ones in each" if rest else ""),
        "epochs": f"{trainer.current_epoch + 1:,} to {trainer.max_epochs:,}",
        "folder": folder,
    }
