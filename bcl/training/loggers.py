"""CSV, TensorBoard and wandb: where the record's history goes while a run is running."""

import csv
import importlib.util
import io
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from bcl.core.checks import check_choice
from bcl.core.errors import InputError
from bcl.core.files import atomic_write, write_text
from bcl.memorization.scores import memorization_scores
from bcl.training.checkpoints import is_cut, is_last_epoch
from bcl.training.record import RunRecorder

LOGGERS = ("csv", "tensorboard", "wandb")
_TABLE_EVERY = 50  # epochs
_TABLE_ROWS = 32
_THUMBNAIL = 96  # pixels


class LogHistory(Callback):
    """Log every epoch's row of the record before it is checkpointed.

    TensorBoard and wandb also get a histogram of the memorization scores. Every 50 epochs and after
    the last, wandb gets a table of the samples with the largest momentum losses. Put this callback
    after all that add to the record.

    Args:
        recorder: the run's record; files go to its folder (``metrics.csv``, ``tensorboard/``,
            ``wandb/``).
        names: loggers, as ``"csv,tensorboard,wandb"`` or a list.
        resumed_at: optimizer steps of the checkpoint that the run resumes from, whose logs then
            continue (CSV and TensorBoard drop later rows); None starts new ones.

    Raises:
        InputError: an unknown name, a missing package, or no access to wandb.

    Example:
        >>> import tempfile
        >>> from bcl import SimCLR
        >>> from datamodules import DigitsLT
        >>> recorder = RunRecorder({}, tempfile.mkdtemp())
        >>> callbacks = [recorder, LogHistory(recorder, "csv")]
        >>> settings = {"accelerator": "cpu", "barebones": True, "callbacks": callbacks}
        >>> trainer = pl.Trainer(**settings, max_epochs=2)
        >>> trainer.fit(SimCLR("resnet8", views=16), DigitsLT())
        >>> heading, *rows = (recorder.folder / "metrics.csv").read_text().splitlines()
        >>> heading, len(rows)
        ('epoch,step,learning_rate,loss,score_mean', 2)
    """

    def __init__(
        self,
        recorder: RunRecorder,
        names: str | Iterable[str],
        resumed_at: int | None = None,
    ) -> None:
        words = names.split(",") if isinstance(names, str) else names
        self.names = list(dict.fromkeys(word.strip() for word in words))
        for name in self.names:
            check_choice("logger", name, LOGGERS)
            if name != "csv" and importlib.util.find_spec(name) is None:
                raise InputError(
                    f"logging to {name} needs the package {name}; install it with "
                    f"pip install 'bcl-cacr[{name}]'."
                )
        self.recorder = recorder
        self.resumed_at = resumed_at
        self.loggers: list[Logger] = []

    def setup(self, *_: Any, **__: Any) -> None:
        """Open the loggers, so that errors come before training."""
        record, folder = self.recorder.record, self.recorder.folder
        self.loggers = [open_logger(name, folder, record, self.resumed_at) for name in self.names]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch, on rank 0 only."""
        row = self.recorder.row()
        # An epoch that was cut is logged when a resume has ended it.
        if row is None or not trainer.is_global_zero or is_cut(trainer):
            return
        step = trainer.global_step - 1  # Lightning too counts the steps of its rows from 0
        tracker: Any = getattr(pl_module, "tracker", None)
        done = trainer.current_epoch + 1
        scalars = {key: value for key, value in row.items() if isinstance(value, int | float)}
        for logger in self.loggers:
            values: dict[str, Any] = {}
            if tracker is not None and isinstance(logger, TensorBoardLogger):
                logger.experiment.add_histogram("scores", tracker.scores.cpu(), step)
            if tracker is not None and isinstance(logger, WandbLogger):
                values["scores"] = _histogram(row["score_histogram"])
                if done % _TABLE_EVERY == 0 or is_last_epoch(trainer):
                    data = getattr(trainer, "datamodule", None)
                    values["tail"] = tail_table(tracker, data)
            logger.log_metrics({**scalars, **values}, step)
            logger.save()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Close the loggers."""
        for logger in self.loggers:
            logger.finalize("success")

    def on_exception(self, *_: Any) -> None:
        """Close the loggers of a run that failed."""
        for logger in self.loggers:
            logger.finalize("failed")


def open_logger(
    name: str, folder: Path, record: dict[str, Any], resumed_at: int | None = None
) -> Logger:
    """Open one of `LOGGERS` in a run's folder."""
    if name == "csv":
        return CSVHistory(folder, resumed_at)
    if name == "wandb":
        return _wandb(folder, record, resumed_at is not None)
    # What a killed run logged after its checkpoint, or a replaced run at all, is purged.
    purge = resumed_at or 0
    return TensorBoardLogger(folder, "", "tensorboard", default_hp_metric=False, purge_step=purge)


def _wandb(folder: Path, record: dict[str, Any], resumed: bool) -> WandbLogger:
    import wandb

    note = folder / "wandb-id.txt"
    run_id = note.read_text().strip() if resumed and note.exists() else uuid.uuid4().hex[:8]
    folder.mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(
        name=record.get("name"),
        project=os.environ.get("WANDB_PROJECT", "bcl-cacr"),
        save_dir=folder,
        id=run_id,
        config={key: value for key, value in record.items() if key != "history"},
    )
    try:
        _ = logger.experiment  # connects, on rank 0
    except wandb.Error as error:
        raise InputError(
            f"wandb: {' '.join(str(error).split()).rstrip('.')}. Log in with `wandb login`, or set "
            "WANDB_MODE=offline and `wandb sync` the folder later."
        ) from None
    rank_zero_only(write_text)(note, run_id + "\n")
    return logger


class CSVHistory(CSVLogger):
    """Lightning's CSV logger, with an atomic file that a resumed run continues."""

    def __init__(self, folder: str | Path, resumed_at: int | None = None) -> None:
        super().__init__(folder, name="", version="")
        self.path = Path(folder) / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        if resumed_at is not None and self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
            self.rows = [dict(row) for row in rows if int(row["step"]) < resumed_at]

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row."""
        values = {key: v.item() if isinstance(v, Tensor) else v for key, v in metrics.items()}
        self.rows.append({**values, "step": len(self.rows) if step is None else step})

    @rank_zero_only
    def save(self) -> None:
        """Write the file."""
        names = {name for row in self.rows for name in row}
        first = [name for name in ("epoch", "step") if name in names]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [*first, *sorted(names - set(first))], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        atomic_write(self.path, lambda file: file.write(text.getvalue().encode()))


def _histogram(counts: list[int]) -> Any:
    import numpy as np
    import wandb

    edges = np.linspace(0, 1, len(counts) + 1)  # the bins are those of the record
    return wandb.Histogram(np_histogram=(np.asarray(counts), edges))


def tail_table(tracker: Any, data: Any = None) -> Any:
    """Build a ``wandb.Table`` of the samples that the model has memorized least.

    Labels and images come from the datamodule, if there is one, and are only shown.
    """
    import wandb

    losses, seen = tracker.momentum_loss.cpu(), tracker.seen.cpu()
    scores = memorization_scores(losses, seen, tracker.normalization)
    found = torch.where(seen, losses, -torch.inf).topk(min(_TABLE_ROWS, int(seen.sum()))).indices
    dataset = data.train_set() if hasattr(data, "train_set") else None
    names = getattr(data, "class_names", None)
    labeled = names is None or len(names) > 0  # a collection has names of no class
    labels = getattr(dataset, "labels", None) if labeled else None
    counts = getattr(data, "class_counts", None) if labeled else None
    thumbnails = [None] * len(found) if dataset is None else _thumbnails(dataset, found)
    table = wandb.Table(columns=["id", "class", "class images", "momentum loss", "score", "image"])
    for sample, thumbnail in zip(found.tolist(), thumbnails, strict=True):
        label = None if labels is None else int(labels[sample])
        name = label if label is None or names is None else names[label]
        count = None if label is None or counts is None else int(counts[label])
        image = None if thumbnail is None else wandb.Image(thumbnail)
        shown = None if name is None else str(name)
        table.add_data(sample, shown, count, float(losses[sample]), float(scores[sample]), image)
    return table


def _thumbnails(dataset: Any, ids: Tensor) -> list[Any]:
    with torch.random.fork_rng([]):  # a loader's workers may draw from the run's numbers
        images = dataset.images(ids).cpu()  # (n, 3, S, S) uint8
    if max(images.shape[2:]) > _THUMBNAIL:
        small = nn.functional.interpolate(images.float(), size=_THUMBNAIL, mode="area")
        images = small.round().to(torch.uint8)
    return [image.permute(1, 2, 0).numpy() for image in images]
