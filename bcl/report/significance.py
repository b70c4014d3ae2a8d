"""Is a difference more than chance? Paired tests over seeds, draws or test images."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def paired_t(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p-value of a paired t-test, such as two methods over common seeds.

    Args:
        first: one value per seed.
        second: the other method's, in the same order.

    Returns:
        The p-value; None for fewer than two pairs, or for differences without spread: coarse
        accuracies of two seeds often differ by the same amount.

    Example:
        >>> round(paired_t([0.50, 0.52, 0.51], [0.53, 0.56, 0.53]), 3)
        0.035
    """
    differences = np.subtract(second, first)
    # Accuracies are saved with six decimals; a smaller spread is their rounding.
    if len(differences) < 2 or differences.var(ddof=1) <= 1e-12:
        return None
    return float(stats.ttest_rel(second, first).pvalue)


def mcnemar(only_first: int, only_second: int) -> float | None:
    """Two-sided p-value of McNemar's exact test on images that one of two classifiers got right.

    Args:
        only_first: images that only the first got right.
        only_second: images that only the second got right.

    Returns:
        The p-value; None if they differ nowhere.

    Example:
        >>> round(mcnemar(10, 2), 4)
        0.0386
    """
    total = only_first + only_second
    return float(stats.binomtest(only_first, total).pvalue) if total else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction for several comparisons with one baseline.

    Args:
        p_values: None where there is no test.

    Returns:
        Corrected p-values in the same order.

    Example:
        >>> holm([0.01, None, 0.04])
        [0.02, None, 0.04]
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    result: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, index) in enumerate(tested):
        result[index] = largest = max(largest, min(1.0, p * (len(tested) - place)))
    return result
