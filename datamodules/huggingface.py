"""Data sets of the Hugging Face hub, or saved by its library, made long-tailed."""

from pathlib import Path
from typing import Any

import torch

from bcl.core.errors import InputError, unknown_name
from datamodules.images.readers import read_regular
from datamodules.pool import Pool, PoolDataModule
from datamodules.tail.splits import MOST_CLASSES


class HuggingFaceLT(PoolDataModule):
    """An image classification set of the ``datasets`` library, with a long tail.

    Needs the extra ``datasets``. Images stay encoded as the library stores them, and are decoded
    like all others: once and cached, or by workers.

    Args:
        path: name on the hub, a folder that ``load_dataset`` opens, or one that ``save_to_disk``
            wrote. A data set without splits is the training part, and a test set is held out of it.
        name: configuration of the set, if it has several.
        split: the training split.
        test_split: the test split; None holds out a test set.
        image_column: column of the images.
        label_column: column of the labels; with None all rows of ``split`` are trained on.
        revision: commit or tag on the hub.
        options: those of `PoolDataModule` and `FilesDataModule`.

    Raises:
        InputError: the library is not installed, the set cannot be loaded, or has other columns.

    Example:
        >>> import tempfile
        >>> from datasets import Dataset, DatasetDict
        >>> from PIL import Image
        >>> folder, images = tempfile.mkdtemp(), [Image.new("RGB", (8, 8))] * 20
        >>> rows = Dataset.from_dict({"image": images, "label": [0, 1] * 10})
        >>> DatasetDict(train=rows).save_to_disk(folder)
        >>> data = HuggingFaceLT(folder, test_split=None, imbalance_factor=4, cache_dir=folder)
        >>> data.class_counts, len(data.test_set())
        (tensor([8, 2]), 4)
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = "train",
        test_split: str | None = "test",
        image_column: str = "image",
        label_column: str | None = "label",
        revision: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.path = path
        self.config_name = name
        self.train_split = split
        self.test_split = test_split
        self.image_column = image_column
        self.label_column = label_column
        self.revision = revision

    def pool(self) -> Pool:
        """Load both parts, without decoding an image."""
        parts = {"train": self._part(self.train_split)}
        if self.label_column is None:
            reader = _RowReader(Path(self.path), parts, self.image_column)
            names = reader.names()
            unknown = torch.full((len(names),), -1)
            return Pool(Path(self.path).name, names, unknown, [], reader=reader)
        if self.test_split is not None and not self._is_single():
            parts["test"] = self._part(self.test_split)
        wrong = InputError(
            f"{self.path}: column '{self.label_column}' must hold a class number 0, 1, ... in "
            "every row; if the test split has no labels, pass test_split=None."
        )
        try:
            labels = torch.cat([torch.tensor(p[self.label_column][:]) for p in parts.values()])
        except (TypeError, ValueError, RuntimeError):  # text, or rows without a label
            raise wrong from None
        if labels.is_floating_point() or labels.ndim != 1 or not len(labels):
            raise wrong
        if int(labels.min()) < 0 or int(labels.max()) >= MOST_CLASSES:
            raise wrong
        numbers = [str(label) for label in range(int(labels.max()) + 1)]
        classes = getattr(parts["train"].features[self.label_column], "names", None) or numbers
        reader = _RowReader(Path(self.path), parts, self.image_column)
        names = reader.names()
        test = torch.arange(len(names)) >= len(parts["train"]) if "test" in parts else None
        return Pool(Path(self.path).name, names, labels, list(classes), test, reader)

    def _is_single(self) -> bool:
        """Whether ``Dataset.save_to_disk`` wrote the folder, so that it has no parts."""
        if not (Path(self.path).expanduser() / "state.json").is_file():
            return False
        # The default names ask for nothing.
        for wanted, usual in ((self.train_split, "train"), (self.test_split, "test")):
            if wanted not in (usual, None):
                raise InputError(
                    f"{self.path} holds a single data set without splits, so there is no "
                    f"'{wanted}'; leave split and test_split out, and a test set is held out."
                )
        return True

    def _part(self, split: str) -> Any:
        datasets = import_datasets(type(self).__name__)
        folder = Path(self.path).expanduser()
        try:
            if (folder / "dataset_dict.json").is_file():
                saved = datasets.load_from_disk(str(folder))
                if split not in saved:
                    raise unknown_name("split", split, saved)
                part = saved[split]
            elif self._is_single():
                part = datasets.load_from_disk(str(folder))
            else:
                part = datasets.load_dataset(
                    self.path, self.config_name, split=split, revision=self.revision
                )
        except InputError:
            raise
        except Exception as error:  # its files hold arbitrary values
            raise _unloadable(f"'{self.path}' ({split})", error) from error
        for column in filter(None, (self.image_column, self.label_column)):
            if column not in part.features:
                raise unknown_name("column", column, part.features)
        return part.cast_column(self.image_column, datasets.Image(decode=False))


def open_rows(path: str, column: str = "image") -> "_RowReader":
    """All rows of a data set, saved or on the hub, as images."""
    datasets = import_datasets(f"the data set {path}")
    folder = Path(path).expanduser()
    try:
        saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
        found = datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(path)
    except Exception as error:  # its files hold arbitrary values
        raise _unloadable(f"'{path}'", error) from error
    parts = dict(found) if isinstance(found, dict) else {"train": found}
    for part in parts.values():
        if column not in part.features:
            raise unknown_name("column", column, part.features)
    undecoded = datasets.Image(decode=False)
    parts = {name: part.cast_column(column, undecoded) for name, part in parts.items()}
    return _RowReader(Path(path), parts, column)


def _unloadable(what: str, error: Exception) -> InputError:
    reason = str(error) or type(error).__name__
    return InputError(f"cannot load {what}: {reason}; name another folder or set of the hub.")


def import_datasets(needed_by: str) -> Any:
    """The library ``datasets``, or how to install it."""
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{needed_by} needs the library `datasets`; install it with: pip install "
            "'bcl-cacr[datasets]'."
        ) from None
    return datasets


class _RowReader:
    """Rows of a `datasets.Dataset` as files named ``train/0``, ``train/1``, ..."""

    def __init__(self, root: Path, parts: dict[str, Any], column: str) -> None:
        self.root = root
        self._parts = parts
        self._column = column

    def names(self) -> list[str]:
        return [f"{part}/{row}" for part, data in self._parts.items() for row in range(len(data))]

    def read(self, name: str) -> bytes:
        part, row = name.split("/")
        image = self._parts[part][int(row)][self._column] or {}
        if image.get("bytes") is not None:
            return bytes(image["bytes"])
        if image.get("path") is None:
            raise OSError("no image in this row")
        return read_regular(image["path"])

    def stamp(self, name: str) -> str:
        # The library changes its fingerprint with every change of the data.
        stamp: str = self._parts[name.split("/")[0]]._fingerprint
        return stamp
