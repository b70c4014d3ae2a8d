"""How many pictures each class keeps: the long-tailed profiles of the literature."""

import torch

from bcl.errors import InputError
from bcl.random import permutation

_CLASS_STREAM = 0xC1A5


def exponential_counts(n_max: int, imbalance_factor: float, num_classes: int) -> list[int]:
    r"""Counts that fall exponentially from the first class to the last.

    .. math:: n_i = \lfloor n_{max} \, (1 / IF)^{i / (C - 1)} \rfloor

    Args:
        n_max: pictures of the largest class.
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
    _check(n_max, num_classes)
    if not 1 <= imbalance_factor < float("inf"):
        raise InputError(
            f"imbalance_factor must be at least 1 (1: balanced), got {imbalance_factor!r}."
        )
    mu = 1 / imbalance_factor
    return [int(n_max * mu ** (i / max(num_classes - 1, 1))) for i in range(num_classes)]


def _check(n_max: int, num_classes: int) -> None:
    if num_classes < 1:
        raise InputError(f"num_classes must be positive, got {num_classes!r}.")
    if n_max < 1:
        raise InputError(f"the largest class must have at least one picture, got {n_max!r}.")


def shuffled_counts(counts: list[int], seed: int) -> torch.Tensor:
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
