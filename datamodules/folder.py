"""Anyone's images in class folders, made long-tailed."""

from bisect import bisect_left
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from datamodules.images.readers import Source, is_image, open_source, shown
from datamodules.pool import Pool, PoolDataModule

_TEST_NAMES = ("test", "val", "valid", "validation")


class ImageFolderLT(PoolDataModule):
    """A folder (or a zip archive) of class folders, with a long tail.

    Two layouts are read: ``root/<class>/*.jpg``, from which a balanced test set is held out, and
    ``root/train/<class>/*.jpg`` with ``root/test`` (or ``val``) beside it, which is taken as it
    is. The probe set is all training images. An image set that fits is decoded once and cached.

    Args:
        root: the folder or zip archive.
        imbalance_factor: largest over smallest class; 1 for balanced; None takes all training
            images as they are.
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

    def __init__(self, root: str, imbalance_factor: float | None = 100.0, **options: Any) -> None:
        super().__init__(imbalance_factor=imbalance_factor, **options)
        self.root = root

    def pool(self) -> Pool:
        """Scan the class folders."""
        return folder_pool(open_source(self.root))


def folder_pool(source: Source) -> Pool:
    """List all images of a folder or archive of class folders.

    Args:
        source: the folder or archive.

    Returns:
        Its images; the test folder's are marked.

    Raises:
        InputError: no class folders, an empty one, or other classes in the test folder.
    """
    train_prefix, test_prefix = layout(source)
    names, labels, classes, other = scan(source, train_prefix)
    test = None
    if test_prefix is not None:
        test_names, test_labels, test_classes, more = scan(source, test_prefix)
        other += more
        if test_classes != classes:
            odd = sorted(set(classes) ^ set(test_classes))
            raise InputError(
                f"{source.root}: {train_prefix} and {test_prefix} hold different classes "
                f"({', '.join(odd[:5])}); both need the same folders."
            )
        test = torch.arange(len(names) + len(test_names)) >= len(names)
        names, labels = names + test_names, torch.cat([labels, test_labels])
    notes = []
    beside = [
        shown(name)
        for name in _tops(source.names(), "")
        if train_prefix and f"{name}/" not in (train_prefix, test_prefix)
    ]
    if beside:
        notes.append(f"folders beside {train_prefix} that are not read: {', '.join(beside[:10])}")
    if other:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(other.items())[:10])
        notes.append(f"files in class folders that are no images by their ending: {kinds}")
    title = source.root.name or source.root.absolute().name  # of ".", too
    return Pool(title, names, labels, classes, test, source, notes=notes)


def layout(source: Source) -> tuple[str, str | None]:
    """Find the prefixes of the training and the test folders (None if there is none)."""
    tops = set(_tops(source.names(), ""))
    if "train" not in tops or not _tops(source.names(), "train/"):
        return "", None  # "train" may be a class, too: then it holds no folders
    test = next((name for name in _TEST_NAMES if name in tops), None)
    return "train/", f"{test}/" if test else None


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
        place = bisect_left(names, names[place][:slash] + "0", place)  # "0" comes after "/"
    return found


def scan(source: Source, prefix: str) -> tuple[list[str], Tensor, list[str], Counter[str]]:
    """List the images of the class folders below a prefix.

    Args:
        source: the folder or archive.
        prefix: ``""`` or a folder with a slash at its end.

    Returns:
        Names sorted by class and name, (N,) labels, class names sorted, and how many other files
        there are by their ending.

    Raises:
        InputError: no class folders, a single one, or a class folder without images.
    """
    names = source.names()
    classes = sorted({*_folders(source, prefix), *_tops(names, prefix)})
    where = shown(f"{source.root}/{prefix}".rstrip("/"))
    if not classes:
        raise InputError(f"{where} holds no class folders; expected {where}/<class>/<image>.jpg.")
    images: list[str] = []
    counts: list[int] = []
    other: Counter[str] = Counter()
    for label in classes:
        first = bisect_left(names, f"{prefix}{label}/")
        inside = names[first : bisect_left(names, f"{prefix}{label}0", first)]
        good = [name for name in inside if is_image(name)]
        if len(good) < len(inside):
            other.update(_ending(name) for name in inside if not is_image(name))
        images += good
        counts.append(len(good))
    empty = [shown(label) for label, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise InputError(
            f"{where}: class folder{'s' if len(empty) > 1 else ''} without an image: "
            f"{', '.join(empty[:10])}{' ...' if len(empty) > 10 else ''}; fill or remove."
        )
    if len(classes) == 1:
        only = shown(classes[0])
        hint = "a long-tailed set needs two at least"
        if inner := _tops(names, f"{prefix}{classes[0]}/"):
            place = f"an archive of {only} alone" if source.root.is_file() else f"{where}/{only}"
            listed = ", ".join(map(shown, inner[:5]))
            hint = f"if the classes are the folders inside ({listed}), give {place} as root"
        raise InputError(f"{where} holds a single class folder, {only}; {hint}.")
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts))
    return images, labels, classes, other


def _ending(name: str) -> str:
    base = name.rpartition("/")[2]
    return shown(f".{base.rpartition('.')[2].lower()}") if "." in base else "without ending"


def _folders(source: Source, prefix: str) -> list[str]:
    # Those without files too; an archive names none of these.
    folder = source.root / prefix
    if not folder.is_dir():
        return []
    return [
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.name != "lost+found"
    ]
