"""Callbacks of a recorded run: its record in every checkpoint, progress in plain lines."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, TQDMProgressBar

from bcl.core.errors import InputError
from bcl.core.files import write_text
from bcl.training.checkpoints import FORMAT, KEY
from bcl.training.saving import Checkpoints, TorchRandomState, is_last_epoch


class RunRecorder(Callback):
    """Keep the record of a run (configuration, versions, history, wall time) in its checkpoints.

    ``notes`` are the datamodule's: every image that was left out as unreadable by its name, and
    what else it has to tell. Records of earlier versions have none.

    Args:
        record: what is known before the run: name, method, seed, config, commit, versions,
            hardware.
        folder: where ``run.json`` is written at the end.
    """

    def __init__(self, record: dict[str, Any], folder: str | Path) -> None:
        self.record = {**record, "epochs": 0, "wall_seconds": 0.0, "history": []}
        self.folder = Path(folder)
        self._before = 0.0
        self._start = time.monotonic()
        # Sum and number of the running epoch's losses; on the device, read once an epoch.
        self._sum: Any = 0.0
        self._count = 0
        self._notes: dict[str, float] = {}  # of the running epoch, until its row is made

    @staticmethod
    def note(trainer: pl.Trainer, values: dict[str, float]) -> None:
        """Add values to the running epoch's row of the history, if the run has a record.

        Args:
            trainer: of the run; call it on every rank, at the end of the epoch.
            values: plain numbers by name.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if not isinstance(callback, RunRecorder):
                continue
            history = callback.record["history"]
            if history and history[-1]["epoch"] == trainer.current_epoch:
                history[-1].update(values)
            else:
                callback._notes |= values

    @staticmethod
    def describe(trainer: pl.Trainer, key: str, text: str) -> None:
        """Say in the record, if there is one, how some of its numbers were made."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunRecorder):
                callback.record[key] = text

    @staticmethod
    def row(trainer: pl.Trainer) -> dict[str, Any] | None:
        """Find the newest row of the run's history, if it has a record."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunRecorder) and callback.record["history"]:
                newest: dict[str, Any] = callback.record["history"][-1]
                return newest
        return None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; name the data, and what it left out."""
        self.record.update(_data(trainer))
        self.record["notes"] = _notes(trainer)
        self._before = self.record["wall_seconds"]
        self._start = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Add the step's loss to the epoch's."""
        self._sum = self._sum + outputs["loss"].detach().float()
        self._count += 1

    def _running(self, trainer: pl.Trainer) -> dict[str, float]:
        """Sum over the ranks' mean of the losses so far, and their number."""
        total = torch.as_tensor(self._sum, device=trainer.strategy.root_device)
        return {"sum": float(trainer.strategy.reduce(total)), "count": self._count}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch to the history; the scores are those that steered it."""
        epoch = trainer.current_epoch
        running = self._running(trainer)
        self._sum, self._count = 0.0, 0
        row: dict[str, Any] = {"epoch": epoch, "loss": running["sum"] / max(running["count"], 1)}
        if trainer.optimizers:
            row["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        tracker: Any = getattr(pl_module, "tracker", None)
        if tracker is not None:
            row["score_mean"] = float(tracker.scores.mean())
            # On a device histc is refused under torch.use_deterministic_algorithms.
            row["score_histogram"] = torch.histc(tracker.scores.cpu(), 20, 0, 1).int().tolist()
        row |= self._notes
        self._notes = {}
        history = [old for old in self.record["history"] if old["epoch"] < epoch]
        self.record["history"] = [*history, row]
        self.record["epochs"] = epoch + 1
        self.record["wall_seconds"] = self._before + time.monotonic() - self._start

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the record into the checkpoint."""
        self.record["wall_seconds"] = self._before + time.monotonic() - self._start
        record = {**self.record, "history": list(self.record["history"])}
        checkpoint[KEY] = {"format": FORMAT, "record": record, "running": self._running(trainer)}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Continue the history and the clock of an interrupted run.

        Raises:
            InputError: the run had another seed or other training images, whose ids the tracker
                would take for the same.
        """
        saved = checkpoint[KEY]["record"]
        own = {**self.record, **_data(trainer)}
        for key, what in (
            ("seed", "seed"),
            ("content_hash", "training set (content hash)"),
            ("images_hash", "encoding of the training images (hash of their bytes)"),
        ):
            old, new = saved.get(key), own.get(key)
            if old is not None and new is not None and old != new:
                raise InputError(
                    f"the checkpoint's run had another {what}, {old}, than this one, {new}; resume "
                    "it as it was started, or start a new run in another folder."
                )
        for key in ("history", "wall_seconds", "epochs"):
            self.record[key] = saved[key]
        running = checkpoint[KEY]["running"]
        self._sum, self._count = running["sum"], running["count"]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``run.json``."""
        if trainer.is_global_zero:
            text = json.dumps(self.record, indent=2, default=str)
            write_text(self.folder / "run.json", text + "\n")


def _data(trainer: pl.Trainer) -> dict[str, str]:
    """Recipe and content hash of the training set, where the datamodule knows them."""
    data: Any = getattr(trainer, "datamodule", None)
    found = {key: getattr(data, key, None) for key in ("recipe", "content_hash", "images_hash")}
    return {key: str(value) for key, value in found.items() if value is not None}


def _notes(trainer: pl.Trainer) -> list[str]:
    """What the datamodule has to tell, such as the images that were left out."""
    notes = getattr(getattr(trainer, "datamodule", None), "notes", None)
    return [str(note) for note in notes] if isinstance(notes, list | tuple) else []


class DataNotes(Callback):
    """Print what the datamodule has to tell, such as images that were left out, before training.

    Args:
        most: notes that are printed; all of them are in the run's record.
    """

    def __init__(self, most: int = 20) -> None:
        self.most = most

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the notes, once for all ranks."""
        notes = _notes(trainer)
        if not trainer.is_global_zero:
            return
        for note in notes[: self.most]:
            print(f"note: {note}", flush=True)
        if len(notes) > self.most:
            print(
                f"note: and {len(notes) - self.most:,} more, in the run's run.json and checkpoints",
                flush=True,
            )


def epoch_loss(trainer: pl.Trainer) -> float | None:
    """Mean loss of the epoch over all ranks, out of the record: rank 0 may ask for it alone."""
    row = RunRecorder.row(trainer)
    return None if row is None else float(row["loss"])


class PlainProgress(Callback):
    """One line per epoch, at most one in ``seconds``, where there is no terminal to draw a bar.

    Args:
        name: what runs, at the start of each line.
        seconds: the least time between two lines.
    """

    def __init__(self, name: str, seconds: float = 10.0) -> None:
        self.name = name
        self.seconds = seconds
        self._last = 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch and its loss."""
        now = time.monotonic()
        done = trainer.current_epoch + 1
        if not trainer.is_global_zero:
            return
        if now - self._last < self.seconds and not is_last_epoch(trainer):
            return
        self._last = now
        loss = epoch_loss(trainer)
        shown = "" if loss is None else f"  loss {loss:.4f}"
        print(f"{self.name}: epoch {done}/{trainer.max_epochs}{shown}", flush=True)


class EpochBar(TQDMProgressBar):
    """One bar over the epochs of a short run, where a bar per epoch would flicker.

    Args:
        name: what runs, before the bar.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._bar: Any = None

    def on_train_start(self, *_: Any) -> None:
        """Draw the bar."""
        from tqdm import tqdm

        epochs = self.trainer.max_epochs
        self._bar = tqdm(
            total=epochs, initial=self.trainer.current_epoch, desc=self.name, unit="epoch"
        )

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Draw no bar of the epoch's own."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Keep the terminal quiet within an epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Advance by one epoch."""
        loss = epoch_loss(trainer)
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self._bar.update()

    def on_train_end(self, *_: Any) -> None:
        """Leave the finished bar on the screen."""
        self._bar.close()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Close the bar of an interrupted run."""
        if self._bar is not None:
            self._bar.close()


def in_terminal() -> bool:
    """Whether a bar can be drawn: standard error, where bars go, is a terminal."""
    return sys.stderr.isatty()


def run_callbacks(
    record: dict[str, Any],
    folder: str | Path,
    progress: bool = True,
    short: bool = False,
    **intervals: Any,
) -> list[Callback]:
    """What every recorded run needs: recorder, checkpoints, progress.

    Args:
        record: see `RunRecorder`.
        folder: the run's folder; checkpoints go to ``checkpoints/last.ckpt`` below it.
        progress: whether to show any.
        short: whether the epochs are so short that one bar over all of them is better.
        intervals: those of `bcl.training.saving.Checkpoints`.

    Returns:
        Callbacks for ``Trainer(callbacks=…)``. Without a terminal there is no bar but a plain line
        now and then, and the trainer needs ``enable_progress_bar=False``.
    """
    checkpoints = Checkpoints(Path(folder) / "checkpoints", **intervals)
    callbacks: list[Callback] = [RunRecorder(record, folder), TorchRandomState(), checkpoints]
    name = record["name"]
    if progress and not in_terminal():
        callbacks.append(PlainProgress(name))
    elif progress:
        callbacks.append(EpochBar(name) if short else TQDMProgressBar())
    return callbacks
