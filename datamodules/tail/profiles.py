"""How many images each class keeps: the long-tailed profiles of the literature.

A profile returns one count per class, from ``n_max`` images in the largest class, ``num_classes``
C, and the imbalance factor IF >= 1, largest over smallest class. What is out of range is refused.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Real

import torch
from torch import Tensor

from bcl.core.checks import check_count, check_positive
from bcl.core.errors import InputError
from bcl.core.random import permutation

_CLASS_STREAM = 0xC1A5
# 49 * (1 / 49) is below 1 in floating point and would round down to an empty class.
_ROUNDING = 1e-9


def exponential_counts(n_max: int, imbalance_factor: float, num_classes: int) -> list[int]:
    """n_i = floor(n_max IF^(-i / (C - 1))), the largest class first.

    Source: Cui et al. (arXiv 1901.05555), LDAM (arXiv 1906.07413); SDCLR's n_max is 450 or 4,500.
    """
    _check(n_max, num_classes, imbalance_factor)
    mu = 1 / imbalance_factor
    falls = [mu ** (i / max(num_classes - 1, 1)) for i in range(num_classes)]
    return [int(n_max * fall + _ROUNDING) for fall in falls]


def step_counts(n_max: int, imbalance_factor: float, num_classes: int) -> list[int]:
    """n_max for the first half of the classes (rounded down), n_max / IF for the rest (LDAM)."""
    _check(n_max, num_classes, imbalance_factor)
    head = num_classes // 2
    rare = int(n_max * (1 / imbalance_factor) + _ROUNDING)
    return [n_max] * head + [rare] * (num_classes - head)


def pareto_counts(n_max: int, n_min: int, num_classes: int, alpha: float = 6.0) -> list[int]:
    """n_i = floor(n_min + (n_max - n_min) (q_i - q_(C-1)) / (q_0 - q_(C-1))), Pareto quantiles q.

    q_i = ((i + 0.81) / C)^(-1 / alpha) - 1. OLTR (arXiv 1904.05160) drew ImageNet-LT at random with
    alpha 6; the 0.81 is fitted to its total: 115,897 images for 115,846.
    """
    _check(n_max, num_classes)
    check_positive("alpha", alpha)
    if not 0 <= n_min <= n_max:
        raise InputError(f"n_min must lie in 0 to n_max ({n_max}), got {n_min!r}.")
    quantiles = [((i + 0.81) / num_classes) ** (-1 / alpha) - 1 for i in range(num_classes)]
    low, spread = quantiles[-1], max(quantiles[0] - quantiles[-1], 1e-300)
    return [int(n_min + (n_max - n_min) * (q - low) / spread) for q in quantiles]


def cacr_linear_counts(n_max: int, num_classes: int) -> list[int]:
    """n_i = floor(n_max (floor(10 i / C) + 1) / 10), as in CACR's released code."""
    return [(step + 1) * n_max // 10 for step in _tenths(n_max, num_classes)]


def cacr_exponential_counts(n_max: int, num_classes: int, *, repaired: bool = False) -> list[int]:
    """n_i = floor(n_max e^(floor(10 i / C) + 1 - 10)), as in CACR's released code.

    Class 0 of CIFAR-10 and 30 classes of CIFAR-100 are empty; ``repaired`` gives each one image.
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
    """Ids of the classes without images."""
    return [index for index, count in enumerate(counts) if int(count) == 0]


def shuffled_counts(counts: Sequence[int], seed: int) -> Tensor:
    """(C,) counts of a profile, assigned to the classes at random by the seed."""
    dealt = torch.empty(len(counts), dtype=torch.int64)
    dealt[permutation(len(counts), _CLASS_STREAM, seed)] = torch.tensor(counts)
    return dealt


def check_none_empty(counts: Sequence[int], n_max: int, imbalance_factor: float) -> None:
    """Refuse an imbalance factor that leaves classes without images."""
    if min(counts) < 1:
        raise InputError(
            f"imbalance_factor {imbalance_factor:g} leaves {len(empty_classes(counts))} of "
            f"{len(counts)} classes without images: the largest has {n_max}; use at most "
            f"{n_max}, or make another class the largest with --data.class_order."
        )


def check_factor(imbalance_factor: float) -> None:
    """Refuse an imbalance factor below 1, or one that is not finite."""
    is_number = isinstance(imbalance_factor, Real)
    if not is_number or not 1 <= imbalance_factor < float("inf"):  # NaN, too
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
