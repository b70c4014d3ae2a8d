import pytest
import torch

from bcl.discovery.duplicates import duplicate_distance, duplicate_groups
from bcl.evaluation.neighbors import Neighbors, nearest_neighbors


def by_loop(x, distance):
    """Flood from each image in turn."""
    count = len(x)
    near = [[1 - torch.cosine_similarity(a, b, 0) <= distance for b in x] for a in x]
    left, groups = set(range(count)), []
    while left:
        group, frontier = set(), {min(left)}
        while frontier:
            i = frontier.pop()
            group.add(i)
            frontier |= {j for j in range(count) if near[i][j]} - group
        left -= group
        groups.append(sorted(group))
    groups = sorted((g for g in groups if len(g) > 1), key=lambda g: (-len(g), g))
    of = [-1] * count
    for number, group in enumerate(groups):
        for i in group:
            of[i] = number
    return of


def test_groups_as_by_loop():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=generator)
    x = torch.cat([x, x[3:6] + 0.01, x[4:6] - 0.01, x[11:]])
    found = duplicate_groups(nearest_neighbors(x, 10), 0.001)
    assert found.tolist() == by_loop(x, 0.001)
    assert found.max() >= 2


def test_distance_is_a_share_of_the_smaller_distance_to_the_last_neighbor():
    ids = torch.tensor([[1, 2], [0, 2], [0, 1]])
    distances = torch.tensor([[0.1, 0.2], [0.1, 0.5], [0.2, 0.5]])
    found = duplicate_distance(Neighbors(ids, distances), 0.5)
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.1], [0.1, 0.25], [0.1, 0.25]]))


@pytest.mark.parametrize("copies", [2, 30])
def test_copies_in_a_dense_and_in_a_sparse_region_and_bursts(copies):
    generator = torch.Generator().manual_seed(0)
    center = torch.randn(1, 16, generator=generator)
    dense = center + 0.05 * torch.randn(100, 16, generator=generator)
    sparse = torch.randn(40, 16, generator=generator)
    noise = torch.randn(copies, 16, generator=generator)
    more = torch.cat([dense[:1] + 0.001 * noise[:1], sparse[:1] + 0.001 * noise])
    neighbors = nearest_neighbors(torch.cat([dense, sparse, more]), 10)
    found = duplicate_groups(neighbors, duplicate_distance(neighbors))
    sets = [(found == group).nonzero()[:, 0].tolist() for group in range(int(found.max()) + 1)]
    assert sets == [[100, *range(141, 141 + copies)], [0, 140]]


def test_equal_images_are_copies_where_most_have_one():
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(12, 0)
    neighbors = nearest_neighbors(x, 10)
    found = duplicate_groups(neighbors, duplicate_distance(neighbors))
    assert found.tolist() == [i // 12 for i in range(240)]
