import pytest
import torch

from bcl.core.errors import InputError
from bcl.discovery.clusters import choose_count, cluster

SIZES = (60, 25, 9)


def tail():
    """Three groups of falling size, far apart."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.eye(5)[:3]
    groups = torch.arange(3).repeat_interleave(torch.tensor(SIZES))
    return centers[groups] + 0.05 * torch.randn(len(groups), 5, generator=generator), groups


@pytest.mark.slow
def test_groups_are_found_counted_and_ordered_by_size():
    x, groups = tail()
    found = cluster(x)
    assert choose_count(torch.nn.functional.normalize(x, dim=1)) == 3
    assert torch.equal(found.of, groups)
    assert found.sizes.tolist() == list(SIZES)


def test_distances_as_by_loop():
    x, _ = tail()
    found = cluster(x, 4)
    assert found.sizes.tolist() == sorted(found.of.bincount().tolist(), reverse=True)
    rows = torch.nn.functional.normalize(x, dim=1)
    for i in range(len(x)):
        center = rows[found.of == found.of[i]].mean(0)
        wanted = 1 - torch.cosine_similarity(rows[i], center, 0)
        assert found.distances[i].item() == pytest.approx(wanted.item(), abs=1e-6)


def test_few_images_and_bad_counts():
    assert cluster(torch.eye(3)).of.tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="9 clusters"):
        cluster(torch.eye(3), 9)
