"""How many images each class keeps: the long-tailed profiles of the literature."""

import math

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.random import permutation

_CLASS_STREAM = 0xC1A5
# 49 * (1 / 49) is below 1 in floating point, and would be rounded down to an empty class.
_ROUNDING = 1e-9


def exponential_counts(n_max: int, imbalance_factor: float, num_classes: int) -> list[int]:
    r"""Counts that fall exponentially from the first class to the last.

    .. math:: n_i = \lfloor n_{max} \, (1 / IF)^{i / (C - 1)} \rfloor

    Args:
        n_max: images of the largest class.
        imbalance_factor: IF >= 1, largest over smallest class.
        num_classes: C.

    Returns:
        C counts, largest first.

    Raises:
        InputError: an argument out of its range.

    Source: Cui et al. 2019 (arXiv 1901.05555) and LDAM (Cao et al. 2019, arXiv 1906.07413). With
    n_max 450 or 4,500 of the 500 or 5,000, the subsets of SDCLR (arXiv 2106.02990).

    Example:
        >>> sum(exponential_counts(500, 100, 100)), sum(exponential_counts(450, 100, 100))
        (10847, 9754)
    """
    _check(n_max, num_classes, imbalance_factor)
    mu = 1 / imbalance_factor
    falls = [mu ** (i / max(num_classes - 1, 1)) for i in range(num_classes)]
    return [int(n_max * fall + _ROUNDING) for fall in falls]


def step_counts(n_max: int, imbalance_factor: float, num_classes: int) -> list[int]:
    r"""Full classes and rare ones: the first half keeps n_max, the rest n_max / IF.

    Args:
        n_max: images of each class of the first half (rounded down).
        imbalance_factor: IF >= 1.
        num_classes: C.

    Returns:
        C counts, largest first.

    Raises:
        InputError: an argument out of its range.

    Source: LDAM (arXiv 1906.07413), step imbalance.

    Example:
        >>> step_counts(500, 100, 4)
        [500, 500, 5, 5]
    """
    _check(n_max, num_classes, imbalance_factor)
    rare = int(n_max * (1 / imbalance_factor) + _ROUNDING)
    head = num_classes // 2
    return [n_max] * head + [rare] * (num_classes - head)


def cacr_linear_counts(n_max: int, num_classes: int) -> list[int]:
    r"""Counts that rise by tenths of n_max from the first tenth of the classes to the last.

    .. math:: n_i = \lfloor \frac{\lfloor 10 i / C \rfloor + 1}{10} \, n_{max} \rfloor

    Args:
        n_max: images of the largest classes.
        num_classes: C, a multiple of ten.

    Returns:
        C counts by class id, smallest first.

    Raises:
        InputError: an argument out of its range.

    Source: CACR (arXiv 2105.03746), imbalanced CIFAR as in its released code.

    Example:
        >>> cacr_linear_counts(5000, 10)[:3], sum(cacr_linear_counts(500, 100))
        ([500, 1000, 1500], 27500)
    """
    return [(step + 1) * n_max // 10 for step in _tenths(n_max, num_classes)]


def cacr_exponential_counts(n_max: int, num_classes: int, *, repaired: bool = False) -> list[int]:
    r"""Counts that rise by a factor e from each tenth of the classes to the next.

    .. math:: n_i = \lfloor e^{\lfloor 10 i / C \rfloor + 1 - 10} \, n_{max} \rfloor

    The released code rounds down to zero: class 0 of CIFAR-10 and the first 30 classes of CIFAR-100
    are empty (`empty_classes`).

    Args:
        n_max: images of the largest classes.
        num_classes: C, a multiple of ten.
        repaired: leave one image at least in every class.

    Returns:
        C counts by class id, smallest first.

    Raises:
        InputError: an argument out of its range.

    Source: CACR (arXiv 2105.03746), imbalanced CIFAR as in its released code.

    Example:
        >>> cacr_exponential_counts(5000, 10)
        [0, 1, 4, 12, 33, 91, 248, 676, 1839, 5000]
        >>> sum(cacr_exponential_counts(500, 100)), sum(cacr_exponential_counts(500, 100,
        ...                                                                     repaired=True))
        (7870, 7900)
    """
    counts = [int(math.exp(step + 1 - 10) * n_max) for step in _tenths(n_max, num_classes)]
    return [max(count, 1) for count in counts] if repaired else counts


def pareto_counts(n_max: int, n_min: int, num_classes: int, alpha: float = 6.0) -> list[int]:
    r"""Counts that follow the quantiles of a Pareto (Lomax) distribution.

    .. math:: q_i = \Bigl(\frac{i + 0.81}{C}\Bigr)^{-1/\alpha} - 1, \qquad
        n_i = \Bigl\lfloor n_{min} + (n_{max} - n_{min}) \frac{q_i - q_{C-1}}{q_0 - q_{C-1}}
        \Bigr\rfloor

    ImageNet-LT was drawn at random with alpha 6; this deterministic form gives 115,897 images for
    its 115,846.

    Args:
        n_max: images of the largest class.
        n_min: images of the smallest class.
        num_classes: C.
        alpha: the distribution's exponent.

    Returns:
        C counts, largest first.

    Raises:
        InputError: an argument out of its range.

    Source: OLTR (arXiv 1904.05160), ImageNet-LT; the 0.81 is fitted to its total.

    Example:
        >>> sum(pareto_counts(1280, 5, 1000))
        115897
    """
    _check(n_max, num_classes)
    if not 0 <= n_min <= n_max:
        raise InputError(f"n_min must lie in 0 to n_max ({n_max}), got {n_min!r}.")
    if not alpha > 0:
        raise InputError(f"alpha must be positive, got {alpha!r}.")
    quantiles = [((i + 0.81) / num_classes) ** (-1 / alpha) - 1 for i in range(num_classes)]
    low, spread = quantiles[-1], max(quantiles[0] - quantiles[-1], 1e-300)
    return [int(n_min + (n_max - n_min) * (q - low) / spread) for q in quantiles]


def empty_classes(counts: list[int] | Tensor) -> list[int]:
    """Ids of the classes that a profile leaves without an image.

    Example:
        >>> empty_classes(cacr_exponential_counts(5000, 10))
        [0]
    """
    return [index for index, count in enumerate(counts) if int(count) == 0]


def refuse_empty(counts: list[int], n_max: int, imbalance_factor: float) -> None:
    """Refuse counts of a profile that leave classes without an image.

    Args:
        counts: C counts.
        n_max: images of the largest class.
        imbalance_factor: that made them.

    Raises:
        InputError: some count is 0.
    """
    if min(counts) < 1:
        raise InputError(
            f"imbalance_factor {imbalance_factor:g} leaves {len(empty_classes(counts))} of "
            f"{len(counts)} classes without images: the largest has {n_max}; take at most "
            f"{n_max}."
        )


def check_factor(imbalance_factor: float) -> None:
    """Refuse what is no imbalance factor.

    Raises:
        InputError: below 1, infinite or not a number.
    """
    if not 1 <= imbalance_factor < float("inf"):  # False for nan, too
        raise InputError(
            "imbalance_factor must be a finite number of at least 1 (1: balanced), got "
            f"{imbalance_factor!r}."
        )


def shuffled_counts(counts: list[int], seed: int) -> Tensor:
    """Deal the counts of a profile to the classes at random, as a function of the seed.

    Args:
        counts: C counts, largest first.
        seed: of the order of the classes.

    Returns:
        (C,) int64 count of each class.

    Example:
        >>> sorted(shuffled_counts([5, 3, 1], 0).tolist())
        [1, 3, 5]
    """
    dealt = torch.empty(len(counts), dtype=torch.int64)
    dealt[permutation(len(counts), _CLASS_STREAM, seed)] = torch.tensor(counts)
    return dealt


def _tenths(n_max: int, num_classes: int) -> list[int]:
    _check(n_max, num_classes)
    if num_classes % 10:
        raise InputError(f"this profile goes by tenths of the classes; {num_classes} has none.")
    return [index * 10 // num_classes for index in range(num_classes)]


def _check(n_max: int, num_classes: int, imbalance_factor: float = 1.0) -> None:
    if num_classes < 1:
        raise InputError(f"num_classes must be positive, got {num_classes!r}.")
    if n_max < 1:
        raise InputError(f"the largest class must have at least one image, got {n_max!r}.")
    check_factor(imbalance_factor)
