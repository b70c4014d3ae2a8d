"""Labeled images that a probe trains and tests on, apart from what a run was trained on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from datamodules.base import Sets
from datamodules.folder import folder_pool
from datamodules.images.collected import TABLES
from datamodules.images.dataset import ImageDataset
from datamodules.images.readers import FolderReader, open_reader
from datamodules.lists import ImageList, pool_of_lists, read_list
from datamodules.pool import FilesDataModule, Pool
from datamodules.tail.balance import listed
from datamodules.tail.splits import pool_fingerprint

TEST_SHARE = 0.2  # of each class, where no test images are given


class LabeledImages(FilesDataModule):
    """Training and test images with labels, as `bcl.evaluate` takes them.

    Args:
        train: class folders, a zip archive of them, or a list or table of paths and labels.
        test: the same; its classes must be among the training ones. A fifth of each training class
            is held out if not given.
        labels: a list or table of labels for images of ``collection``, in place of ``train``.
        collection: the datamodule of a run.
        options: those of `FilesDataModule`.

    Raises:
        InputError: a bad source, labels of images that are not there, or unknown test classes.
    """

    whole = True

    def __init__(
        self,
        train: str | None,
        test: str | None,
        labels: str | None = None,
        collection: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(on_bad_image="skip", **options)
        self.train, self.test, self.labels, self.collection = train, test, labels, collection

    def build(self) -> Sets:
        """Read the sources and open their images."""
        if self.labels is not None:
            images, pool = _labeled_part(self.labels, self.collection)
        else:
            assert self.train is not None
            images, pool = self._open(read_source(self.train))
        if self.test is not None:
            tested, own = self._test_set(self.test, pool.classes)
            notes = [*pool.notes, *own]
            rows = torch.arange(len(images)) if pool.test is None else (~pool.test).nonzero()[:, 0]
            held = f"tested on {self.test}"
        else:
            rows, test_rows = pool.parts(TEST_SHARE, natural=True)
            if not len(test_rows):
                raise InputError(
                    f"{pool.title}: no class has the three images that it takes to hold one out; "
                    "give test images: --test SOURCE."
                )
            tested, notes = images.subset(test_rows), list(pool.notes)
            held = "a fifth of each class held out" if pool.test is None else "its own test images"
        self.grouping = "thirds" if len(pool.classes) > 2 else "thresholds"
        trained = images.subset(rows)
        notes.append("Many, Medium and Few are by the labeled images, not by those of pretraining")
        recipe = f"{pool.title}, labels given to the probe: {len(trained)} images, {held}"
        return Sets(trained, trained, tested, pool.classes, recipe, notes)

    def _open(self, pool: Pool) -> tuple[ImageDataset, Pool]:
        images, kept, _ = self.open_pool(pool)
        if not len(images):
            raise InputError(f"{pool.title}: none of its {len(pool.names):,} images can be read.")
        return images, kept

    def _test_set(self, source: str, classes: list[str]) -> tuple[ImageDataset, list[str]]:
        """Test images with the numbers that the training classes have, and notes."""
        pool = read_source(source)
        if unknown := sorted(set(pool.classes) - set(classes)):
            raise InputError(
                f"{source} has {len(unknown)} class(es) that the training images lack: "
                f"{listed(unknown, 5)}; they have {listed(classes, 5)}. Name both alike, or leave "
                "those images out."
            )
        place = torch.tensor([classes.index(name) for name in pool.classes])
        images, kept = self._open(replace(pool, labels=place[pool.labels]))
        if kept.test is not None:
            images = images.subset(kept.test.nonzero()[:, 0])
        return images, kept.notes


def read_source(source: str) -> Pool:
    """Images and labels of class folders, an archive of them, or a list or table."""
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(
            f"{source} does not exist; give class folders, or a list ({', '.join(TABLES)}) of "
            "paths and labels."
        )
    if path.is_dir() or path.suffix.lower() not in TABLES:
        return folder_pool(open_reader(path))
    found = read_list(path)
    pool = pool_of_lists(FolderReader(path.parent), {"images": found})
    classes, labels = _classes(found)
    return replace(pool, title=path.name, classes=classes, labels=labels)


def _classes(found: ImageList) -> tuple[list[str], Tensor]:
    """Names of the classes that a list has images of, and (N,) labels numbered by them."""
    numbers, labels = torch.unique(found.labels, return_inverse=True)
    names = [found.words[n] if found.words else str(n) for n in numbers.tolist()]
    if len(names) < 2:
        raise InputError(f"{found.path} has labels of one class, {names[0]}; a probe needs two.")
    return names, labels


def _labeled_part(path: str, data: Any) -> tuple[ImageDataset, Pool]:
    """The images of a run that a list or table gives labels for."""
    found = read_list(path, known=True)
    row = {name: number for number, name in enumerate(data.names())}
    if missing := [name for name in found.names if name not in row]:
        why = Counter("unreadable" for name, _ in data.unreadable if name in set(missing))
        unreadable = f" ({why['unreadable']} of them unreadable)" if why else ""
        raise InputError(
            f"{path} has labels of {len(missing):,} image(s) that are not in the run's set"
            f"{unreadable}: {listed(missing, 5)}; its images are named as in images.csv, such as "
            f"{next(iter(row))}."
        )
    classes, labels = _classes(found)
    rows = torch.tensor([row[name] for name in found.names], dtype=torch.int64)
    images = data.train_set().subset(rows, pool_fingerprint(found.names, labels))
    images.labels = labels
    return images, Pool(Path(path).name, found.names, labels, classes)
