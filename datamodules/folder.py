"""Anyone's pictures in class folders, made long-tailed."""

from typing import Any

import torch
from torch import Tensor

from bcl.errors import InputError
from datamodules.pools import Pool, PoolDataModule
from datamodules.sources import Source, is_picture, open_source

_TEST_NAMES = ("test", "val", "valid", "validation")


class ImageFolderLT(PoolDataModule):
    """A folder (or a zip archive) of class folders, with a long tail.

    Two layouts are read: ``root/<class>/*.jpg``, from which a balanced test set is held out, and
    ``root/train/<class>/*.jpg`` with ``root/test`` (or ``val``) beside it, which is taken as it
    is. The probe set is all training pictures. A picture set that fits is decoded once and cached.

    Args:
        root: the folder or zip archive.
        imbalance_factor: largest over smallest class; 1 for balanced; None takes all training
            pictures as they are.
        options: those of `PoolDataModule` and `FilesDataModule`.

    Raises:
        InputError: a bad folder or argument.
    """

    def __init__(self, root: str, imbalance_factor: float | None = 100.0, **options: Any) -> None:
        super().__init__(imbalance_factor=imbalance_factor, **options)
        self.root = root

    def pool(self) -> Pool:
        """Scan the class folders."""
        return folder_pool(open_source(self.root))


def folder_pool(source: Source) -> Pool:
    """List all pictures of a folder or archive of class folders.

    Args:
        source: the folder or archive.

    Returns:
        Its pictures; the test folder's are marked.

    Raises:
        InputError: no class folders, an empty one, or other classes in the test folder.
    """
    train_prefix, test_prefix = layout(source)
    names, labels, classes = scan(source, train_prefix)
    test = None
    if test_prefix is not None:
        test_names, test_labels, test_classes = scan(source, test_prefix)
        if test_classes != classes:
            odd = sorted(set(classes) ^ set(test_classes))
            raise InputError(
                f"{source.root}: {train_prefix} and {test_prefix} hold different classes "
                f"({', '.join(odd[:5])}); both need the same folders."
            )
        test = torch.arange(len(names) + len(test_names)) >= len(names)
        names, labels = names + test_names, torch.cat([labels, test_labels])
    return Pool(source.root.name, names, labels, classes, test, source)


def layout(source: Source) -> tuple[str, str | None]:
    """Find the prefixes of the training and the test folders (None if there is none)."""
    tops = {name.split("/", 1)[0] for name in source.names() if "/" in name}
    if "train" not in tops:
        return "", None
    test = next((name for name in _TEST_NAMES if name in tops), None)
    return "train/", f"{test}/" if test else None


def scan(source: Source, prefix: str) -> tuple[list[str], Tensor, list[str]]:
    """List the pictures of the class folders below a prefix.

    Args:
        source: the folder or archive.
        prefix: ``""`` or a folder with a slash at its end.

    Returns:
        Names sorted by class and name, (N,) labels, class names sorted.

    Raises:
        InputError: no class folders, or a class folder without pictures.
    """
    by_class: dict[str, list[str]] = {name: [] for name in _folders(source, prefix)}
    for name in source.names():
        rest = name[len(prefix) :]
        if name.startswith(prefix) and "/" in rest:
            pictures = by_class.setdefault(rest.split("/", 1)[0], [])
            if is_picture(name):
                pictures.append(name)
    where = f"{source.root}/{prefix}".rstrip("/")
    if not by_class:
        raise InputError(f"{where} holds no class folders; expected {where}/<class>/<picture>.jpg.")
    empty = sorted(name for name, pictures in by_class.items() if not pictures)
    if empty:
        raise InputError(
            f"{where}: class folder{'s' if len(empty) > 1 else ''} without a picture: "
            f"{', '.join(empty[:10])}{' ...' if len(empty) > 10 else ''}; fill or remove."
        )
    classes = sorted(by_class)
    names = [name for label in classes for name in by_class[label]]
    labels = torch.tensor(
        [index for index, label in enumerate(classes) for _ in by_class[label]], dtype=torch.int64
    )
    return names, labels, classes


def _folders(source: Source, prefix: str) -> list[str]:
    # Those without files too; an archive names none of these.
    folder = source.root / prefix
    if not folder.is_dir():
        return []
    return [e.name for e in folder.iterdir() if e.is_dir() and not e.name.startswith(".")]
