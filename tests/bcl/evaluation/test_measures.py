"""Measures by their definition."""

import math

import pytest
import torch

from bcl.evaluation.measures import (
    alignment,
    class_spread,
    effective_rank,
    nearest_neighbors,
    neighbor_agreement,
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


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (30, 30)])
def test_effective_rank_by_its_definition(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    sigma = torch.linalg.svdvals(x.double())
    entropy = 0.0
    for value in sigma.tolist():
        p = value / float(sigma.sum()) + 1e-7
        entropy -= p * math.log(p)
    assert effective_rank(x) == pytest.approx(math.exp(entropy), rel=1e-6)
    assert effective_rank(3 * x) == pytest.approx(effective_rank(x), rel=1e-6)
    assert 1 < effective_rank(x) < min(shape)


def test_effective_rank_of_collapsed_features():
    assert effective_rank(torch.ones(20, 8)) == pytest.approx(1, abs=1e-4)
    line = torch.linspace(1, 2, 20)[:, None] * torch.rand(8)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(20, 8)) == 1
    assert effective_rank(torch.eye(8).repeat(3, 1)) == pytest.approx(8)


def test_neighbors_by_an_explicit_loop():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 30, 4, generator=generator)
    cosine = torch.nn.functional.cosine_similarity

    def loop(x):
        rows = []
        for i in range(30):
            others = [j for j in range(30) if j != i]
            rows.append(sorted(others, key=lambda j: -float(cosine(x[i], x[j], dim=0)))[:5])
        return rows

    tables = [nearest_neighbors(x, 5) for x in (first, second)]
    assert [table.tolist() for table in tables] == [loop(first), loop(second)]
    kept = [len({*a} & {*b}) / 5 for a, b in zip(loop(first), loop(second), strict=True)]
    assert neighbor_agreement(*tables) == pytest.approx(sum(kept) / 30)
    assert 0 < neighbor_agreement(*tables) < 1
    assert neighbor_agreement(tables[0], tables[0]) == 1
    assert nearest_neighbors(first[:3], 10).shape == (3, 2)
