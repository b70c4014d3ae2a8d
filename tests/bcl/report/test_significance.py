"""The tests behind p-values."""

import pytest
import torch

from bcl.report.significance import holm, mcnemar, paired_interval, paired_t


def test_p_values_are_those_of_the_tests_they_name():
    from scipy.stats import binom, t

    a, b = [0.50, 0.52, 0.51, 0.49], [0.53, 0.56, 0.53, 0.50]
    gains = torch.tensor(b, dtype=torch.float64) - torch.tensor(a, dtype=torch.float64)
    statistic = float(gains.mean() / gains.std() * 2)
    assert paired_t(a, b) == pytest.approx(2 * t.sf(statistic, 3))
    assert paired_t(b, a) == pytest.approx(paired_t(a, b))
    assert paired_t([0.5], [0.6]) is None
    assert paired_t([0.5, 0.6], [0.6, 0.7]) is None
    for first, second in ((10, 2), (0, 5), (300, 260), (7, 7)):
        both = 2 * binom.cdf(min(first, second), first + second, 0.5)
        assert mcnemar(first, second) == pytest.approx(min(1.0, both))
    assert mcnemar(0, 0) is None
    assert holm([0.04, 0.01, None, 0.03]) == pytest.approx([0.06, 0.03, None, 0.06])


def test_equal_differences_are_no_proof():
    assert paired_t([0.50, 0.60], [0.55, 0.65]) is None
    assert paired_t([0.500001, 0.6], [0.55, 0.649999]) is None


def test_the_interval_of_a_paired_difference():
    # Bonett and Price by hand: 8 of 100 images right by the second alone, 2 by the first alone.
    first, second = 3 / 102, 9 / 102
    half = 1.959964 * ((first + second - (second - first) ** 2) / 102) ** 0.5
    assert paired_interval(2, 8, 100) == pytest.approx(
        (second - first - half, second - first + half), rel=1e-6
    )
    # Even answers that all agree leave a doubt; swapped runs mirror it.
    low, high = paired_interval(0, 0, 100)
    assert low == -high < 0
    assert paired_interval(3, 7.5, 50) == pytest.approx(
        [-x for x in paired_interval(7.5, 3, 50)][::-1]
    )


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_the_interval_of_a_paired_difference_covers_it(share):
    random = torch.Generator().manual_seed(0)
    images, covered, trials = 200, 0, 2_000
    for _ in range(trials):
        x = torch.rand(images, generator=random, dtype=torch.float64)
        only_first, only_second = int((x < share).sum()), int((x > 1 - 2 * share).sum())
        low, high = paired_interval(only_first, only_second, images)
        covered += low <= share <= high
    assert 0.94 < covered / trials < 0.98
