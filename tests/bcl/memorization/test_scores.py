"""Scores: relative losses, or ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from bcl import MemorizationTracker
from bcl.memorization.tracker import memorization_scores


@pytest.mark.parametrize("normalization", ["max", "rank", "quantile"])
def test_equal_losses_score_a_half_and_unseen_samples_zero(normalization):
    tracker = MemorizationTracker(4, normalization=normalization)
    tracker.update(torch.tensor([0, 1, 2]), torch.full((3,), 0.1))
    tracker.refresh()
    assert tracker.scores.tolist() == [0.5, 0.5, 0.5, 0.0]


@pytest.mark.parametrize("others", [3, 49, 99])
def test_one_outlier_squeezes_the_paper_scores_but_not_the_others(others):
    losses = torch.cat([torch.linspace(1, 2, others), torch.tensor([1000.0])])
    seen = torch.ones(others + 1, dtype=torch.bool)
    paper = memorization_scores(losses, seen)[:others]
    ranks = memorization_scores(losses, seen, "rank")[:others]
    assert paper.max() - paper.min() < 0.01
    clipped = memorization_scores(losses, seen, "quantile")[:others]
    assert ranks.max() - ranks.min() > 0.98 * (others - 1) / others
    assert clipped.max() - clipped.min() > 0.98


@pytest.mark.parametrize("losses", [[1.0, 2.0], [1.0, 2.0, 9.0]])
def test_quantile_scores_of_two_or_three_are_the_papers(losses):
    losses, seen = torch.tensor(losses), torch.ones(len(losses), dtype=torch.bool)
    paper = memorization_scores(losses, seen)
    assert torch.equal(memorization_scores(losses, seen, "quantile"), paper)


def test_quantile_scores_are_the_papers_of_clipped_losses():
    losses = torch.randn(400, generator=torch.Generator().manual_seed(0)).exp()
    seen = torch.arange(400) < 300
    ordered = losses[:300].sort().values
    clipped = losses.clamp(ordered[3], ordered[-4])  # 1 % of 299
    expected = memorization_scores(clipped, seen)
    assert torch.equal(memorization_scores(losses, seen, "quantile"), expected)
    assert expected[:300].mean() == pytest.approx(0.5, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30),
    st.sampled_from(["max", "rank", "quantile"]),
)
def test_scores_lie_in_the_unit_interval_and_keep_the_order(values, normalization):
    losses = torch.tensor(values)
    scores = memorization_scores(losses, torch.ones(len(values), dtype=torch.bool), normalization)
    assert bool(((scores >= 0) & (scores <= 1)).all())
    order = losses.argsort()
    assert bool((scores[order].diff() >= -1e-6).all())


def test_rank_scores_are_mean_ranks_over_n_minus_one():
    losses = torch.tensor([3.0, 1.0, 3.0, 2.0, 9.0, 1.0, 1.0, -4.0])
    seen = torch.tensor([True] * 7 + [False])
    expected = (rankdata(losses[:7].numpy()) - 1) / 6  # ties share their mean rank
    scores = memorization_scores(losses, seen, "rank")
    np.testing.assert_allclose(scores[:7], expected, rtol=1e-6)
    assert scores[7] == 0


@pytest.mark.parametrize("normalization", ["max", "rank", "quantile"])
def test_samples_never_seen_do_not_move_the_scores_of_the_others(normalization):
    losses = torch.tensor([5.0, 6.0, 8.0])
    alone = memorization_scores(losses, torch.ones(3, dtype=torch.bool), normalization)
    more = torch.cat([losses, torch.tensor([0.0, 100.0])])
    seen = torch.tensor([True, True, True, False, False])
    assert memorization_scores(more, seen, normalization).tolist() == [*alone.tolist(), 0.0, 0.0]
