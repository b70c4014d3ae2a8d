import torch

from bcl.discovery.duplicates import duplicate_distance, duplicate_groups
from bcl.discovery.neighbors import Neighbors, nearest_neighbors


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


def test_distance_is_a_share_of_the_median_to_the_nearest():
    distances = torch.tensor([[0.1, 0.2], [0.4, 0.5], [0.6, 0.9]])
    found = duplicate_distance(Neighbors(torch.zeros(3, 2, dtype=torch.int64), distances), 0.25)
    assert abs(found - 0.1) < 1e-7
