"""Arrays in memory, made long-tailed."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from datamodules.images.dataset import fingerprint_of
from datamodules.pool import Pool, PoolDataModule
from datamodules.tail.splits import MOST_CLASSES, read_npy


class ArraysLT(PoolDataModule):
    """Images and labels in memory (or in .npy files), with a long tail.

    Args:
        images: uint8, (N, S, S), (N, 1, S, S), (N, 3, S, S) or (N, S, S, 3): a tensor, an array,
            or the path of a .npy file.
        labels: (N,) integers from 0 without gaps, likewise.
        test_images: test images; held out of ``images`` if not given.
        test_labels: their labels.
        class_names: C names; the numbers if not given.
        options: those of `PoolDataModule` and `FilesDataModule`; the images' own size is kept.

    Raises:
        InputError: other shapes or types.

    Example:
        >>> images = torch.zeros(40, 3, 8, 8, dtype=torch.uint8)
        >>> data = ArraysLT(images, torch.arange(40) % 2, imbalance_factor=4, batch_size=4)
        >>> data.class_counts
        tensor([16,  4])
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        test_images: Any = None,
        test_labels: Any = None,
        class_names: list[str] | None = None,
        **options: Any,
    ) -> None:
        self._train = _pair(images, labels, "images")
        self._test = None
        if (test_images is None) != (test_labels is None):
            raise InputError("give test_images and test_labels, or neither.")
        if test_images is not None:
            self._test = _pair(test_images, test_labels, "test_images")
        size = self._train[0].shape[2]
        if options.setdefault("image_size", size) != size:
            raise InputError(f"the images have {size} px, got image_size {options['image_size']}.")
        super().__init__(**options)
        self._names = class_names

    def pool(self) -> Pool:
        """Join the training and test images."""
        images, labels = self._train
        test = None
        if self._test is not None:
            if self._test[0].shape[1:] != images.shape[1:]:
                raise InputError(
                    f"test_images are of shape {tuple(self._test[0].shape[1:])}, images of "
                    f"{tuple(images.shape[1:])}."
                )
            test = torch.arange(len(images) + len(self._test[0])) >= len(images)
            images = torch.cat([images, self._test[0]])
            labels = torch.cat([labels, self._test[1]])
        present = torch.bincount(self._train[1])
        classes = self._names or [str(label) for label in range(len(present))]
        empty = (present == 0).nonzero()[:, 0].tolist()
        if empty or len(present) != len(classes) or int(labels.max()) >= len(classes):
            raise InputError(
                f"labels must run from 0 to {len(classes) - 1} without gaps; there are "
                f"{int(labels.max()) + 1} classes, without an image: {empty or 'none'}."
            )
        # Images in memory have no names; the bytes of their set tell them apart, and stand in
        # every name, since a split's hash covers the names of the training images alone.
        names = [fingerprint_of(self._train[0])] * len(self._train[0])
        if self._test is not None:
            names += [fingerprint_of(self._test[0])] * len(self._test[0])
        return Pool("arrays", names, labels, classes, test, images=images)


def _pair(images: Any, labels: Any, what: str) -> tuple[Tensor, Tensor]:
    names = {"images": ("images", "labels"), "test_images": ("test_images", "test_labels")}[what]
    stacked, classes = _tensor(images, names[0]), _tensor(labels, names[1])
    if stacked.ndim == 3:
        stacked = stacked[:, None]
    elif stacked.ndim == 4 and stacked.shape[-1] == 3 and stacked.shape[1] != 3:
        stacked = stacked.permute(0, 3, 1, 2)
    if stacked.ndim == 4 and stacked.shape[1] == 1:
        stacked = stacked.expand(-1, 3, -1, -1)
    square = stacked.ndim == 4 and stacked.shape[1] == 3 and stacked.shape[2] == (stacked.shape[3])
    if stacked.dtype != torch.uint8 or not square:
        raise InputError(
            f"{what} must be uint8 of shape (N, S, S), (N, 3, S, S) or (N, S, S, 3), got "
            f"{stacked.dtype} of shape {tuple(stacked.shape)}."
        )
    integers = not (
        classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool
    )
    if classes.ndim != 1 or len(classes) != len(stacked) or not integers:
        raise InputError(
            f"{what}: {len(stacked)} images need {len(stacked)} integer labels, got "
            f"{classes.dtype} of shape {tuple(classes.shape)}."
        )
    if not len(classes):
        raise InputError(f"{what} are empty.")
    # First of all: torch finds no smallest value of unsigned types. What is past int64 becomes
    # negative, which is refused as well.
    classes = classes.to(torch.int64)
    if int(classes.min()) < 0:
        raise InputError(f"{what}: label {int(classes.min())} is negative.")
    if int(classes.max()) >= MOST_CLASSES:
        raise InputError(f"{what}: label {int(classes.max())} is out of range; count from 0.")
    return stacked.contiguous(), classes


def _tensor(value: Any, what: str) -> Tensor:
    import numpy as np

    if isinstance(value, str | Path):
        path = Path(value).expanduser()
        if not path.is_file():
            raise InputError(f"array file {path} does not exist.")
        return read_npy(path)
    try:
        if isinstance(value, Tensor):
            return value
        array = np.asarray(value)
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(np.ascontiguousarray(native))  # of negative strides, too
    except (TypeError, ValueError, RuntimeError):
        kind = getattr(value, "dtype", None) or type(value).__name__
        hint = (
            "number the classes from 0: class_names, labels = numpy.unique(names, "
            "return_inverse=True)"
            if what.endswith("labels")
            else "stack images of one size: numpy.stack(images).astype('uint8')"
        )
        raise InputError(
            f"{what} must be an array of numbers, a tensor or a .npy file, got {kind}; {hint}."
        ) from None
