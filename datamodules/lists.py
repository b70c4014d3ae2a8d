"""Lists of ``path label`` rows, as ImageNet-LT and its kin are published, and tables of them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import torch
from torch import Tensor

from bcl.core.checks import check_count
from bcl.core.errors import InputError
from datamodules.base import Sets
from datamodules.images.collected import TABLES, plain, read_columns
from datamodules.images.readers import Reader, leaves_folder, open_reader
from datamodules.pool import FilesDataModule, Pool
from datamodules.tail.balance import balance_notes, listed
from datamodules.tail.recipes import LISTS
from datamodules.tail.splits import MOST_CLASSES, pool_fingerprint

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass
class ImageList:
    """The rows of a list file: image names, (N,) int64 labels, and their lines for messages.

    ``words`` are the class names in the order of the labels, where the file has words for labels.
    """

    path: Path
    names: list[str]
    labels: Tensor
    lines: list[int]
    words: list[str]


def read_list(
    path: str | Path,
    num_classes: int | None = None,
    words: list[str] | None = None,
    known: bool = False,
) -> ImageList:
    """Read a file of ``relative/path label`` rows, or a table with columns ``path`` and ``label``.

    Labels are numbers from 0 to ``num_classes`` - 1, or words: those of another list, if given
    (none: numbers), or else any, which are numbered in sorted order. With ``known`` the names are
    those of images that are known already: a path may be absolute, and rows of a table without a
    label are left out.
    """
    path = Path(path).expanduser()
    try:
        if path.suffix.lower() in TABLES[1:]:
            rows = list(enumerate(map(list, read_columns(path, "path", "label")), 2))
            rows = [row for row in rows if row[1][1] or not known]
            return parse_rows(path, rows, num_classes, words, known)
        # Editors on Windows put a byte-order mark in front.
        return parse_list(path, path.read_text("utf-8-sig"), num_classes, words, known)
    except FileNotFoundError:
        raise InputError(f"list file {path} does not exist; check the path.") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InputError(f"{path} is not a list file (text, one `path label` per line).") from None
    except OSError as error:
        raise InputError(
            f"cannot read list file {path}: {error.strerror}; check the path."
        ) from None


def parse_list(
    path: Path,
    text: str,
    num_classes: int | None = None,
    words: list[str] | None = None,
    known: bool = False,
) -> ImageList:
    """Parse the text of a list file; ``path`` names it in messages (see `read_list`)."""
    # Not splitlines, which also splits at characters that may be part of names.
    lines = enumerate(text.split("\n"), 1)
    rows = [(number, line.strip().rsplit(maxsplit=1)) for number, line in lines if line.strip()]
    return parse_rows(path, rows, num_classes, words, known)


def parse_rows(
    path: Path,
    given: list[tuple[int, list[str]]],
    num_classes: int | None,
    words: list[str] | None,
    known: bool,
) -> ImageList:
    """Check rows of line, path and label (see `read_list`)."""
    rows: dict[str, tuple[int, int]] = {}  # name to label and line
    faults: list[str] = []
    if words is None:  # a label that is no word makes the others mistakes
        texts = {parts[1] for _, parts in given if len(parts) == 2 and parts[1]}
        words = sorted(texts) if all(text[:1].isalpha() for text in texts) else []
    place = {word: str(label) for label, word in enumerate(words)}
    for number, parts in given:
        if len(parts) == 2 and place:
            parts = [parts[0], place.get(parts[1], parts[1])]
        fault = _fault(parts, num_classes, words, known)
        name = parts[0] if known else plain(parts[0])
        if fault is None and name in rows:
            fault = f"'{name}' is on line {rows[name][1]} already"
        if fault is None:
            rows[name] = int(parts[1]), number
        else:
            faults.append(f"{path}:{number}: {fault}")
    if faults:
        raise InputError(_lines(f"{len(faults)} bad row(s) in a list of `path label`", faults))
    if not rows:
        raise InputError(f"{path} names no image{' with its label' if known else ''}.")
    labels, lines = zip(*rows.values(), strict=True)
    numbers = torch.tensor(labels, dtype=torch.int64)
    return ImageList(path, list(rows), numbers, list(lines), words)


def _fault(parts: list[str], num_classes: int | None, words: list[str], known: bool) -> str | None:
    if len(parts) < 2 or not parts[1]:
        return f"no label after '{parts[0]}'"
    if not _WHOLE.fullmatch(parts[1]):
        if words:
            return f"the label '{parts[1]}' is none of the classes {listed(words, 5)}"
        return f"the label '{parts[1]}' is not a whole number"
    label, limit = int(parts[1]), MOST_CLASSES if num_classes is None else num_classes
    if not 0 <= label < limit:
        return f"label {label} is out of range (0 to {limit - 1})"
    if "\0" in parts[0]:
        return f"'{parts[0]}' holds a NUL character, which no file name does"
    if leaves_folder(parts[0]) and not known:
        return f"'{parts[0]}' leaves its folder; write paths relative to the data set's folder"
    return None


def _lines(title: str, lines: list[str]) -> str:
    more = [f"and {len(lines) - 20} more"] if len(lines) > 20 else []
    return "\n  ".join([f"{title}:", *lines[:20], *more])


class ImageListLT(FilesDataModule):
    r"""A long-tailed set given by list files of ``path label`` rows.

    A list may be a .csv, .tsv or .parquet file with columns ``path`` and ``label``, and labels may
    be words.

    Args:
        root: the folder or zip archive that the paths are relative to.
        train_list: the long-tailed training set.
        probe_list: the balanced set for linear probes; the training list if not given, which is
            then not balanced.
        test_list: the test set.
        num_classes: C; one more than the largest label of the training list if not given.
        options: those of `FilesDataModule`.

    Attributes:
        benchmark: name of a published benchmark (`datamodules.tail.recipes.LISTS`) whose totals
            the lists are compared with; differences are reported in the notes.

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
    benchmark: ClassVar[str | None] = None

    def __init__(
        self,
        root: str,
        train_list: str,
        probe_list: str | None = None,
        test_list: str | None = None,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if num_classes is not None:
            check_count("num_classes", num_classes)
        self.root = root
        self.train_list = train_list
        self.probe_list = probe_list
        self.test_list = test_list
        self.num_classes_wanted = num_classes

    def build(self) -> Sets:
        """Read the lists, find the images, open them."""
        reader = open_reader(self.root)
        train = self._read(reader, self.train_list, self.num_classes_wanted, None)
        classes = self.num_classes_wanted or int(train.labels.max()) + 1
        lists = {"train": train}
        for part, name in (("probe", self.probe_list), ("test", self.test_list)):
            if name is not None:
                lists[part] = self._read(reader, name, classes, train.words)
        for images in lists.values():
            _check_every_class(images, classes)
        pool = pool_of_lists(reader, lists)
        data, kept, _ = self.open_pool(pool)
        place = {name: row for row, name in enumerate(kept.names)}
        sets = {}
        notes = [*kept.notes, *self._differences(lists, classes), *_shared(lists)]
        numbers = [str(label) for label in range(classes)]
        for part, images in lists.items():
            names = [name for name in images.names if name in place]  # unreadable ones are left out
            rows = torch.tensor([place[name] for name in names], dtype=torch.int64)
            labels = kept.labels[rows]
            # Of this list alone, whatever the other lists: as `bcl split inspect` prints it.
            sets[part] = data.subset(rows, pool_fingerprint(names, labels))
            # The training list is unbalanced on purpose; a class that lost all its images is not.
            found = balance_notes(f"{part} list", labels, numbers)
            notes += [note for note in found if part != "train" or "without an image" in note]
        if "probe" not in sets:
            notes.append("no probe list: linear probes train on the long-tailed training set")
        title = self.benchmark or pool.title
        return Sets(
            train=sets["train"],
            probe=sets.get("probe", sets["train"]),
            test=sets.get("test"),
            class_names=train.words or _class_names(lists.values(), classes),
            recipe=f"{title}, list {train.path.name}: {len(sets['train'])} images",
            notes=notes,
            unreadable=kept.unreadable,
        )

    def _read(
        self, reader: Reader, name: str, classes: int | None, words: list[str] | None
    ) -> ImageList:
        """A list in the root, or one elsewhere; a root may be an archive that holds its lists."""
        path = Path(name).expanduser()
        inside = reader.root / path
        if not path.is_absolute() and inside.exists():
            return read_list(inside, classes, words)
        if not path.exists() and reader.root.is_file() and name in reader.names():
            text = reader.read(name).decode("utf-8-sig", "replace")
            return parse_list(inside, text, classes, words)
        return read_list(path, classes, words)

    def _differences(self, lists: dict[str, ImageList], classes: int) -> list[str]:
        """Totals that are not those of the published benchmark."""
        published = LISTS[self.benchmark] if self.benchmark else {}
        found = {part: len(images.names) for part, images in lists.items()} | {"classes": classes}
        return [
            f"{self.benchmark}: {part} has {found[part]:,}, published are {total:,}"
            for part, total in published.items()
            if found.get(part, total) != total
        ]


def pool_of_lists(reader: Reader, lists: dict[str, ImageList]) -> Pool:
    """All images of the lists, each once; refuses contradictions and images that are not there."""
    labels: dict[str, int] = {}
    missing: list[str] = []
    for images in lists.values():
        rows = zip(images.names, images.labels.tolist(), images.lines, strict=True)
        for name, label, line in rows:
            where = f"{images.path}:{line}: "
            if labels.setdefault(name, label) != label:
                raise InputError(
                    f"{where}'{name}' has label {label} here and {labels[name]} in another list; "
                    "the lists must agree."
                )
            try:
                reader.stamp(name)
            except FileNotFoundError:
                missing.append(f"{where}{name}")
            except OSError as error:  # a name too long, a link to itself, a file as a folder
                missing.append(f"{where}{name} ({error.strerror})")
    if missing:
        what = f"{len(missing)} image(s) of the lists are not in {reader.root}; unpack the data set"
        raise InputError(_lines(f"{what} there, or use its folder as root", missing))
    title = reader.root.name or reader.root.absolute().name
    return Pool(title, list(labels), torch.tensor(list(labels.values())), [], reader=reader)


def _shared(lists: dict[str, ImageList]) -> list[str]:
    """Notes on test images that are in another list too."""
    test = set(lists["test"].names) if "test" in lists else set()
    shared = {part: len(test.intersection(lists[part].names)) for part in lists if part != "test"}
    return [
        f"{count:,} of the {len(test):,} test images are in the {part} list too"
        for part, count in shared.items()
        if count
    ]


def _check_every_class(images: ImageList, num_classes: int) -> None:
    """Refuse a list in which a class has no image."""
    counts = torch.bincount(images.labels, minlength=num_classes)
    if empty := [str(label) for label in (counts == 0).nonzero()[:, 0].tolist()]:
        raise InputError(
            f"{images.path}: {len(empty)} of {num_classes} classes without an image: "
            f"{listed(empty)}; labels must run from 0 without gaps."
        )


def _class_names(lists: Iterable[ImageList], num_classes: int) -> list[str]:
    """Name classes by the folder of their images, where each class has a folder of its own."""
    folders: dict[int, set[str]] = {label: set() for label in range(num_classes)}
    for images in lists:
        for name, label in zip(images.names, images.labels.tolist(), strict=True):
            folders[label].add(PurePosixPath(name).parent.name)
    names = [next(iter(found)) for found in folders.values() if len(found) == 1]
    one_each = len(set(names)) == num_classes
    return names if one_each else [str(label) for label in range(num_classes)]


class ImageNetLT(ImageListLT):
    """ImageNet-LT of OLTR: 115,846 images in 1,000 classes, 1,280 to 5 each.

    Args:
        root: folder of ImageNet with ``train`` and ``val``, to which the lists' paths are relative.
        train_list: the published list, in ``root`` or elsewhere.
        probe_list: the balanced list for linear probes, such as the 100-shot list of GH.
        test_list: the published test list (the 50,000 validation images of ImageNet).
        image_size: pixels to which images are resized and cropped before the views.
        options: those of `ImageListLT` and `FilesDataModule`.

    Source: OLTR (arXiv 1904.05160).

    Example:
        >>> data = ImageNetLT("imagenet", batch_size=128)  # nothing is read yet
        >>> LISTS[data.benchmark]["train"], data.grouping
        (115846, 'thresholds')
    """

    benchmark = "ImageNet-LT"

    def __init__(
        self,
        root: str,
        train_list: str = "ImageNet_LT_train.txt",
        probe_list: str | None = "ImageNet_split1_test_100shot.txt",
        test_list: str | None = "ImageNet_LT_test.txt",
        image_size: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(root, train_list, probe_list, test_list, image_size=image_size, **options)


class ImageNet100LT(ImageListLT):
    """ImageNet-100-LT of SDCLR: 12,205 images in 100 classes; arguments as of `ImageNetLT`.

    Source: SDCLR (arXiv 2106.02990).
    """

    benchmark = "ImageNet-100-LT"

    def __init__(
        self,
        root: str,
        train_list: str = "imageNet_100_LT_train.txt",
        probe_list: str | None = "imageNet_100_BL_train.txt",
        test_list: str | None = "ImageNet_100_test.txt",
        image_size: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(root, train_list, probe_list, test_list, image_size=image_size, **options)


class PlacesLT(ImageListLT):
    """Places-LT of OLTR: 62,500 images in 365 classes; arguments as of `ImageNetLT`.

    Source: OLTR (arXiv 1904.05160).
    """

    benchmark = "Places-LT"

    def __init__(
        self,
        root: str,
        train_list: str = "Places_LT_train.txt",
        probe_list: str | None = "Places_split1_test_100shot.txt",
        test_list: str | None = "Places_LT_test.txt",
        image_size: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(root, train_list, probe_list, test_list, image_size=image_size, **options)


class INaturalist18(ImageListLT):
    """INaturalist 2018, 437,513 images in 8,142 classes; arguments as of `ImageNetLT`.

    The official training and validation lists are given as ``path label`` rows.
    """

    benchmark = "iNaturalist18"

    def __init__(
        self,
        root: str,
        train_list: str = "iNaturalist18_train.txt",
        probe_list: str | None = None,
        test_list: str | None = "iNaturalist18_val.txt",
        image_size: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(root, train_list, probe_list, test_list, image_size=image_size, **options)
