"""The record of a run: what made it, and what each epoch gave."""

import contextlib
import json
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only

from bcl.core import provenance
from bcl.core.errors import InputError, InputWarning
from bcl.core.files import write_text
from bcl.core.progress import say
from bcl.core.text import shown_lines
from bcl.models.encoders import encoder_spec
from bcl.training.changes import check_changes
from bcl.training.checkpoints import FORMAT, KEY

# What a resumed run must share with the one before: the memory knows samples by their ids alone.
_SAME = {
    "seed": "seed",
    "content_hash": "training set (content hash)",
    "images_hash": "encoding of the training images (hash of their bytes)",
    "external_hash": "collection of external images (hash of their bytes)",
}


def new_record(
    name: str, method: pl.LightningModule, seed: int, config: dict[str, Any]
) -> dict[str, Any]:
    """Start the record of a run, for `bcl.training.make_trainer`.

    Args:
        name: the run's name in reports.
        method: the method to train.
        seed: the run's seed.
        config: plain values that rebuild method and data (``model``, ``data``, ``trainer``).
    """
    return {
        "name": name,
        "method": type(method).__name__,
        "seed": seed,
        "config": config,
        "encoder": provenance.plain(encoder_spec(getattr(method, "encoder", method))),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
    }


class RunRecorder(Callback):
    """Keep the record of a run (configuration, versions, history, wall time) in its checkpoints.

    It also prints the encoder's notes, such as a replaced stem, and what a resumed run changes.

    Args:
        record: from `new_record`.
        folder: where ``run.json`` is written at the end.
        change: options of the configuration that may differ from those of the run resumed.
    """

    def __init__(
        self, record: dict[str, Any], folder: str | Path, change: Iterable[str] = ()
    ) -> None:
        self.record = {**record, "epochs": 0, "wall_seconds": 0.0, "history": []}
        self.change = tuple(change)
        self.folder = Path(folder)
        self._before = 0.0
        self._start = time.monotonic()
        self._sum: Any = 0.0  # of the epoch's losses, on the device; read once per epoch
        self._count = 0

    def row(self) -> dict[str, Any] | None:
        """The newest row of the history, if there is one."""
        history: list[dict[str, Any]] = self.record["history"]
        return history[-1] if history else None

    def mean_loss(self) -> float:
        """Mean of this rank's losses in the epoch so far."""
        return float(self._sum) / max(self._count, 1)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; name the data, list its images, and say what it left out."""
        self.record |= _data(trainer)
        data: Any = getattr(trainer, "datamodule", None)
        encoder = getattr(pl_module, "encoder", None)
        built = [*map(str, getattr(encoder, "notes", None) or [])]
        changed = [*map(_change_note, self.record.get("changes", []))]
        self.record["classes"] = len(getattr(data, "class_names", ()))
        found = map(str, getattr(data, "notes", None) or [])  # the data has said them itself
        before = self.record.get("notes", [])  # of the run resumed, told once
        self.record["notes"] = [*dict.fromkeys([*built, *found, *changed, *before])]
        if trainer.is_global_zero:
            for note in [*built, *changed]:
                say(f"note: {shown_lines(note)}")
            if hasattr(data, "write_names"):
                data.write_names(self.folder)
        self._before = self.record["wall_seconds"]
        self._start = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, _: Any, outputs: Any, *args: Any) -> None:
        """Add the step's loss to the epoch's."""
        self._sum = self._sum + outputs["loss"].detach().float()
        self._count += 1

    def _running(self, trainer: pl.Trainer) -> dict[str, float]:
        """Sum over the steps of the loss, averaged over the ranks, and the number of steps."""
        total = torch.as_tensor(self._sum, device=trainer.strategy.root_device)
        return {"sum": float(trainer.strategy.reduce(total)), "count": self._count}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch to the history; its scores are those that steered it."""
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
        history = [old for old in self.record["history"] if old["epoch"] < epoch]
        self.record["history"] = [*history, row]
        self.record["epochs"] = epoch + 1
        self.record["wall_seconds"] = self._before + time.monotonic() - self._start

    def on_save_checkpoint(self, trainer: pl.Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        """Put the record into the checkpoint."""
        self.record["wall_seconds"] = self._before + time.monotonic() - self._start
        record = {**self.record, "history": list(self.record["history"])}
        checkpoint[KEY] = {"format": FORMAT, "record": record, "running": self._running(trainer)}

    def on_load_checkpoint(self, trainer: pl.Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        """Continue the history and the clock; refuse what would be another run.

        The record keeps what was changed by name, with the step that came first after it.
        """
        saved, running = checkpoint[KEY]["record"], checkpoint[KEY]["running"]
        own = {**self.record, **_data(trainer)}
        for key, what in _SAME.items():
            old, new = saved.get(key), own.get(key)
            if old is not None and new is not None and old != new:
                raise InputError(
                    f"the checkpoint's run had another {what}, {old}, than this one, {new}; resume "
                    "it as it was started, or start a new run in another folder."
                )
        found = check_changes(saved.get("config", {}), own.get("config", {}), self.change)
        step = {"epoch": checkpoint["epoch"], "step": checkpoint["global_step"]}
        noted = [step | change._asdict() for change in found]
        self.record |= {key: saved[key] for key in ("history", "wall_seconds", "epochs")}
        self.record["notes"] = saved.get("notes", [])
        if saved.get("changes") or noted:
            self.record["changes"] = [*saved.get("changes", []), *noted]
        self._sum, self._count = running["sum"], running["count"]

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Write ``run.json``."""
        write_record(self.record, self.folder)


@contextlib.contextmanager
def warnings_noted(trainer: pl.Trainer) -> Iterator[None]:
    """Make warnings about input, for a while, notes of the run."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        others = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, InputWarning):
                add_note(trainer, str(message))
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield


def add_note(trainer: pl.Trainer, note: str) -> None:
    """Keep a note in the run's record, if it has one, and say it."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for each in callbacks:
        if isinstance(each, RunRecorder):
            notes = each.record.get("notes", [])
            each.record["notes"] = [*dict.fromkeys([*notes, note])]
    if trainer.is_global_zero:
        say(f"note: {note}")


@rank_zero_only
def write_record(record: dict[str, Any], folder: Path) -> None:
    """Write ``run.json``."""
    write_text(folder / "run.json", json.dumps(record, indent=2, default=str) + "\n")


def run_record(trainer: Any) -> dict[str, Any]:
    """The record that a trainer of `bcl.training.make_trainer` has kept."""
    return next(each for each in trainer.callbacks if isinstance(each, RunRecorder)).record


def _data(trainer: pl.Trainer) -> dict[str, str]:
    """Recipe and content hash of the training set, where the datamodule knows them."""
    data: Any = getattr(trainer, "datamodule", None)
    found = {key: getattr(data, key, None) for key in ("recipe", *_SAME) if key != "seed"}
    return {key: str(value) for key, value in found.items() if value is not None}


def _change_note(change: dict[str, Any]) -> str:
    return (
        f"changed at step {change['step']} (epoch {change['epoch']}): {change['option']} from "
        f"{change['old']!r} to {change['new']!r}"
    )
