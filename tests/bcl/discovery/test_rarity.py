import pytest
import torch

from bcl.core.errors import InputError
from bcl.discovery.rarity import neighbor_distance, percentiles
from bcl.evaluation.neighbors import nearest_neighbors


def test_the_mean_over_k_as_by_loop():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    neighbors = nearest_neighbors(x, 7)
    for k in (1, 3, 7):
        for i, value in enumerate(neighbor_distance(neighbors, k).tolist()):
            cosines = torch.cosine_similarity(x[i], x[torch.arange(30) != i])
            nearest = sorted((1 - cosines).tolist())[:k]
            assert value == pytest.approx(sum(nearest) / k, abs=1e-5)
    with pytest.raises(InputError, match="7"):
        neighbor_distance(neighbors, 8)


def test_percentiles_as_by_loop():
    scores = torch.tensor([3.0, 1.0, 3.0, 2.0, 9.0, 3.0])
    for score, share in zip(scores.tolist(), percentiles(scores).tolist(), strict=True):
        below = sum(other < score for other in scores.tolist())
        equal = sum(other == score for other in scores.tolist()) - 1
        assert share == pytest.approx((below + equal / 2) / 5)
    assert percentiles(torch.ones(1)).tolist() == [0]
