"""How many images each class keeps: the long-tailed profiles of the literature.

A profile returns one count per class, from ``n_max`` images in the largest class, ``num_classes``
C, and the imbalance factor IF >= 1, largest over smallest class. What is out of range is refused.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bcl.core.checks import check_count, check_positive
from bcl.core.errors import InputError
from bcl.core.random import permutation

_CLASS_STREAM = 0xC1A5
# 49 * (1 / 49) is below 1 in floating point and would round down to an empty class.
_ROUNDING = 1e-9


def exponential_counts(n_max: int, imbalance_factor: float, num_classes: int) -> list[int]:
    r"""Counts that fall exponentially from the first class, the largest, to the last.

    .. math:: n_i = \lfloor n_{max} \, (1 / IF)^{i / (C - 1)} \rfloor

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
    r"""Two levels: the first half of the classes (rounded down) keeps n_max, the rest n_max / IF.

    Source: LDAM (arXiv 1906.07413), step imbalance.

    Example:
        >>> step_counts(500, 100, 4)
        [500, 500, 5, 5]
    """
    _check(n_max, num_classes, imbalance_factor)
    head = num_classes // 2
    rare = int(n_max * (1 / imbalance_factor) + _ROUNDING)
    return [n_max] * head + [rare] * (num_classes - head)


def pareto_counts(n_max: int, n_min: int, num_classes: int, alpha: float = 6.0) -> list[int]:
    r"""Counts that follow the quantiles of a Pareto (Lomax) distribution.

    .. math:: q_i = \Bigl(\frac{i + 0.81}{C}\Bigr)^{-1/\alpha} - 1, \qquad
        n_i = \Bigl\lfloor n_{min} + (n_{max} - n_{min}) \frac{q_i - q_{C-1}}{q_0 - q_{C-1}}
        \Bigr\rfloor

    ImageNet-LT was drawn at random with alpha 6; this deterministic form gives 115,897 images for
    its 115,846.

    Source: OLTR (arXiv 1904.05160), ImageNet-LT; the 0.81 is fitted to its total.

    Example:
        >>> sum(pareto_counts(1280, 5, 1000))
        115897
    """
    _check(n_max, num_classes)
    check_positive("alpha", alpha)
    if not 0 <= n_min <= n_max:
        raise InputError(f"n_min must lie in 0 to n_max ({n_max}), got {n_min!r}.")
    quantiles = [((i + 0.81) / num_classes) ** (-1 / alpha) - 1 for i in range(num_classes)]
    low, spread = quantiles[-1], max(quantiles[0] - quantiles[-1], 1e-300)
    return [int(n_min + (n_max - n_min) * (q - low) / spread) for q in quantiles]


def cacr_linear_counts(n_max: int, num_classes: int) -> list[int]:
    r"""Counts that rise by tenths of n_max from the first tenth of the classes to the last.

    .. math:: n_i = \lfloor \frac{\lfloor 10 i / C \rfloor + 1}{10} \, n_{max} \rfloor

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

    Source: CACR (arXiv 2105.03746), imbalanced CIFAR as in its released code.

    Example:
        >>> cacr_exponential_counts(5000, 10)
        [0, 1, 4, 12, 33, 91, 248, 676, 1839, 5000]
        >>> sum(cacr_exponential_counts(500, 100, repaired=True))
        7900
    """
    counts = [int(math.exp(step + 1 - 10) * n_max) for step in _tenths(n_max, num_classes)]
    return [max(count, 1) for count in counts] if repaired else counts


PROFILES: dict[str, Callable[[int, float, int], list[int]]] = {
    "exponential": exponential_counts,
    "step": step_counts,
    "pareto": lambda n_max, factor, classes: pareto_counts(n_max, int(n_max / factor), classes),
    "cacr-linear": lambda n_max, _, classes: cacr_linear_counts(n_max, classes),
    "cacr-exponential": lambda n_max, _, classes: cacr_exponential_counts(n_max, classes),
}
"""Name of a profile to its counts, from (n_max, imbalance factor, C)."""

FIXED_PROFILES = ("cacr-linear", "cacr-exponential")
"""Profiles that ignore the imbalance factor."""


def empty_classes(counts: Sequence[int] | Tensor) -> list[int]:
    """Ids of the classes without images.

    Example:
        >>> empty_classes(cacr_exponential_counts(5000, 10))
        [0]
    """
    return [index for index, count in enumerate(counts) if int(count) == 0]


def shuffled_counts(counts: Sequence[int], seed: int) -> Tensor:
    """(C,) counts of a profile, assigned to the classes at random, as a function of the seed.

    Example:
        >>> sorted(shuffled_counts([5, 3, 1], 0).tolist())
        [1, 3, 5]
    """
    dealt = torch.empty(len(counts), dtype=torch.int64)
    dealt[permutation(len(counts), _CLASS_STREAM, seed)] = torch.tensor(counts)
    return dealt


def check_none_empty(counts: Sequence[int], n_max: int, imbalance_factor: float) -> None:
    """Refuse an imbalance factor that leaves classes without images."""
    if min(counts) < 1:
        raise InputError(
            f"imbalance_factor {imbalance_factor:g} leaves {len(empty_classes(counts))} of "
            f"{len(counts)} classes without images: the largest has {n_max}; use at most {n_max}."
        )


def check_factor(imbalance_factor: float) -> None:
    """Refuse an imbalance factor below 1, or one that is not finite."""
    if not 1 <= imbalance_factor < float("inf"):  # False for NaN
        raise InputError(
            "imbalance_factor must be a finite number of at least 1 (1: balanced), got "
            f"{imbalance_factor!r}."
        )


def _tenths(n_max: int, num_classes: int) -> list[int]:
    _check(n_max, num_classes)
    if num_classes % 10:
        raise InputError(f"this profile needs a multiple of ten classes, got {num_classes}.")
    return [index * 10 // num_classes for index in range(num_classes)]


def _check(n_max: int, num_classes: int, imbalance_factor: float = 1.0) -> None:
    check_count("num_classes", num_classes)
    check_count("n_max", n_max)
    check_factor(imbalance_factor)
