"""Is a difference more than chance? Paired tests over seeds, draws or test images."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def paired_t(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p-value of a paired t-test, such as two methods over common seeds.

    None for fewer than two pairs, for a missing value, and for differences without spread.
    """
    differences = np.subtract(second, first)
    # Accuracies are saved with six decimals; a smaller spread is their rounding.
    if len(differences) < 2 or not differences.var(ddof=1) > 1e-12:
        return None
    return float(stats.ttest_rel(second, first).pvalue)


def mcnemar(only_first: int, only_second: int) -> float | None:
    """Two-sided p-value of McNemar's exact test, given how many only one of two got right."""
    total = only_first + only_second
    return float(stats.binomtest(only_first, total).pvalue) if total else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values after Holm's correction, in the same order; None where there is no test."""
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    result: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, index) in enumerate(tested):
        result[index] = largest = max(largest, min(1.0, p * (len(tested) - place)))
    return result
