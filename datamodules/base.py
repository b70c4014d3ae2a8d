"""What every datamodule provides."""

import csv
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from bcl.core.checks import check_count
from bcl.core.distributed import rank, world_size
from bcl.core.errors import InputError
from bcl.core.files import write_text
from bcl.core.progress import say
from bcl.core.text import shown
from datamodules.external import SelectionSettings, check_apart
from datamodules.images.dataset import ImageDataset
from datamodules.images.loader import BatchLoader
from datamodules.tail.recipes import choose
from datamodules.tail.splits import Split

__all__ = ["ImageDataset", "LongTailedDataModule", "Sets"]

# Keeps few-shot draws apart from other random numbers.
_SHOT_STREAM = 0x5407
MOST_NOTES = 20  # that are printed


@dataclass
class Sets:
    """The three sets of a long-tailed benchmark, or one set without labels.

    Attributes:
        train: long-tailed, for pretraining.
        probe: balanced, for training linear probes; the training set where there are no labels.
        test: balanced; None where there is none.
        class_names: one per label; empty where there are no labels.
        recipe: one line that names how ``train`` was chosen.
        notes: what a report should mention, such as images that were left out.
        summary: one line, which is printed: images found, held out, chosen and left out, and why;
            `sizes` if it is not given.
        split: the split that selected ``train`` from a larger set, if any.
        unreadable: name and reason of each image that was left out because it cannot be read.
    """

    train: ImageDataset
    probe: ImageDataset
    test: ImageDataset | None
    class_names: list[str]
    recipe: str
    notes: list[str] = field(default_factory=list)
    summary: str = ""
    split: Split | None = None
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def sizes(self) -> str:
        """How many images train, and how many are for probes and tests."""
        parts = [f"training on {len(self.train):,} images"]
        if self.probe is not self.train:
            parts.append(f"{len(self.probe):,} for probes")
        if self.test is not None:
            parts.append(f"{len(self.test):,} test images")
        return ", ".join(parts)


class LongTailedDataModule(pl.LightningDataModule):
    """A training set and, where there are labels, a balanced probe set and test set.

    A subclass builds its sets in `build`. Batches are
    ``{"image": uint8 (B, 3, S, S), "id": int64 (B,), "label": int64 (B,)}``; an id is the image's
    position in the training set, a label is -1 where it is unknown.

    Args:
        image_size: S, height and width in pixels.
        batch_size: images per step over all ranks together.
        seed: seed of the training order.
        selection: images that an epoch has besides these, or in their place.

    Attributes:
        grouping: the published grouping into Many / Medium / Few for this data set.
        window: blocks of a packed set that are mixed (see `datamodules.PackedLT`).

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> class Black(LongTailedDataModule):
        ...     def build(self):
        ...         black = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
        ...         train = ImageDataset(black, torch.tensor([0, 0, 0, 0, 1, 1]))
        ...         return Sets(train, train, None, ["cat", "dog"], "chosen by hand: 6 images")
        >>> data = Black(batch_size=2)
        >>> data.class_counts, len(data.train_dataloader())
        (tensor([4, 2]), 3)
    """

    grouping: str = "thirds"
    window: int = 16

    def __init__(
        self,
        *,
        image_size: int = 32,
        batch_size: int = 256,
        seed: int = 0,
        selection: SelectionSettings | None = None,
    ) -> None:
        super().__init__()
        check_count("image_size", image_size)
        check_count("batch_size", batch_size)
        self.image_size = image_size
        self.batch_size = batch_size
        self.seed = seed
        self.selection = selection
        self._sets: Sets | None = None
        self._external: ImageDataset | None = None

    def build(self) -> Sets:
        """Make the sets; called once, on every rank."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Build the sets, once, and say what they hold."""
        if self._sets is None:
            self._sets = self.build()
            notes, summary = self._sets.notes, self._sets.summary
            if summary:  # it says what was left out
                notes = [note for note in notes if not note.startswith("left out")]
            if (more := len(notes) - MOST_NOTES) > 0:
                notes = [*notes[:MOST_NOTES], f"and {more:,} more, in the record of a run"]
            _say(*(f"note: {note}" for note in notes), summary or self._sets.sizes())

    @property
    def sets(self) -> Sets:
        """The three sets; built when first needed."""
        self.setup()
        assert self._sets is not None
        return self._sets

    def train_set(self) -> ImageDataset:
        """The long-tailed training set."""
        return self.sets.train

    def probe_set(self) -> ImageDataset:
        """The balanced set that linear probes are trained on."""
        return self.sets.probe

    def test_set(self) -> ImageDataset:
        """The balanced test set; an `InputError` if there is none."""
        self._check_labels()
        if self.sets.test is None:
            raise InputError(
                f"{type(self).__name__} was given no test set, so nothing can be evaluated; give "
                "test_list (or the data set's own test images)."
            )
        return self.sets.test

    @property
    def external(self) -> ImageDataset | None:
        """The images of `selection` beside the training set, if any; opened when first needed."""
        if self.selection is not None and self._external is None:
            found = self.selection.open(self.sets.train.image_size, **self._external_options())
            if found is not None:
                apart = {"training set": self.sets.train, "test set": self.sets.test}
                check_apart(found, apart)
                self.sets.notes.append(
                    f"{len(found):,} external images, of which each epoch has "
                    f"{self.selection.budget:,} (selection.rule '{self.selection.rule}')"
                )
            self._external = found
        return self._external

    def _external_options(self) -> dict[str, Any]:
        return {}

    @property
    def external_hash(self) -> str | None:
        """Hash of the external images' bytes, if there are any."""
        return None if self.external is None else self.external.images_hash

    @property
    def num_samples(self) -> int:
        """Size of the long-tailed training set."""
        return len(self.sets.train)

    @property
    def class_names(self) -> list[str]:
        """One name per label."""
        return self.sets.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.sets.class_names)

    def names(self, ids: Tensor | Iterable[int] | None = None) -> list[str]:
        """File names of training images by id, of all if no ids are given."""
        return self.sets.train.names(ids)

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """Name and reason of each image that was left out because it cannot be read."""
        return self.sets.unreadable

    def _check_labels(self) -> None:
        if not self.sets.class_names:
            raise InputError(
                f"{self.recipe}: these images have no labels, so no accuracy can be measured; give "
                "labeled images, or leave the measurement out."
            )

    @property
    def class_counts(self) -> Tensor:
        """(C,) int64 images of each class in the training set; an `InputError` without labels."""
        self._check_labels()
        return torch.bincount(self.sets.train.labels, minlength=self.num_classes)

    @property
    def recipe(self) -> str:
        """One line that names the split and its total."""
        return self.sets.recipe

    @property
    def content_hash(self) -> str:
        """Hash of the training set's names, choice and labels; `bcl split` prints the same."""
        sets = self.sets
        return sets.train.content_hash if sets.split is None else sets.split.content_hash

    @property
    def images_hash(self) -> str:
        """Hash of the training images' bytes; unlike `content_hash`, it depends on encoding."""
        return self.sets.train.images_hash

    @property
    def notes(self) -> list[str]:
        """What a report should mention, such as images that were left out."""
        return self.sets.notes

    def write_names(self, folder: str | Path) -> None:
        """Write ``images.csv`` (id, path) and ``unreadable.csv`` (path, reason), unless empty."""
        tables: dict[str, tuple[tuple[str, str], list[Any]]] = {
            "images.csv": (("id", "path"), list(enumerate(self.sets.train.file_names()))),
            "unreadable.csv": (("path", "reason"), self.unreadable),
        }
        for name, (header, rows) in tables.items():
            (Path(folder) / name).unlink(missing_ok=True)  # of a run that was replaced
            if rows:
                text = StringIO(newline="")
                csv.writer(text, lineterminator="\n").writerows([header, *rows])
                write_text(Path(folder) / name, text.getvalue())

    def _batch(self) -> int:
        """The batch size, or that of a set smaller than a batch, which is said."""
        images, ranks = len(self.sets.train), world_size()
        most = images // ranks * ranks
        if self.batch_size <= images or not most:
            return self.batch_size
        note = f"the batch is {most}, not {self.batch_size}: there are {images} training images"
        if note not in self.sets.notes:
            self.sets.notes.append(note)
            _say(f"note: {note}")
        return most

    def train_dataloader(self) -> BatchLoader:
        """Batches of the training set; this rank's slice of each global batch."""
        external = self.external
        self._share_cores()
        return BatchLoader(
            self.sets.train,
            self._batch(),
            seed=self.seed,
            rank=rank(),
            world_size=world_size(),
            device=self.loader_device(),
            window=self.window,
            trained=self._trained_batches,
            external=external,
            budget=0 if external is None or self.selection is None else self.selection.budget,
        )

    def loader_device(self) -> torch.device:
        """Where images in memory are kept and gathered: the trainer's device, if there is one."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _share_cores(self) -> None:
        """Tell image files how many ranks decode on this machine; only the trainer knows."""
        for data in (self.sets.train, self.sets.probe, self.sets.test, self._external):
            if data is not None and data.files is not None and self.trainer is not None:
                data.files.ranks = self.trainer.num_devices

    def _trained_batches(self) -> int | None:
        """Batches of the running epoch that Lightning has trained, while it trains."""
        if self.trainer is None or not self.trainer.training:
            return None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return int(getattr(progress, "processed", progress.ready))

    def few_shot(self, shots: int | float, draw: int = 0) -> Tensor:
        """Choose a few-shot subset: (n,) int64 positions in `probe_set`, ascending.

        Args:
            shots: images per class, or a float in (0, 1]: a share of each, at least one image.
            draw: which of the random draws.

        Raises:
            InputError: a class has too few images, or ``shots`` is out of range.
        """
        self._check_labels()
        labels = self.sets.probe.labels
        counts = torch.bincount(labels, minlength=self.num_classes)  # (C,)
        if isinstance(shots, float):
            if not 0 < shots <= 1:
                raise InputError(f"a share of the probe set must lie in (0, 1], got {shots!r}.")
            wanted = (counts * shots).round().to(torch.int64).clamp(min=1).minimum(counts)
        else:
            check_count("shots", shots)
            if int(counts.min()) < shots:
                poorest = int(counts.argmin())
                raise InputError(
                    f"{shots} shots per class, but class {poorest} has {int(counts[poorest])} "
                    f"images in the probe set; use at most {int(counts.min())}."
                )
            wanted = torch.full_like(counts, shots)
        return choose(labels, wanted, _SHOT_STREAM, draw)


@rank_zero_only
def _say(*lines: str) -> None:
    for line in lines:
        say(shown(line), sys.stderr)
