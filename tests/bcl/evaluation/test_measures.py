"""Measures by their definition, and tail discovery with known answers."""

import math

import pytest
import torch

from bcl.evaluation.measures import (
    alignment,
    class_spread,
    representation_measures,
    tail_discovery,
    uniformity,
)
from bcl.evaluation.shots import shot_groups


def test_uniformity_and_alignment_by_their_definition():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    y = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    a, b = (torch.nn.functional.normalize(z, dim=1) for z in (x, y))
    assert uniformity(x) == pytest.approx(
        torch.pdist(a).square().mul(-2).exp().mean().log().item(), abs=1e-5
    )
    assert alignment(x, y) == pytest.approx((a - b).norm(dim=1).square().mean().item(), abs=1e-5)
    assert math.isnan(uniformity(x[:1]))


def test_spread_grows_with_the_noise():
    labels = torch.arange(600) % 3
    centers = torch.eye(3)[labels]
    noise = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    spread = class_spread(
        centers + noise * torch.tensor([0.1, 0.3, 0.9])[labels][:, None], labels, 4
    )
    assert spread[0] < spread[1] < spread[2]
    assert spread[3].isnan()
    measures = representation_measures(centers + noise, labels, shot_groups([9, 5, 1]))
    assert measures["alignment"] is None
    assert 0 < measures["spread"]["all"] < 1


def test_tail_discovery_with_a_known_answer():
    counts = torch.tensor([50, 20, 5])
    labels = torch.repeat_interleave(torch.arange(3), counts)
    loss = 10.0 - counts[labels].float().log() + torch.linspace(0, 0.1, 75)
    seen = torch.ones(75, dtype=torch.bool)
    found = tail_discovery(loss, loss / 20, seen, labels, counts)
    assert found["spearman_classes"] == pytest.approx(-1)
    assert found["auroc_tail"] == pytest.approx(1)
    assert sum(found["score_histogram"]) == 75
    only_head = tail_discovery(loss, loss / 20, labels == 0, labels, counts)
    assert math.isnan(only_head["auroc_tail"])
    assert only_head["by_class"][2]["mean"] is None


@pytest.mark.parametrize("counts", [[90, 10], [40, 30, 20, 10], [40, 30, 20]])
def test_rarer_half_of_the_classes(counts):
    frequency = torch.tensor(counts)
    labels = torch.repeat_interleave(torch.arange(len(counts)), frequency)
    half = len(counts) // 2
    loss = (labels >= len(counts) - half).float()  # high in the rarer half alone
    seen = torch.ones_like(labels, dtype=torch.bool)
    assert tail_discovery(loss, loss, seen, labels, frequency)["auroc_tail"] == 1
