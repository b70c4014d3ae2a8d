"""Class folders of images, as they are or made long-tailed."""

import re
from bisect import bisect_left
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.text import shown
from datamodules.images.readers import SYSTEM, Reader, is_image, kind_of, open_reader
from datamodules.pool import Pool, PoolDataModule, counted
from datamodules.tail.balance import listed

_TEST_NAMES = ("test", "val", "valid", "validation")
# Names that are dates: 2021, 2021-05, 20210503, 2021-5-3 birthday, 2021-05-03T12-00, 2021-W18,
# 3.5.2021, 03.05.21, May 2021, 3 May 2021, May 3, 2021; and a camera's 100CANON.
_YEAR, _MONTH, _DAY = r"(19|20)\d\d", r"(0?[1-9]|1[0-2])", r"(0?[1-9]|[12]\d|3[01])"
_MAY = r"(?i:(jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*)"
_DATE = re.compile(
    rf"{_YEAR}([-_. ]{_MONTH}([-_. ]{_DAY}([-_. T]\D.*|T\d.*)?)?)?|{_YEAR}-?W\d\d"
    rf"|{_YEAR}(0[1-9]|1[0-2])((0[1-9]|[12]\d|3[01])([-_. T]\D.*|T\d.*)?)?"
    rf"|({_DAY}[-_.]{_MONTH}|{_MONTH}[-_.]{_DAY})[-_.]({_YEAR}|\d\d)|\d\d[-_.]{_MONTH}[-_.]{_DAY}"
    rf"|({_DAY}[-_. ])?{_MAY}[-_. ]{_YEAR}|{_YEAR}[-_. ]{_MAY}([-_. ]{_DAY})?"
    rf"|{_MAY} {_DAY}, {_YEAR}"
    r"|\d{3}(?=\d*[A-Z_])[A-Z0-9_]{5}|DCIM"
)
_DAY_APART = re.compile(r".*\d\D+\d+\D+\d.*|.*[A-Za-z]{3}.*\d.*\d.*")  # a date to the day


class ImageFolderLT(PoolDataModule):
    """A folder (or a zip archive) of class folders.

    Two layouts are read: ``root/<class>/*.jpg``, from which a balanced test set is held out, and
    ``root/train/<class>/*.jpg`` with ``root/test`` (or ``root/val``), which is used
    unchanged. The probe set is all training images. A set that fits in memory is decoded once and
    cached. Folders named by date are not classes, and are refused.

    Args:
        root: the folder or zip archive.
        imbalance_factor: makes the set long-tailed: largest over smallest class; 1 for balanced;
            None takes all training images as they are.
        options: those of `PoolDataModule` and `FilesDataModule`.

    Raises:
        InputError: a bad folder or argument.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for number in range(20):
        ...     folder = root / "set" / ("ant", "bee")[number % 2]
        ...     folder.mkdir(parents=True, exist_ok=True)
        ...     Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
        >>> data = ImageFolderLT(str(root / "set"), imbalance_factor=4, cache_dir=str(root))
        >>> data.class_names, data.class_counts, len(data.test_set())
        (['ant', 'bee'], tensor([8, 2]), 4)
    """

    def __init__(self, root: str, imbalance_factor: float | None = None, **options: Any) -> None:
        super().__init__(imbalance_factor=imbalance_factor, **options)
        self.root = root

    def pool(self) -> Pool:
        """Scan the class folders."""
        return folder_pool(open_reader(self.root))


def folder_pool(reader: Reader) -> Pool:
    """List all images of a folder or archive of class folders; the test folder's are marked."""
    train, test = layout(reader.names())
    names, labels, classes = scan(reader, train)
    is_test = None
    if test is not None:
        test_names, test_labels, test_classes = scan(reader, test)
        if test_classes != classes:
            odd = sorted(set(classes) ^ set(test_classes))
            raise InputError(
                f"{reader.root}: {train} and {test} hold different classes ({listed(odd, 5)}); "
                "both need the same folders."
            )
        is_test = torch.arange(len(names) + len(test_names)) >= len(names)
        names, labels = names + test_names, torch.cat([labels, test_labels])
    used = set(names)
    left_out = Counter(
        _why_not(name, train, test) for name in reader.names() if name not in used
    ).most_common(10)
    title = reader.root.name or reader.root.absolute().name  # of ".", too
    notes = [f"left out {counted(count, why)}" for why, count in left_out]
    return Pool(title, names, labels, classes, is_test, reader, None, notes, dict(left_out))


def layout(names: list[str]) -> tuple[str, str | None]:
    """Find the prefixes of the training and the test folders (None if there is none)."""
    tops = set(_tops(names, ""))
    if "train" not in tops or not _tops(names, "train/"):
        return "", None  # "train" may be a class, too: then it holds no folders
    test = next((name for name in _TEST_NAMES if name in tops), None)
    return "train/", f"{test}/" if test else None


def scan(reader: Reader, prefix: str) -> tuple[list[str], Tensor, list[str]]:
    """N images below a prefix, sorted by class and name, (N,) labels and sorted class names."""
    every = reader.names()
    classes = sorted({*_folders(reader, prefix), *_tops(every, prefix)})
    where = shown(f"{reader.root}/{prefix}".rstrip("/"))
    if not classes:
        raise InputError(
            f"{where} holds no class folders; expected {where}/<class>/<image>.jpg. Images without "
            "labels: bcl fit --config images/bcl_i --data.root DIR."
        )
    names: list[str] = []
    counts: list[int] = []
    for label in classes:
        first = bisect_left(every, f"{prefix}{label}/")
        last = bisect_left(every, f"{prefix}{label}0", first)  # "0" comes after "/"
        names += filter(is_image, every[first:last])
        counts.append(len(names) - sum(counts))
    _check_dates(where, classes, [name[len(prefix) :] for name in names])
    if empty := [shown(label) for label, n in zip(classes, counts, strict=True) if not n]:
        raise InputError(
            f"{where}: class folder{'s' if len(empty) > 1 else ''} without an image: "
            f"{listed(empty)}; fill or remove."
        )
    if len(classes) == 1:
        only = shown(classes[0])
        hint = (
            "a long-tailed set needs at least two. Images without labels: bcl fit --config "
            "images/bcl_i --data.root DIR"
        )
        if inner := [shown(name) for name in _tops(every, f"{prefix}{classes[0]}/")]:
            place = f"an archive of {only} alone" if reader.root.is_file() else f"{where}/{only}"
            hint = (
                f"if the classes are the folders inside ({listed(inner, 5)}), use {place} as root"
            )
        raise InputError(f"{where} holds a single class folder, {only}; {hint}.")
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts))
    return names, labels, classes


def _check_dates(where: str, classes: list[str], names: list[str]) -> None:
    """Refuse trees by date, or by camera and date: their folders do not say what images show."""
    dates = list(filter(_DATE.fullmatch, classes))
    days = [name for name in dates if _DAY_APART.fullmatch(name) and not name.isdigit()]
    if len(dates) < len(classes) and len(days) < 2:
        dates = []  # a folder among classes may have such a name
    inner = Counter(name.rpartition("/")[0] for name in names if name.count("/") > 1)
    all_dated = all(any(map(_DATE.fullmatch, p.split("/")[1:])) for p in inner)
    if not dates and all_dated and 2 * inner.total() > len(names):  # but for a few loose ones
        dates = list(inner)
    if dates:
        raise InputError(
            f"{where}: folders named by date or by camera are not classes "
            f"({listed(list(map(shown, dates)), 3)}); train without labels (bcl fit --config "
            "images/bcl_i --data.root DIR), make a folder per class, or give a list file of `path "
            "label` rows to ImageListLT."
        )


def _why_not(name: str, train: str, test: str | None) -> str:
    """Why a file is not among the images."""
    if not is_image(name):
        return kind_of(name)
    if name.startswith(train) or (test and name.startswith(test)):
        return "images outside class folders"
    return f"images in {shown(name.partition('/')[0])}/ (not read)"


def _tops(names: list[str], prefix: str) -> list[str]:
    """Folders right below a prefix that hold a file, of sorted names."""
    found = []
    place, last = bisect_left(names, prefix), bisect_left(names, prefix + "\U0010ffff")
    while place < last:
        slash = names[place].find("/", len(prefix))
        if slash < 0:
            place += 1
            continue
        found.append(names[place][len(prefix) : slash])
        place = bisect_left(names, names[place][:slash] + "0", place)
    return found


def _folders(reader: Reader, prefix: str) -> list[str]:
    """Folders right below a prefix, empty ones too, which an archive does not name."""
    folder = reader.root / prefix
    entries = folder.iterdir() if folder.is_dir() else ()
    return [
        entry.name
        for entry in entries
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in SYSTEM
    ]
