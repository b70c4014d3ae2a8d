"""Splits as files: which images of a data set a long-tailed subset holds."""

import json
import pickletools
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.files import atomic_write, write_text
from bcl.core.hashing import fingerprint

_FORMAT = "bcl-split-1"
MOST_CLASSES = 10_000_000  # a label beyond is a mistake
_SDCLR_TOTALS = (9754, 11165)  # CIFAR-100, CIFAR-10


@dataclass(frozen=True)
class Split:
    """A subset of a data set."""

    indices: Tensor  # (n,) int64 positions in the data set; a sample's id is its place here
    labels: Tensor | None = None  # (n,) int64 classes; None where only the indices are known
    num_classes: int = 0  # 0 where unknown, as `pool_size`
    recipe: str = "unnamed"
    pool: str = ""  # fingerprint of the data set; empty where unknown
    pool_size: int = 0

    @property
    def content_hash(self) -> str:
        """Hash of the data set, the images and their classes: the one that reports carry."""
        labels = torch.empty(0, dtype=torch.int64) if self.labels is None else self.labels
        return fingerprint(self.pool, self.indices, labels)

    @property
    def index_hash(self) -> str:
        """Hash of the sorted indices: equal for the same subset in any order and file format."""
        return fingerprint(self.indices.sort().values)

    @property
    def counts(self) -> list[int] | None:
        """Images of each class; None where only the indices are known."""
        if self.labels is None:
            return None
        return torch.bincount(self.labels, minlength=self.num_classes).tolist()

    def __len__(self) -> int:
        return len(self.indices)


def pool_fingerprint(names: Sequence[str], labels: Tensor) -> str:
    """Hash the names and classes of a data set's images, in order."""
    return fingerprint("\n".join(names), labels)


def with_labels(split: Split, labels: Tensor, num_classes: int, pool: str) -> Split:
    """Complete a split with the (N,) labels of its data set; refuses another data set."""
    if split.pool and split.pool != pool:
        raise InputError(
            f"the split '{split.recipe}' was made for the data set {split.pool} of "
            f"{split.pool_size} images, this one is {pool} of {len(labels)}; use the data it was "
            "made for, or make a new split."
        )
    check_indices(split.indices, len(labels), f"the split '{split.recipe}'")
    chosen = labels[split.indices]
    if not split.pool and len(split) in _SDCLR_TOTALS:
        # An index file does not name its data set. Indices for another order of the images would
        # pass as a random subset.
        counts = torch.bincount(chosen, minlength=num_classes)
        if int(counts.max()) < 2 * int(counts.min()):
            raise InputError(
                f"the split '{split.recipe}' of {len(split)} images should be long-tailed, but "
                f"gives {int(counts.min())} to {int(counts.max())} images per class here; its "
                "indices follow CIFAR's own order, as CIFAR10LT and CIFAR100LT load it."
            )
    return Split(split.indices, chosen, num_classes, split.recipe, pool, len(labels))


def check_indices(indices: Tensor, size: int, where: str) -> None:
    """Refuse duplicate indices and, if ``size`` is positive, those outside the data set."""
    outside = (indices < 0) | ((indices >= size) if size else torch.zeros_like(indices).bool())
    if bool(outside.any()):
        position = int(outside.nonzero()[0, 0])
        limit = f"the set of {size} images" if size else "any set"
        raise InputError(
            f"{where}: index {int(indices[position])} at position {position} lies outside "
            f"{limit}; was the split made for another data set?"
        )
    ordered, order = indices.sort(stable=True)
    doubled = (ordered[1:] == ordered[:-1]).nonzero()[:, 0]
    if len(doubled):
        first = int(order[doubled[0] + 1])
        raise InputError(
            f"{where}: index {int(indices[first])} at position {first} occurs twice "
            f"({len(doubled)} duplicates in all); list each sample once."
        )


def load_split(path: str | Path) -> Split:
    """Read an index file (.npy), which has no labels, or a split saved by `save_split` (.json)."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"split file {path} does not exist; check the path.")
    if path.suffix == ".npy":
        indices = read_npy(path)
        numbers = not (indices.is_floating_point() or indices.is_complex())
        if indices.ndim != 1 or not numbers or indices.dtype == torch.bool:
            raise InputError(
                f"{path}: an index file holds one row of integers, this one {indices.dtype} of "
                f"shape {tuple(indices.shape)}."
            )
        split = Split(indices.to(torch.int64), recipe=f"index file {path.name}")
    elif path.suffix == ".json":
        split = _read_json(path)
    else:
        raise InputError(
            f"{path}: a split is an index file (.npy) or a saved split (.json); ImageListLT reads "
            "list files (`path label`)."
        )
    check_indices(split.indices, split.pool_size, str(path))
    if not len(split):
        raise InputError(f"{path}: the split is empty.")
    return split


def read_npy(path: Path) -> Tensor:
    """Read a NumPy array without unpickling; refuses damaged files and pickled objects."""
    import numpy as np

    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(np.ascontiguousarray(native))
    except (MemoryError, OverflowError):  # the header of a damaged file may state any shape
        raise InputError(
            f"{path} is truncated, or larger than memory: it has "
            f"{path.stat().st_size:,} bytes but its header states more. Copy or save it again."
        ) from None
    except (ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError) as error:
        if "pickle" in str(error) or "Object arrays" in str(error) or _is_pickle(path):
            raise InputError(
                f"{path} holds pickled objects, which can run code when they are loaded; it was "
                "not loaded. If you trust it, save a plain array with "
                "numpy.save(path, numpy.array(values, dtype='int64'))."
            ) from None
        raise InputError(f"{path} is not an intact .npy file ({error}); copy it again.") from None


def _is_pickle(path: Path) -> bool:
    """Whether a file is a pickle from beginning to end; its opcodes are parsed, not executed."""
    try:
        with path.open("rb") as file:
            for _ in pickletools.genops(file):
                pass
            return not file.read(1)
    except (ValueError, OverflowError, MemoryError):
        return False


def _read_json(path: Path) -> Split:
    try:
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if data.get("format") != _FORMAT:
            raise InputError(f"{path} is not a split saved by `bcl split` (no '{_FORMAT}').")
        labels, stated = data["labels"], data["content_hash"]
        split = Split(
            torch.tensor(data["indices"], dtype=torch.int64),
            None if labels is None else torch.tensor(labels, dtype=torch.int64),
            int(data["num_classes"]),
            str(data["recipe"]),
            str(data["pool"]),
            int(data["pool_size"]),
        )
        if not 0 <= split.num_classes <= MOST_CLASSES:
            raise ValueError(f"num_classes {split.num_classes}")
        if split.labels is not None and len(split.labels):
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= split.num_classes:
                raise ValueError(f"labels {low} to {high} in {split.num_classes} classes")
    except InputError:
        raise
    except (ValueError, AttributeError, LookupError, TypeError, RuntimeError, OverflowError) as e:
        raise InputError(
            f"{path} is not an intact saved split: {e!r}; make it again with `bcl split make`."
        ) from None
    if split.content_hash != stated:
        raise InputError(
            f"{path} was changed since it was saved: its content hash is {split.content_hash}, "
            f"it states {stated}; make it again with `bcl split make`."
        )
    return split


def save_split(split: Split, path: str | Path) -> None:
    """Write a split: ``.npy``, indices in the published format, or ``.json``, everything."""
    import numpy as np

    path = Path(path).expanduser()
    if path.suffix == ".npy":
        array = split.indices.numpy()
        atomic_write(path, lambda file: np.lib.format.write_array(file, array, allow_pickle=False))
    elif path.suffix == ".json":
        data = {
            "format": _FORMAT,
            "recipe": split.recipe,
            "total": len(split),
            "content_hash": split.content_hash,
            "num_classes": split.num_classes,
            "counts": split.counts,
            "pool": split.pool,
            "pool_size": split.pool_size,
            "labels": None if split.labels is None else split.labels.tolist(),
            "indices": split.indices.tolist(),
        }
        write_text(path, json.dumps(data) + "\n")
    else:
        raise InputError(f"{path}: save a split as .npy (indices) or .json (everything).")


def compare(one: Split, other: Split) -> dict[str, Any]:
    """Images in ``common``, ``same``, ``same_order``, and ``classes_that_differ`` in counts."""
    if one.pool and other.pool and one.pool != other.pool:
        raise InputError(
            f"the splits are of different data sets: {one.pool} of {one.pool_size} images and "
            f"{other.pool} of {other.pool_size}."
        )
    common = int(torch.isin(one.indices, other.indices).sum())
    classes: list[int] | None = None
    if one.counts is not None and other.counts is not None:
        width = max(len(one.counts), len(other.counts))
        first, second = (c + [0] * (width - len(c)) for c in (one.counts, other.counts))
        classes = [index for index in range(width) if first[index] != second[index]]
    return {
        "same": common == len(one) == len(other),
        "same_order": one.indices.equal(other.indices),
        "common": common,
        "classes_that_differ": classes,
    }
