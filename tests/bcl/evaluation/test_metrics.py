"""Statistics against scipy, scikit-learn and published numbers."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import roc_auc_score

from bcl.evaluation.metrics import (
    auroc,
    class_accuracy,
    confidence_interval,
    group_accuracy,
    spearman,
    top_k_accuracy,
)
from bcl.evaluation.shots import shot_groups


def test_rank_statistics_equal_those_of_the_peers():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 9, (200,), generator=generator).double()  # with ties
    b = a + torch.randn(200, generator=generator)
    positive = torch.rand(200, generator=generator) < 0.3
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert auroc(a, positive) == pytest.approx(roc_auc_score(positive, a))
    assert math.isnan(spearman(a, torch.zeros(200)))
    assert math.isnan(auroc(a, torch.zeros(200, dtype=torch.bool)))


@pytest.mark.parametrize("n", [2, 5, 31, 32, 50, 200])
def test_confidence_interval_is_scipys(n):
    values = np.random.default_rng(n).normal(size=n)
    mean, half = confidence_interval(values.tolist())
    sem = scipy.stats.sem(values)
    low, high = scipy.stats.t.interval(0.95, n - 1, loc=values.mean(), scale=sem)
    np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-9)


def test_interval_of_few_values():
    assert math.isnan(confidence_interval([0.5])[1])
    assert all(math.isnan(value) for value in confidence_interval([]))


def test_group_accuracy_of_a_published_row():
    # BCL-D on CIFAR-100-LT: 53.92/51.77/50.07, Std 1.93 (over n - 1), All 51.95.
    groups = shot_groups(torch.arange(100, 0, -1))
    per_class = torch.tensor([53.92] * 34 + [51.77] * 33 + [50.07] * 33, dtype=torch.float64)
    result = group_accuracy(per_class, groups)
    assert round(result["std_sample"], 2) == 1.93
    assert round(result["class_mean"], 2) == 51.94


def test_absent_classes_and_top_k():
    labels = torch.tensor([0, 0, 2])
    assert class_accuracy(torch.tensor([0, 1, 2]), labels, 4).tolist()[:1] == [0.5]
    assert class_accuracy(torch.tensor([0, 1, 2]), labels, 4).isnan().tolist() == [
        False, True, False, True,
    ]  # fmt: skip
    logits = torch.tensor([[3.0, 2, 1, 0], [1, 2, 3, 0], [0, 1, 2, 3]])
    assert top_k_accuracy(logits, labels, 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(logits, labels, 2) == pytest.approx(2 / 3)
    assert top_k_accuracy(logits, labels, 5) == 1.0
