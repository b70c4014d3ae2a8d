"""Tail discovery against explicit loops, scikit-learn and scipy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from bcl import shot_groups, tail_discovery
from bcl.core.errors import InputError
from bcl.evaluation import tail as module

COUNTS = [40, 25, 12, 9, 6, 4]
LABELS = np.repeat(np.arange(6), COUNTS)


@pytest.fixture(scope="module", params=["distinct", "ties"])
def scores(request):
    generator = np.random.default_rng(0)
    found = LABELS * 0.3 + generator.normal(size=len(LABELS))
    return found if request.param == "distinct" else found.round()


def phi_by_loop(scores, tail, share):
    """The mean over all orders of samples that tie."""
    most, taken, hits = max(1, round(share * len(scores))), 0, 0.0
    for value in sorted(set(scores), reverse=True):
        here = [t for s, t in zip(scores, tail, strict=True) if s == value]
        room = min(len(here), most - taken)
        hits, taken = hits + room * sum(here) / len(here), taken + room
    return hits / most / (sum(tail) / len(tail))


def expected(scores, labels, top=0.1):
    """The five measures by other libraries and loops; ranks of classes by the full counts."""
    frequency = np.array(COUNTS)
    tail, head = np.isin(labels, [4, 5]), np.isin(labels, [0, 1])
    either = tail | head
    means = [np.mean(scores[labels == c]) for c in range(6)]
    return [
        roc_auc_score(tail[either], scores[either]),
        average_precision_score(tail, scores),
        phi_by_loop(scores.tolist(), tail.tolist(), top),
        scipy.stats.spearmanr(scores, frequency[labels]).statistic,
        scipy.stats.spearmanr(means, frequency).statistic,
    ]


def measures(found):
    return [
        found.auc, found.average_precision, found.phi, found.spearman_samples,
        found.spearman_classes,
    ]  # fmt: skip


@pytest.mark.parametrize("top", [0.1, 0.37, 1.0])
def test_values_equal_loops_and_libraries(scores, top):
    shuffled = np.random.default_rng(1).permutation(len(LABELS))
    found = tail_discovery(scores[shuffled], LABELS[shuffled], top=top, resamples=2)
    values = [each.value for each in measures(found)]
    np.testing.assert_allclose(values, expected(scores, LABELS, top), rtol=1e-12)
    assert (found.tail, found.head) == (10, 65)


def test_intervals_are_percentiles_of_resamples_within_classes(scores, monkeypatch):
    drawn = []
    resample = module._Samples.resample
    monkeypatch.setattr(
        module._Samples, "resample", lambda *args: drawn.append(resample(*args)) or drawn[-1]
    )
    found = tail_discovery(scores, LABELS, resamples=30, seed=5)
    assert len({tuple(times) for times in drawn}) == 30
    resampled = []
    for times in drawn:  # LABELS are sorted, so positions are those of the samples
        assert np.bincount(LABELS, times).tolist() == COUNTS
        resampled.append(expected(np.repeat(scores, times), np.repeat(LABELS, times)))
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    np.testing.assert_allclose([each.low for each in measures(found)], low, rtol=1e-12)
    np.testing.assert_allclose([each.high for each in measures(found)], high, rtol=1e-12)


def test_intervals_depend_on_the_seed_alone(scores):
    first = tail_discovery(scores, LABELS, resamples=20)
    assert first == tail_discovery(torch.tensor(scores), LABELS.tolist(), resamples=20)
    assert first != tail_discovery(scores, LABELS, resamples=20, seed=1)


@pytest.mark.slow
def test_interval_of_noise_holds_chance_about_95_times_in_100():
    held = 0
    for seed in range(30):
        noise = np.random.default_rng(seed).normal(size=len(LABELS))
        auc = tail_discovery(noise, LABELS, resamples=100).auc
        held += auc.low <= 0.5 <= auc.high
    assert 24 <= held <= 30


def test_phi_of_the_reference():
    # Scores fall from .9 to 0; the tail is at places 0, 2 and 9, three of ten.
    labels = [2, 0, 2, 0, 1, 1, 1, 1, 0, 2]
    scores = [0.9 - 0.1 * place for place in range(10)]
    counts = [30, 20, 10]
    found = tail_discovery(scores, labels, class_counts=counts, top=0.3, resamples=1)
    assert found.phi.value == pytest.approx(2.222222, abs=1e-6)


def test_class_counts_and_thresholds_name_tail_and_head():
    counts = [300, 50, 10, 0, 15]
    labels = np.array([0, 0, 1, 2, 2, 4])
    scores = np.array([0.0, 0.1, 0.2, 0.3, 0.05, 0.4])
    found = tail_discovery(scores, labels, class_counts=counts, grouping="thresholds", resamples=1)
    assert (found.tail, found.head) == (3, 2)
    assert found.auc.value == pytest.approx(5 / 6)
    assert shot_groups(counts[:3] + counts[4:], "thresholds").description == found.grouping


def test_equal_class_means_have_no_rank_correlation():
    found = tail_discovery([2.0, 2, 2, 1, 3, 2], [0, 0, 0, 1, 1, 2], resamples=3)
    assert math.isnan(found.spearman_classes.value)


@pytest.mark.parametrize(
    ("scores", "labels", "options", "word"),
    [
        ([1.0], [0], {}, "at least two"),
        ([1.0, 2.0], [0, 1, 2], {}, r"\(2,\) and \(3,\)"),
        ([1.0, 1, 1], [0, 1, 2], {}, "all equal"),
        ([1.0, math.nan, 1], [0, 1, 2], {}, "finite"),
        ([1.0, 2, 3], [0, 1, -1], {}, "labels must"),
        ([1.0, 2, 3], [0.5, 1, 2], {}, "labels must"),
        ([1.0, 2, 3], [1, 1, 1], {}, "three classes"),
        ([1.0, 2, 3], [0, 1, 2], {"grouping": "thirdz"}, "thirds"),
        ([1.0, 2, 3], [0, 1, 1], {"class_counts": [9, 5, 1]}, "0 samples are of tail"),
        ([1.0, 2, 3], [0, 1, 2], {"class_counts": [9, 5]}, "such as label 2"),
        ([1.0, 2, 3], [0, 1, 2], {"class_counts": [9, 5, 1, -2]}, "none negative"),
        ([1.0, 2, 3], [0, 1, 2], {"class_counts": [9, 5, math.nan]}, "whole numbers"),
        (
            [1.0, 2, 3, 4],
            [0, 1, 2, 3],
            {"class_counts": [9, 5, 1]},
            "of 3 classes, such as label 3",
        ),
        (
            [1.0, 2, 3, 4],
            [0, 1, 2, 3],
            {"class_counts": [9, 5, 1, 0]},
            "of 4 classes, such as label 3",
        ),
        ([1.0, 2, 3, 4, 5, 6], [0, 0, 1, 1, 2, 2], {}, "same number of images, 2"),
        ([1.0, 2, 3], [0, 1, 2], {"class_counts": [19, 9, 5], "grouping": "thresholds"}, "0 of h"),
        ([1.0, 2, 3], [0, 1, 2], {"top": 0}, "top"),
        (
            [1.0, 2, 3],
            ["a", "c", "d"],
            {"class_counts": [9, 5, 3, 1]},
            "4 classes and labels name 3",
        ),
        ([1.0, 2, 3], [0, 1, 2], {"top": "a"}, "top"),
        ([1.0, 2, 3], [0, 1, 2], {"seed": -1}, "seed"),
        ([1.0, 2, 3], [0, 1, 2], {"resamples": 0}, "resamples"),
    ],
)
def test_bad_input_is_named(scores, labels, options, word):
    with pytest.raises(InputError, match=word):
        tail_discovery(scores, labels, **options)


def test_of_two_classes_the_smaller_is_the_tail():
    found = tail_discovery([1.0, 2, 3, 4, 0], [1, 1, 1, 0, 0], resamples=1)
    assert (found.tail, found.head) == (2, 3)
    assert found.auc.value == 0.5  # 4 is above three of class 1, 0 above none
