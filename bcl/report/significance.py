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


def paired_interval(only_first: float, only_second: float, images: float) -> tuple[float, float]:
    r"""95 % interval of the second's share of right answers minus the first's, on the same images.

    Of :math:`n` images, :math:`b` are right by the first alone and :math:`c` by the second alone.
    With :math:`q_1 = (b + 1) / (n + 2)`, :math:`q_2 = (c + 1) / (n + 2)`

    .. math:: q_2 - q_1 \pm z \sqrt{\frac{q_1 + q_2 - (q_2 - q_1)^2}{n + 2}}

    Images of unequal weights count as :math:`n` of equal weight that vary alike, so counts may be
    fractions.

    Source: Bonett and Price, Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data, 2012.
    """
    first, second = (only_first + 1) / (images + 2), (only_second + 1) / (images + 2)
    gain = second - first
    half = stats.norm.ppf(0.975) * ((first + second - gain**2) / (images + 2)) ** 0.5
    return float(gain - half), float(gain + half)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values after Holm's correction, in the same order; None where there is no test."""
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    result: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, index) in enumerate(tested):
        result[index] = largest = max(largest, min(1.0, p * (len(tested) - place)))
    return result
