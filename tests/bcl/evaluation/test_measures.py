"""Measures by their definition."""

import math

import pytest
import torch

from bcl.evaluation.measures import (
    alignment,
    class_spread,
    representation_measures,
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
