"""Arrays in memory, made long-tailed."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.hashing import fingerprint
from datamodules.pool import Pool, PoolDataModule
from datamodules.tail.splits import MOST_CLASSES, read_npy


class ArraysLT(PoolDataModule):
    """Images and labels in memory (or in .npy files), with a long tail.

    Args:
        images: uint8, (N, S, S), (N, 1, S, S), (N, 3, S, S) or (N, S, S, 3): a tensor, an array,
            or the path of a .npy file.
        labels: (N,) integers from 0 without gaps, in the same forms; without them all images are
            trained on.
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
        labels: Any = None,
        test_images: Any = None,
        test_labels: Any = None,
        class_names: list[str] | None = None,
        **options: Any,
    ) -> None:
        if (test_images is None) != (test_labels is None):
            raise InputError("give test_images and test_labels, or neither.")
        if labels is None and (test_images is not None or class_names is not None):
            raise InputError("test images and class names go with labels; give labels, too.")
        self._train = _pair("images", images, "labels", labels)
        self._test: tuple[Tensor, Tensor] | None = None
        if test_images is not None:
            self._test = _pair("test_images", test_images, "test_labels", test_labels)
        size = self._train[0].shape[2]
        if options.setdefault("image_size", size) != size:
            raise InputError(f"the images have {size} px, got image_size {options['image_size']}.")
        super().__init__(**options)
        self._names = class_names

    def pool(self) -> Pool:
        """Join the training and test images."""
        images, labels = self._train
        if int(labels[0]) < 0:
            unnamed = list(map(str, range(len(images))))
            return Pool("arrays", unnamed, labels, [], images=images)
        # Images in memory have no names. A hash of their set stands in every name, because a
        # split's hash covers the names of the training images only.
        names, test = [fingerprint(images)] * len(images), None
        if self._test is not None:
            test_images, test_labels = self._test
            if test_images.shape[1:] != images.shape[1:]:
                raise InputError(
                    f"test_images are of shape {tuple(test_images.shape[1:])}, images of "
                    f"{tuple(images.shape[1:])}."
                )
            test = torch.arange(len(images) + len(test_images)) >= len(images)
            names += [fingerprint(test_images)] * len(test_images)
            images, labels = torch.cat([images, test_images]), torch.cat([labels, test_labels])
        present = torch.bincount(self._train[1])
        classes = self._names or [str(label) for label in range(len(present))]
        empty = (present == 0).nonzero()[:, 0].tolist()
        if empty or len(present) != len(classes) or int(labels.max()) >= len(classes):
            raise InputError(
                f"labels must run from 0 to {len(classes) - 1} without gaps; there are "
                f"{int(labels.max()) + 1} classes, without an image: {empty or 'none'}."
            )
        return Pool("arrays", names, labels, classes, test, images=images)


def _pair(what: str, images: Any, label_name: str, labels: Any) -> tuple[Tensor, Tensor]:
    """uint8 (N, 3, S, S) and int64 (N,) of arrays in any allowed form, -1 without labels."""
    stacked = _tensor(images, what)
    classes = None if labels is None else _tensor(labels, label_name)
    if stacked.ndim == 3:
        stacked = stacked[:, None]
    elif stacked.ndim == 4 and stacked.shape[-1] == 3 and stacked.shape[1] != 3:
        stacked = stacked.permute(0, 3, 1, 2)
    if stacked.ndim == 4 and stacked.shape[1] == 1:
        stacked = stacked.expand(-1, 3, -1, -1)
    square = stacked.ndim == 4 and stacked.shape[1] == 3 and stacked.shape[2] == stacked.shape[3]
    if stacked.dtype != torch.uint8 or not square or not len(stacked):
        step = f"; {what}[..., :3] drops the fourth channel" if stacked.shape[-1:] == (4,) else ""
        raise InputError(
            f"{what} must be uint8 of shape (N, S, S), (N, 3, S, S) or (N, S, S, 3), and not "
            f"empty; got {stacked.dtype} of shape {tuple(stacked.shape)}{step}."
        )
    if classes is None:
        return stacked.contiguous(), torch.full((len(stacked),), -1)
    kind = classes.dtype
    integers = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
    if classes.shape != (len(stacked),) or not integers:
        raise InputError(
            f"{what}: {len(stacked)} images need {len(stacked)} integer labels, got {kind} of "
            f"shape {tuple(classes.shape)}."
        )
    # First of all: torch finds no minimum of unsigned types. What exceeds int64 becomes negative.
    classes = classes.to(torch.int64)
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= MOST_CLASSES:
        raise InputError(f"{what}: label {low if low < 0 else high} is out of range; count from 0.")
    return stacked.contiguous(), classes


def _tensor(value: Any, what: str) -> Tensor:
    import numpy as np

    if isinstance(value, Tensor):
        return value
    if isinstance(value, str | Path):
        path = Path(value).expanduser()
        if not path.is_file():
            raise InputError(f"array file {path} does not exist.")
        return read_npy(path)
    try:
        array = np.asarray(value)
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(np.ascontiguousarray(native))  # of negative strides, too
    except (TypeError, ValueError, RuntimeError):
        kind = getattr(value, "dtype", None) or type(value).__name__
        hint = "stack images of one size: numpy.stack(images).astype('uint8')"
        if what.endswith("labels"):
            hint = "class_names, labels = numpy.unique(names, return_inverse=True)"
        raise InputError(
            f"{what} must be an array of numbers, a tensor or a .npy file, got {kind}; {hint}."
        ) from None
