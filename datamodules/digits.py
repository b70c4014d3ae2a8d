"""Scikit-learn's handwritten digits, long-tailed: real images without a download."""

import torch

from bcl.core.errors import InputError
from datamodules.base import LongTailedDataModule, Sets
from datamodules.external import SelectionSettings
from datamodules.images.dataset import ImageDataset
from datamodules.tail.profiles import (
    check_factor,
    check_none_empty,
    exponential_counts,
    shuffled_counts,
)
from datamodules.tail.recipes import TEST_STREAM, choose, hold_out, select


class DigitsLT(LongTailedDataModule):
    """The 1,797 digits of scikit-learn (8 x 8 grayscale), enlarged, with an exponential long tail.

    A balanced test set (``test_per_class`` of each digit) is held out first; the probe set has
    the same number of each digit from the rest, and the long-tailed training set is part of it.

    Args:
        imbalance_factor: largest over smallest class; 1 for balanced. At most the size of
            the largest class (124 with the default ``test_per_class``).
        image_size: height and width in pixels after bicubic enlargement.
        batch_size: images per step over all ranks together.
        seed: seed of the training order.
        split_seed: seed of the choice of images and of the rare digits.
        test_per_class: images of each digit in the test set, 1 to 100.
        selection: images that an epoch has besides these, or in their place.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> data = DigitsLT()
        >>> data.num_samples, len(data.probe_set()), len(data.test_set())
        (417, 1240, 500)
    """

    def __init__(
        self,
        imbalance_factor: float = 20.0,
        image_size: int = 16,
        batch_size: int = 128,
        seed: int = 0,
        split_seed: int = 0,
        test_per_class: int = 50,
        selection: SelectionSettings | None = None,
    ) -> None:
        super().__init__(
            image_size=image_size, batch_size=batch_size, seed=seed, selection=selection
        )
        check_factor(imbalance_factor)
        if not 1 <= test_per_class <= 100:
            raise InputError(f"test_per_class must lie in 1 to 100, got {test_per_class!r}.")
        self.imbalance_factor = imbalance_factor
        self.split_seed = split_seed
        self.test_per_class = test_per_class

    def build(self) -> Sets:
        """Load, enlarge and split the digits."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        labels = torch.from_numpy(digits.target).to(torch.int64)  # (1797,)
        gray = torch.from_numpy(digits.images).to(torch.float32)[:, None] * (255 / 16)
        large = torch.nn.functional.interpolate(
            gray, size=self.image_size, mode="bicubic", align_corners=False
        )
        images = large.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
        data = ImageDataset(images, labels)

        pool, test = hold_out(labels, torch.full((10,), self.test_per_class))
        smallest = int(torch.bincount(labels[pool]).min())
        probe = pool[choose(labels[pool], torch.full((10,), smallest), TEST_STREAM, 1)]

        counts = exponential_counts(smallest, self.imbalance_factor, 10)
        check_none_empty(counts, smallest, self.imbalance_factor)
        per_class = shuffled_counts(counts, self.split_seed)
        train = probe[select(labels[probe], per_class, self.split_seed)]
        recipe = (
            f"Digits-LT, exponential, imbalance factor {self.imbalance_factor:g}, "
            f"n_max {smallest}, split seed {self.split_seed}: {len(train)} images"
        )
        names = [str(digit) for digit in range(10)]
        summary = (
            f"scikit-learn's digits: {len(data):,} images in 10 classes; {len(test):,} test images "
            f"(held out, {self.test_per_class} of each); training on {len(train):,} of the other "
            f"{len(pool):,} ({recipe})"
        )
        return Sets(
            data.subset(train), data.subset(probe), data.subset(test), names, recipe, [], summary
        )
