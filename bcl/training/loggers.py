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
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from bcl.core.errors import InputError, unknown_name
from bcl.core.files import atomic_write, write_text
from bcl.memorization.tracker import memorization_scores
from bcl.training.callbacks import RunRecorder
from bcl.training.saving import is_cut, is_last_epoch

LOGGERS = ("csv", "tensorboard", "wandb")
_THUMBNAIL = 96  # pixels


def run_loggers(
    names: str | Iterable[str],
    folder: str | Path,
    record: dict[str, Any] | None = None,
    resumed_at: int | None = None,
) -> list[Logger]:
    """Build the loggers of a recorded run; their files lie in the run's folder.

    Args:
        names: of `LOGGERS`, in one string with commas or in a list.
        folder: the run's folder: ``metrics.csv``, ``tensorboard/``, ``wandb/``.
        record: the run's record, for wandb's name and configuration.
        resumed_at: optimizer steps of the checkpoint that a run goes on from; then the CSV file and
            the wandb run go on too, and what was logged after the checkpoint is dropped where
            that is possible (CSV, TensorBoard).

    Returns:
        Loggers for ``Trainer(logger=…)``, beside `LogHistory` among its callbacks.

    Raises:
        InputError: an unknown name, a package that is not installed, or no access to wandb.

    Example:
        >>> import tempfile
        >>> [type(logger).__name__ for logger in run_loggers("csv", tempfile.mkdtemp())]
        ['CSVHistory']
    """
    words = names.split(",") if isinstance(names, str) else list(names)
    chosen = list(dict.fromkeys(word.strip() for word in words))
    for name in chosen:
        if name not in LOGGERS:
            raise unknown_name("logger", name, LOGGERS)
        if name != "csv" and importlib.util.find_spec(name) is None:
            raise InputError(
                f"logging to {name} needs the package {name}; install it with "
                f"pip install 'bcl-cacr[{name}]'."
            )
    place, record = Path(folder), record or {}
    made: list[Logger] = []
    for name in chosen:
        if name == "csv":
            made.append(CSVHistory(place / "metrics.csv", resumed_at))
        elif name == "tensorboard":
            # What a killed run logged after its checkpoint, or a replaced run at all, is purged.
            made.append(
                TensorBoardLogger(
                    place,
                    name="",
                    version="tensorboard",
                    default_hp_metric=False,
                    purge_step=resumed_at or 0,
                )
            )
        else:
            made.append(_wandb(place, record, resumed_at is not None))
    return made


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
        _ = logger.experiment  # connects now, on rank 0, so that a refusal comes before training
    except wandb.Error as error:
        raise InputError(
            f"wandb: {' '.join(str(error).split()).rstrip('.')}. Log in with `wandb login`, or set "
            "WANDB_MODE=offline and `wandb sync` the folder later."
        ) from None
    rank_zero_only(write_text)(note, run_id + "\n")
    return logger


class CSVHistory(Logger):
    """One CSV file whose rows a resumed run continues; written whole, so never cut.

    Lightning's own logger deletes the file of the run that it goes on from.

    Args:
        path: the file.
        resumed_at: keep the rows of an older file up to this step; None starts anew.
    """

    def __init__(self, path: str | Path, resumed_at: int | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []
        if resumed_at is not None and self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
            self.rows = [dict(row) for row in rows if int(row["step"]) < resumed_at]

    @property
    def name(self) -> str:
        """What Lightning asks every logger for."""
        return "csv"

    @property
    def version(self) -> str:
        """Likewise."""
        return ""

    @property
    def save_dir(self) -> str:
        """The file's folder."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's record holds its configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row."""
        values = {key: v.item() if isinstance(v, Tensor) else v for key, v in metrics.items()}
        self.rows.append({**values, "step": len(self.rows) if step is None else step})

    @rank_zero_only
    def save(self) -> None:
        """Write the file."""
        if not self.rows:
            return
        names = {name for row in self.rows for name in row}
        first = [name for name in ("epoch", "step") if name in names]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [*first, *sorted(names - set(first))], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        content = text.getvalue().encode()
        atomic_write(self.path, lambda file: file.write(content))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()


class LogHistory(Callback):
    """Hand every epoch's row of the record to the trainer's loggers, before it is checkpointed.

    TensorBoard and wandb get a histogram of the memorization scores besides, and wandb a table of
    the tail: the samples with the largest momentum losses, with their class and its images in
    the training set where there are labels. Put it behind all callbacks that add to the record.

    Args:
        table_every_n_epochs: epochs between two tables; the last epoch always has one.
        rows: samples of a table.

    Raises:
        InputError: a number below 1.

    Example:
        >>> import tempfile
        >>> from bcl import SimCLR
        >>> from datamodules import DigitsLT
        >>> folder = Path(tempfile.mkdtemp())
        >>> quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing")
        >>> trainer = pl.Trainer(
        ...     **dict.fromkeys(quiet, False), accelerator="cpu", max_epochs=2,
        ...     logger=run_loggers("csv", folder), callbacks=[RunRecorder({}, folder), LogHistory()]
        ... )
        >>> trainer.fit(SimCLR("resnet8", 16, {"width": 4}), DigitsLT())
        >>> heading, *rows = (folder / "metrics.csv").read_text().splitlines()
        >>> heading, len(rows)
        ('epoch,step,learning_rate,loss,score_mean', 2)
    """

    logs_the_record = True

    def __init__(self, table_every_n_epochs: int = 50, rows: int = 32) -> None:
        if table_every_n_epochs < 1 or rows < 1:
            raise InputError(
                f"table_every_n_epochs and rows must be at least 1, got {table_every_n_epochs!r} "
                f"and {rows!r}."
            )
        self.table_every_n_epochs = table_every_n_epochs
        self.rows = rows

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch; rank 0 alone, without a collective."""
        row = RunRecorder.row(trainer)
        # An epoch that was cut is logged when a resume has ended it.
        if row is None or not trainer.is_global_zero or is_cut(trainer):
            return
        # Lightning counts the steps of its own rows from 0 too.
        step = trainer.global_step - 1
        tracker: Any = getattr(pl_module, "tracker", None)
        done = trainer.current_epoch + 1
        last = is_last_epoch(trainer)
        scalars = {key: value for key, value in row.items() if isinstance(value, int | float)}
        for logger in trainer.loggers:
            values: dict[str, Any] = {}
            if tracker is not None and isinstance(logger, TensorBoardLogger):
                logger.experiment.add_histogram("scores", tracker.scores.cpu(), step)
            if tracker is not None and isinstance(logger, WandbLogger):
                values["scores"] = _histogram(row["score_histogram"])
                if last or done % self.table_every_n_epochs == 0:
                    data = getattr(trainer, "datamodule", None)
                    values["tail"] = tail_table(tracker, data, self.rows)
            logger.log_metrics({**scalars, **values}, step)
            logger.save()


def lightning_logs(trainer: pl.Trainer) -> bool:
    """Whether Lightning must hand values to loggers, because no `LogHistory` does."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return bool(trainer.loggers) and not any(isinstance(each, LogHistory) for each in callbacks)


def _histogram(counts: list[int]) -> Any:
    import numpy as np
    import wandb

    # The bins are those of the record.
    edges = np.linspace(0, 1, len(counts) + 1)
    return wandb.Histogram(np_histogram=(np.asarray(counts), edges))


def tail_table(tracker: Any, data: Any = None, rows: int = 32) -> Any:
    """Build a ``wandb.Table`` of the samples that the model has memorized least.

    Args:
        tracker: the run's tracker.
        data: its datamodule, for classes and images; labels are shown and used for nothing else.
        rows: samples in the table.

    Returns:
        The table: ``id``, ``class``, ``class images``, ``momentum loss``, ``score``, ``image``.
    """
    import wandb

    losses, seen = tracker.momentum_loss.cpu(), tracker.seen.cpu()
    scores = memorization_scores(losses, seen, tracker.normalization)
    found = torch.where(seen, losses, -torch.inf).topk(min(rows, int(seen.sum()))).indices
    dataset = data.train_set() if hasattr(data, "train_set") else None
    labels, counts = getattr(dataset, "labels", None), getattr(data, "class_counts", None)
    names = getattr(data, "class_names", None)
    thumbnails = [None] * len(found) if dataset is None else _thumbnails(dataset, found)
    table = wandb.Table(columns=["id", "class", "class images", "momentum loss", "score", "image"])
    for sample, thumbnail in zip(found.tolist(), thumbnails, strict=True):
        label = None if labels is None else int(labels[sample])
        table.add_data(
            sample,
            None if label is None else str(names[label]) if names is not None else str(label),
            None if label is None or counts is None else int(counts[label]),
            float(losses[sample]),
            float(scores[sample]),
            None if thumbnail is None else wandb.Image(thumbnail),
        )
    return table


def _thumbnails(dataset: Any, ids: Tensor) -> list[Any]:
    with torch.random.fork_rng([]):  # a loader's workers may draw from the run's numbers
        images = dataset.images(ids).cpu()  # uint8 (n, 3, S, S)
    if max(images.shape[2:]) > _THUMBNAIL:
        small = torch.nn.functional.interpolate(
            images.float(), size=(_THUMBNAIL, _THUMBNAIL), mode="area"
        )
        images = small.round().to(torch.uint8)
    return [image.permute(1, 2, 0).numpy() for image in images]
