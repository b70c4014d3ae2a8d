"""Is a difference more than chance? Paired tests over seeds or over test images."""

import math
from collections.abc import Sequence


def student_t_p(t: float, degrees: int) -> float:
    r"""Two-sided p-value of Student's t, :math:`I_{\nu/(\nu+t^2)}(\nu/2, 1/2)`.

    Args:
        t: the statistic.
        degrees: of freedom, at least 1.

    Returns:
        A number in [0, 1].

    Example:
        >>> round(student_t_p(2.776, 4), 3)
        0.05
    """
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularized incomplete beta function, by Lentz's continued fraction."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on this side of the mean only
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > 1e-300 else 1e-300)
    value = d
    for m in range(1, 300):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + term * d
            d = 1 / (d if abs(d) > 1e-300 else 1e-300)
            c = 1 + term / c
            c = c if abs(c) > 1e-300 else 1e-300
            value *= d * c
        if abs(d * c - 1) < 1e-14:
            break
    return math.exp(log_front) * value / a


def paired_t(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p-value of a paired t-test, such as two methods over common seeds.

    Args:
        first: one value per seed.
        second: the other method's, in the same order.

    Returns:
        The p-value; None for fewer than two pairs, or differences that are all equal: without a
        spread there is no test, and coarse accuracies of two seeds often differ equally.

    Example:
        >>> round(paired_t([0.50, 0.52, 0.51], [0.53, 0.56, 0.53]), 3)
        0.035
    """
    differences = [b - a for a, b in zip(first, second, strict=True)]
    n = len(differences)
    if n < 2:
        return None
    mean = math.fsum(differences) / n
    variance = math.fsum((value - mean) ** 2 for value in differences) / (n - 1)
    if variance <= 1e-12:  # shares are saved with six decimals; less is their rounding
        return None
    return student_t_p(mean / math.sqrt(variance / n), n - 1)


def mcnemar(only_first: int, only_second: int) -> float | None:
    """Exact two-sided McNemar test on images that one of two classifiers got right.

    Args:
        only_first: images that only the first got right.
        only_second: images that only the second got right.

    Returns:
        The p-value; None if they differ nowhere.

    Example:
        >>> round(mcnemar(10, 2), 4)
        0.0386
    """
    n = only_first + only_second
    if n == 0:
        return None
    least = min(only_first, only_second)
    log_half = n * math.log(2)
    tail = math.fsum(
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - log_half)
        for k in range(least + 1)
    )
    return min(1.0, 2 * tail)


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
        largest = max(largest, min(1.0, p * (len(tested) - place)))
        result[index] = largest
    return result
