"""Data sets of the Hugging Face hub, or saved by its library, made long-tailed."""

from pathlib import Path
from typing import Any

import torch

from bcl.core.errors import InputError, unknown_name
from datamodules.pool import Pool, PoolDataModule
from datamodules.tail.splits import MOST_CLASSES


class HuggingFaceLT(PoolDataModule):
    """An image classification set of the ``datasets`` library, with a long tail.

    Needs the extra ``datasets``. Images stay encoded as the library stores them, and go the way
    of all others: decoded once and cached, or by workers.

    Args:
        path: name on the hub, or a folder written by ``save_to_disk``: of a set with parts, or of
            a single one, which is then the training part, and a test set is held out.
        name: configuration of the set, if it has several.
        split: its training part.
        test_split: its test part; a test set is held out if None.
        image_column: column of the images.
        label_column: column of the labels.
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
        label_column: str = "label",
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
        if self.test_split is not None and not self._is_single():
            parts["test"] = self._part(self.test_split)
        feature = parts["train"].features[self.label_column]
        try:
            labels = [torch.tensor(part[self.label_column][:]) for part in parts.values()]
        except (TypeError, ValueError, RuntimeError):  # text, or rows without a label
            labels = [torch.empty(0)]
        if any(one.is_floating_point() or one.ndim != 1 for one in labels):
            raise InputError(
                f"{self.path}: column '{self.label_column}' holds no class numbers, or not in "
                "every row."
            )
        numbers = torch.cat(labels)
        if not len(numbers) or not 0 <= int(numbers.min()) <= int(numbers.max()) < MOST_CLASSES:
            raise InputError(
                f"{self.path}: column '{self.label_column}' holds labels outside 0, 1, ...: "
                f"{int(numbers.min()) if len(numbers) else 'none'}; a test part without labels is "
                "left out with test_split=None."
            )
        classes = getattr(feature, "names", None) or [
            str(label) for label in range(int(numbers.max()) + 1)
        ]
        source = _Rows(Path(self.path), parts, self.image_column)
        names = source.names()
        test = torch.tensor([name.startswith("test/") for name in names])
        return Pool(
            Path(self.path).name,
            names,
            numbers,
            list(classes),
            test if "test" in parts else None,
            source,
        )

    def _is_single(self) -> bool:
        """Whether the path is a folder that ``Dataset.save_to_disk`` wrote, without parts.

        Raises:
            InputError: it is, and a part was asked for by its name.
        """
        if not (Path(self.path).expanduser() / "state.json").is_file():
            return False
        # The names that both have if nobody gives one ask for nothing.
        for wanted, usual in ((self.train_split, "train"), (self.test_split, "test")):
            if wanted not in (usual, None):
                raise InputError(
                    f"{self.path} holds a single data set without parts, so there is no "
                    f"'{wanted}'; leave split and test_split out, and a test set is held out."
                )
        return True

    def _part(self, split: str) -> Any:
        try:
            import datasets
        except ImportError:
            raise InputError(
                "HuggingFaceLT needs the library `datasets`; install it with: pip install "
                "'bcl-cacr[datasets]'."
            ) from None
        try:
            if (Path(self.path).expanduser() / "dataset_dict.json").is_file():
                data = datasets.load_from_disk(str(Path(self.path).expanduser()))
                if split not in data:
                    raise unknown_name("split", split, data)
                part = data[split]
            elif self._is_single():
                part = datasets.load_from_disk(str(Path(self.path).expanduser()))
            else:
                part = datasets.load_dataset(
                    self.path, self.config_name, split=split, revision=self.revision
                )
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"cannot load '{self.path}' ({split}): {error}") from None
        for column in (self.image_column, self.label_column):
            if column not in part.features:
                raise unknown_name("column", column, part.features)
        return part.cast_column(self.image_column, datasets.Image(decode=False))


class _Rows:
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
        return Path(image["path"]).read_bytes()

    def stamp(self, name: str) -> str:
        # The library changes its fingerprint with every change of the data.
        part: str = self._parts[name.split("/")[0]]._fingerprint
        return part
