"""Statistics against scipy and published numbers."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from bcl.evaluation.metrics import (
    class_accuracy,
    confidence_interval,
    group_accuracy,
    top_k_accuracy,
    wilson_interval,
)
from bcl.evaluation.shots import shot_groups


@pytest.mark.parametrize(("right", "images"), [(0, 7), (3, 7), (40, 40), (450, 1000)])
def test_wilson_interval_is_scipys(right, images):
    theirs = scipy.stats.binomtest(right, images).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson_interval(right / images, images), theirs, atol=1e-12)


def test_no_images_have_no_interval():
    assert all(math.isnan(end) for end in wilson_interval(math.nan, 0))


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
