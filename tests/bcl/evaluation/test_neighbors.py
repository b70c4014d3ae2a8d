import pytest
import torch

from bcl.core.errors import InputError
from bcl.evaluation.neighbors import RUN, _search, largest, nearest_neighbors


def by_loop(x, k):
    """Every pair, one at a time."""
    found = []
    for i in range(len(x)):
        pairs = []
        for j in range(len(x)):
            if i != j:
                cosine = (x[i] @ x[j]) / (x[i].norm() * x[j].norm())
                pairs.append((1 - float(cosine), j))
        found.append(sorted(pairs)[:k])
    ids = torch.tensor([[j for _, j in row] for row in found])
    return ids, torch.tensor([[d for d, _ in row] for row in found])


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(2, 5), (40, 3), (4 * RUN + 7, 2)])
def test_pairs_as_by_loop(n, k):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(n)).double()
    ids, distances = by_loop(x, k)
    found = nearest_neighbors(x, k)
    assert torch.equal(found.ids, ids)
    torch.testing.assert_close(found.distances, distances, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tile", [1, 3, 16, 49, 50, 64])
def test_blocks_and_tiles_join(monkeypatch, tile):
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    whole = nearest_neighbors(x, 4)
    monkeypatch.setattr("bcl.evaluation.neighbors.BLOCK_BYTES", 4 * 50 * 7)
    monkeypatch.setattr("bcl.evaluation.neighbors.TILE", tile)
    found = nearest_neighbors(x, 4)
    assert torch.equal(found.ids, whole.ids)
    torch.testing.assert_close(found.distances, whole.distances)


def test_a_search_in_fewer_dimensions_misses_little_and_reports_exact_distances():
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(20, 256, generator=generator)
    x = torch.randn(600, 20, generator=generator) @ plane
    x += 0.3 * torch.randn(600, 256, generator=generator)
    exact, fast = nearest_neighbors(x, 5), nearest_neighbors(x, 5, exact_rows=10)
    same = [
        len(set(a) & set(b)) for a, b in zip(exact.ids.tolist(), fast.ids.tolist(), strict=True)
    ]
    assert sum(same) > 0.97 * 5 * 600
    rows = torch.nn.functional.normalize(x, dim=1)
    wanted = 1 - (rows[:, None] * rows[fast.ids]).sum(2)
    torch.testing.assert_close(fast.distances, wanted, atol=1e-5, rtol=0)


def test_bad_embeddings():
    with pytest.raises(InputError, match="two"):
        nearest_neighbors(torch.zeros(1, 3))
    x = torch.ones(3, 2)
    x[2, 0] = torch.nan
    with pytest.raises(InputError, match="row 2"):
        nearest_neighbors(x)


def all_distances(x, k):
    """Distances of all pairs, and the k smallest of each row."""
    rows = torch.nn.functional.normalize(x.double(), dim=1)
    distances = (1 - rows @ rows.T).fill_diagonal_(9.0)
    return distances, distances.sort(dim=1).values[:, :k]


@pytest.mark.parametrize("kind", ["random", "equal", "zero", "double"])
@pytest.mark.parametrize(
    ("n", "tile", "k"),
    [(33, 32, 3), (33, 32, 40), (65, 32, 10), (2 * RUN + 1, 2 * RUN, 1), (300, 299, 4), (5, 8, 4)],
)
def test_odd_sizes(monkeypatch, n, tile, k, kind):
    monkeypatch.setattr("bcl.evaluation.neighbors.TILE", tile)
    monkeypatch.setattr("bcl.evaluation.neighbors.BLOCK_BYTES", 4 * tile * 7)
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(n))
    x = {"random": x, "double": x.double(), "equal": torch.ones(n, 6), "zero": 0 * x}[kind]
    k = min(k, n - 1)
    ids, distances = nearest_neighbors(x, k)
    pairs, nearest = all_distances(x, k)
    torch.testing.assert_close(distances.double(), nearest, atol=1e-6, rtol=0)
    torch.testing.assert_close(distances.double(), pairs.gather(1, ids), atol=1e-6, rtol=0)
    assert all(len({*row, i}) == k + 1 for i, row in enumerate(ids.tolist()))  # others, each once


@pytest.mark.parametrize("width", [2 * RUN, 5 * RUN, 5 * RUN + 1, 6 * RUN - 1])
def test_the_largest_beside_minus_infinity(width):
    values = torch.randn(8, width, generator=torch.Generator().manual_seed(0))
    values[0], values[1, 3:], values[2, : 4 * RUN] = -torch.inf, -torch.inf, -torch.inf
    top, place = largest(values, 3)
    assert torch.equal(top, values.topk(3, dim=1).values)
    assert torch.equal(values.gather(1, place), top)
    assert all(len({*row}) == 3 for row in place.tolist())


def test_ids_are_on_the_device_of_the_rows():
    assert _search(torch.empty(5, 3, device="meta"), 2).ids.device.type == "meta"


def test_features_may_still_have_a_gradient():
    x = torch.eye(3)
    found = nearest_neighbors(x.clone().requires_grad_(), 2)
    assert torch.equal(found.distances, nearest_neighbors(x, 2).distances)
    assert not found.distances.requires_grad
