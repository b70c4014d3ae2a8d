"""List files: one ``path label`` a line, as ImageNet-LT and its kin are published."""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from datamodules.base import Sets
from datamodules.images.dataset import ImageDataset
from datamodules.images.readers import Source, leaves_folder, open_source
from datamodules.pool import FilesDataModule, Pool, resolve
from datamodules.tail.balance import balance_notes
from datamodules.tail.recipes import LISTS
from datamodules.tail.splits import MOST_CLASSES, pool_fingerprint

_SHOWN = 20
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass
class ImageList:
    """The rows of a list file.

    Attributes:
        path: the file.
        names: of the images, relative to the data set's folder.
        labels: (N,) int64.
        lines: the line of each row, for messages.
    """

    path: Path
    names: list[str]
    labels: Tensor
    lines: list[int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)


def read_list(path: str | Path, num_classes: int | None = None) -> ImageList:
    r"""Read a list file.

    Args:
        path: the file; one ``relative/path label`` a line, empty lines are passed over.
        num_classes: C; labels from 0 to C - 1 are allowed.

    Returns:
        Its rows.

    Raises:
        InputError: no such file, or rows without label, with a label that is no number or out of
            range, with a path that leaves the folder, or that name an image twice; all are
            listed with their line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "list.txt"
        >>> _ = path.write_text("train/a.jpg 0\ntrain/b.jpg 1\n")
        >>> read_list(path).names
        ['train/a.jpg', 'train/b.jpg']
    """
    path = Path(path).expanduser()
    try:
        # Editors on Windows put a byte-order mark in front.
        return parse_list(path, path.read_text("utf-8-sig"), num_classes)
    except FileNotFoundError:
        raise InputError(f"list file {path} does not exist.") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InputError(f"{path} is not a list file (a text with one `path label` a line).") from (
            None
        )
    except OSError as error:
        raise InputError(f"cannot read list file {path}: {error.strerror}.") from None


def parse_list(path: Path, text: str, num_classes: int | None = None) -> ImageList:
    """Read the text of a list file (see `read_list`).

    Args:
        path: where the text stands, for messages.
        text: rows of ``relative/path label``.
        num_classes: C.

    Returns:
        Its rows.

    Raises:
        InputError: bad rows; all are listed with their line.
    """
    names: list[str] = []
    labels: list[int] = []
    lines: list[int] = []
    faults: list[str] = []
    first_line: dict[str, int] = {}
    # Not splitlines, which also cuts at signs that may stand in names.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        parts = line.strip().rsplit(maxsplit=1)
        fault = _fault(parts, num_classes)
        name = _plain(parts[0])
        if fault is None and name in first_line:
            fault = f"'{name}' stands on line {first_line[name]} already"
        if fault is not None:
            faults.append(f"{path}:{number}: {fault}")
            continue
        first_line[name] = number
        names.append(name)
        labels.append(int(parts[1]))
        lines.append(number)
    if faults:
        raise InputError(_listed(f"{len(faults)} bad row(s) in a list of `path label`", faults))
    if not names:
        raise InputError(f"{path} names no image.")
    return ImageList(path, names, torch.tensor(labels, dtype=torch.int64), lines)


def _fault(parts: list[str], num_classes: int | None) -> str | None:
    if len(parts) < 2:
        return f"no label behind '{parts[0]}'"
    if not _WHOLE.fullmatch(parts[1]):
        return f"the label '{parts[1]}' is not a whole number"
    label, limit = int(parts[1]), MOST_CLASSES if num_classes is None else num_classes
    if not 0 <= label < limit:
        return f"label {label} is out of range (0 to {limit - 1})"
    if leaves_folder(parts[0]):
        return (
            f"'{parts[0]}' leaves its folder; write paths relative to the data set's folder, "
            "without a drive or '..'"
        )
    return None


def _plain(name: str) -> str:
    """One spelling an image: ``./a//b.jpg`` is ``a/b.jpg``."""
    odd = "//" in name or name.startswith("./") or "/./" in name
    return str(PurePosixPath(name)) if odd else name


def _listed(title: str, lines: list[str], remedy: str = "") -> str:
    shown = "".join(f"\n  {line}" for line in lines[:_SHOWN])
    more = f"\n  and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return f"{title}{remedy}:{shown}{more}"


def find_missing(source: Source, images: ImageList) -> list[str]:
    """Rows whose image is not there, each as ``list:line: path``."""
    missing = []
    for name, line in zip(images.names, images.lines, strict=True):
        try:
            source.stamp(name)
        except FileNotFoundError:
            missing.append(f"{images.path}:{line}: {name}")
        except OSError as error:  # a name too long, a link to itself, a file in a folder's place
            missing.append(f"{images.path}:{line}: {name} ({error.strerror})")
    return missing


class ImageListLT(FilesDataModule):
    r"""A long-tailed set given by list files of ``path label`` rows.

    Args:
        root: the folder or zip archive that the paths are relative to.
        train_list: the long-tailed training set.
        probe_list: the balanced set for linear probes; the training list if not given, which is
            then not balanced.
        test_list: the test set.
        num_classes: C; one more than the largest label of the training list if not given.
        benchmark: name of a published benchmark (`datamodules.tail.recipes.LISTS`) whose totals the
            lists are compared with; differences are reported in the notes.
        options: those of `FilesDataModule`.

    Raises:
        InputError: a bad list or argument.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("a.png", "b.png", "c.png"):
        ...     Image.new("RGB", (8, 8)).save(root / name)
        >>> _ = (root / "train.txt").write_text("a.png 0\nb.png 0\nc.png 1")
        >>> data = ImageListLT(str(root), "train.txt", cache_dir=str(root))
        >>> data.class_counts
        tensor([2, 1])
    """

    grouping = "thresholds"

    def __init__(
        self,
        root: str,
        train_list: str,
        probe_list: str | None = None,
        test_list: str | None = None,
        num_classes: int | None = None,
        benchmark: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if num_classes is not None and num_classes < 1:
            raise InputError(f"num_classes must be positive, got {num_classes!r}.")
        self.root = root
        self.train_list = train_list
        self.probe_list = probe_list
        self.test_list = test_list
        self.num_classes_wanted = num_classes
        self.benchmark = benchmark

    def build(self) -> Sets:
        """Read the lists, find the images, open them."""
        train = self._read(self.train_list, self.num_classes_wanted)
        classes = self.num_classes_wanted or int(train.labels.max()) + 1
        lists = {"train": train}
        if self.probe_list is not None:
            lists["probe"] = self._read(self.probe_list, classes)
        if self.test_list is not None:
            lists["test"] = self._read(self.test_list, classes)
        for images in lists.values():
            check_every_class(images, classes)
        source = open_source(self.root)
        missing = [line for images in lists.values() for line in find_missing(source, images)]
        if missing:
            raise InputError(
                _listed(
                    f"{len(missing)} image(s) of the lists are not in {source.root}",
                    missing,
                    "; unpack the data set there, or give its folder as root",
                )
            )
        pool, places = _union(source, lists)
        store, kept = self.open_store(pool)
        if len(kept.names) != len(pool.names):  # unreadable ones were left out
            new = {name: row for row, name in enumerate(kept.names)}
            names = {part: [pool.names[row] for row in rows] for part, rows in places.items()}
            places = {
                part: [new[name] for name in wanted if name in new]
                for part, wanted in names.items()
            }
        sets = {}
        for part, rows in places.items():
            labels = kept.labels[torch.tensor(rows, dtype=torch.int64)]
            # Of this list alone, whatever other lists were given: as `bcl split inspect` has it.
            content_hash = pool_fingerprint([kept.names[row] for row in rows], labels)
            sets[part] = ImageDataset(
                store, torch.tensor(rows, dtype=torch.int64), labels, content_hash
            )
        notes = [*kept.notes, *self._differences(lists, classes), *_shared(lists)]
        for part, chosen in sets.items():
            told = balance_notes(f"{part} list", chosen.labels, [str(c) for c in range(classes)])
            # The training list is to be unbalanced; empty classes are those of which every
            # image was left out.
            notes += [note for note in told if part != "train" or "without an image" in note]
        if "probe" not in sets:
            notes.append("no probe list: linear probes train on the long-tailed training set")
        title = self.benchmark or source.root.name or source.root.absolute().name
        return Sets(
            train=sets["train"],
            probe=sets.get("probe", sets["train"]),
            test=sets.get("test"),
            class_names=class_names(lists.values(), classes),
            recipe=f"{title}, list {train.path.name}: {len(sets['train'])} images",
            notes=notes,
        )

    def _read(self, name: str, classes: int | None) -> ImageList:
        path = resolve(self.root, name)
        if not path.exists() and Path(self.root).expanduser().is_file():
            source = open_source(self.root)  # a list that lies in the archive itself
            if name in source.names():
                text = source.read(name).decode("utf-8-sig", "replace")
                return parse_list(source.root / name, text, classes)
        return read_list(path, classes)

    def _differences(self, lists: dict[str, ImageList], classes: int) -> list[str]:
        if self.benchmark is None:
            return []
        published = LISTS[self.benchmark]
        found = {part: len(images) for part, images in lists.items()} | {"classes": classes}
        return [
            f"{self.benchmark}: {part} has {found[part]:,}, published are {published[part]:,}"
            for part in ("train", "test", "classes")
            if part in found and part in published and found[part] != published[part]
        ]


def _union(source: Source, lists: dict[str, ImageList]) -> tuple[Pool, dict[str, list[int]]]:
    """All images of the lists, each once, and where each list's images are among them."""
    rows: dict[str, int] = {}
    labels: list[int] = []
    places: dict[str, list[int]] = {}
    for images in lists.values():
        for name, label, line in zip(
            images.names, images.labels.tolist(), images.lines, strict=True
        ):
            if name not in rows:
                rows[name] = len(labels)
                labels.append(label)
            elif labels[rows[name]] != label:
                raise InputError(
                    f"{images.path}:{line}: '{name}' has label {label} here and "
                    f"{labels[rows[name]]} in another list; the lists must agree."
                )
    for part, images in lists.items():
        places[part] = [rows[name] for name in images.names]
    pool = Pool(source.root.name, list(rows), torch.tensor(labels), [], source=source)
    return pool, places


def _shared(lists: dict[str, ImageList]) -> list[str]:
    """Test images that something is trained on."""
    if "test" not in lists:
        return []
    test = set(lists["test"].names)
    shared = {part: len(test.intersection(lists[part].names)) for part in lists if part != "test"}
    return [
        f"{count:,} of the {len(test):,} test images are in the {part} list too"
        for part, count in shared.items()
        if count
    ]


def check_every_class(images: ImageList, num_classes: int) -> None:
    """Refuse a list in which a class has no image.

    Raises:
        InputError: names the classes.
    """
    counts = torch.bincount(images.labels, minlength=num_classes)
    empty = (counts == 0).nonzero()[:, 0].tolist()
    if empty:
        shown = ", ".join(map(str, empty[:10])) + (" ..." if len(empty) > 10 else "")
        raise InputError(
            f"{images.path}: {len(empty)} of {num_classes} classes without an image: {shown}; "
            "labels must run from 0 without gaps."
        )


def class_names(lists: Any, num_classes: int) -> list[str]:
    """Name classes by the folder of their images, where that is one folder a class."""
    folders: dict[int, set[str]] = {label: set() for label in range(num_classes)}
    for images in lists:
        for name, label in zip(images.names, images.labels.tolist(), strict=True):
            folders[label].add(PurePosixPath(name).parent.name)
    names = ["/".join(sorted(found)) for found in folders.values()]
    one_each = all(len(found) == 1 for found in folders.values()) and len(set(names)) == len(names)
    return names if one_each else [str(label) for label in range(num_classes)]
