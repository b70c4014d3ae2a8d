"""Selection rules against check values and loops; what is refused."""

import pytest
import torch
from tensors import unit

from bcl import InputError
from bcl.discovery import (
    balanced_order,
    colt_selection,
    k_means,
    mak_scores,
    mak_selection,
    tail_budget,
)


def blobs(count, dim=6, groups=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(groups, dim, generator=torch.Generator().manual_seed(9))
    of = torch.randint(0, groups, (count,), generator=generator)
    return centers[of] + 0.4 * torch.randn(count, dim, generator=generator), of


def test_k_means_ends_where_no_row_moves_and_finds_blobs():
    rows, of = blobs(300)
    found = k_means(rows, 4, seed=1)
    for center in range(4):
        members = found.of == center
        torch.testing.assert_close(found.centers[center], rows[members].mean(0))
        assert len(set(of[members].tolist())) == 1
    distances = (rows[:, None] - found.centers).square().sum(2)
    assert found.of.equal(distances.argmin(1))
    again = k_means(rows, 4, seed=1)
    assert again.of.equal(found.of)
    assert again.centers.equal(found.centers)


def test_k_means_of_equal_rows_leaves_clusters_empty():
    found = k_means(torch.ones(5, 2), 3)
    assert found.centers.isfinite().all()
    assert len(set(found.of.tolist())) == 1


def test_check_values_of_colts_budget():
    means = torch.tensor([0.30, 0.12, 0.25, 0.05])
    assert tail_budget(-means, 10_000).tolist() == [621, 2967, 960, 5452]
    assert max(abs(tail_budget(-means, 10_000, temperature=1e9) - 2500)) <= 3
    assert tail_budget(torch.ones(3), 10).tolist() == [3, 3, 4]
    assert tail_budget(torch.ones(1), 7).tolist() == [7]


def colt_by_loops(own, tailness, external, budget, clusters, seed):
    own, external = unit(own), unit(external)
    found = k_means(own, clusters, seed)
    means = torch.stack([tailness[found.of == c].mean() for c in range(clusters)])
    taken = set()
    for center, share in zip(found.centers, tail_budget(means, budget).tolist(), strict=True):
        cosines = external @ center / center.norm()
        order = [i for i in cosines.argsort(descending=True).tolist() if i not in taken]
        taken |= set(order[:share])
    return sorted(taken)


@pytest.mark.parametrize("budget", [1, 37, 200])
def test_colts_rule_by_loops(budget):
    own, _ = blobs(120)
    external, _ = blobs(200, groups=7, seed=1)
    tailness = -torch.rand(120, generator=torch.Generator().manual_seed(2))
    found = colt_selection(own, tailness, external, budget, clusters=5, seed=3)
    assert found.tolist() == colt_by_loops(own, tailness, external, budget, 5, 3)


def test_colt_selects_near_the_tail_and_leaves_unknown_images_out():
    own, of = blobs(200)
    external, where = blobs(400, seed=1)
    tailness = torch.where(of == 2, -0.1, -0.9)
    tailness[::3] = torch.nan
    found = colt_selection(own, tailness, external, 60, clusters=4, temperature=0.3)
    assert (where[found] == 2).float().mean() > 0.9
    with pytest.raises(InputError, match="tailness yet"):
        colt_selection(own, torch.full((200,), torch.nan), external, 60)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.3, (0.939149, -0.111215, -0.514884, -0.313050)),
        (0.5, (0.670820, -0.483500, 0.036286, -0.223607)),
    ],
)
def test_check_values_of_maks_score(alpha, expected):
    losses, distances = torch.tensor([2.0, 1, 3, 2]), torch.tensor([0.1, 0.2, 0.4, 0.3])
    found = mak_scores(losses, distances, alpha)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)
    assert mak_scores(torch.ones(4), distances, 1.0).tolist() == [0.0] * 4


def mak_by_loops(own, external, losses, budget, clusters, candidates, seed):
    own, external = unit(own), unit(external)
    centers = unit(k_means(own, clusters, seed).centers)
    distances = torch.stack([1 - max(x @ c for c in centers) for x in external])
    order = mak_scores(losses, distances).argsort(descending=True).tolist()
    kept = order[: round(candidates * budget)]
    chosen = [kept[0]]
    while len(chosen) < budget:
        left = [i for i in kept if i not in chosen]
        gaps = [min(float(1 - external[i] @ external[j]) for j in chosen) for i in left]
        chosen.append(left[gaps.index(max(gaps))])
    return sorted(chosen)


def test_maks_rule_by_loops():
    own, _ = blobs(50)
    external, _ = blobs(80, groups=7, seed=1)
    losses = torch.rand(80, generator=torch.Generator().manual_seed(2))
    found = mak_selection(own, external, losses, 20, clusters=5, candidates=1.5, seed=3)
    assert found.tolist() == mak_by_loops(own, external, losses, 20, 5, 1.5, 3)


@pytest.mark.parametrize("count", [1, 10, 12, 61])
def test_every_cluster_is_drawn_equally_often_and_none_again_before_all(count):
    clusters = torch.tensor([0] * 30 + [3] * 4 + [1])  # cluster 2 is empty
    ids = balanced_order(clusters, count, 7, 0)
    per_cluster = torch.bincount(clusters[ids], minlength=4)
    assert per_cluster[2] == 0
    assert per_cluster[[0, 1, 3]].max() - per_cluster[[0, 1, 3]].min() <= 1
    for cluster in (0, 1, 3):
        members = clusters == cluster
        times = torch.bincount(ids, minlength=35)[members]
        assert times.max() - times.min() <= 1
    assert balanced_order(clusters, count, 7, 0).equal(ids)
    if count == 61:
        assert not balanced_order(clusters, count, 7, 1).equal(ids)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda x: k_means(x, 9), "9 clusters of 8 images"),
        (lambda x: colt_selection(x, x[:, 0], x, 9), "budget is 9 images"),
        (lambda x: mak_selection(x, x, x[:, 0], 9), "budget is 9 images"),
        (lambda x: mak_selection(x, x, x[:, 0], 2, 2, candidates=0.5), "candidates"),
        (lambda x: mak_selection(x, x, x[:, 0], 2, 2, candidates=torch.inf), "candidates"),
        (lambda x: mak_selection(x, x, x[:, 0], 2, 2, alpha=1.5), "alpha"),
        (lambda x: colt_selection(x, x[:, 0], x[:, :1], 2), "width"),
        (lambda x: tail_budget(x[0], 0), "budget"),
        (lambda x: tail_budget(x[0], 5, 0.0), "temperature"),
        (lambda x: tail_budget(x, 5), r"tailness must be of shape \(N,\), .* got \(8, 3\)"),
        (lambda x: tail_budget(x[0] / 0, 5), "tailness are not finite in 3 rows"),
        (lambda x: mak_scores(x[0] / 0, x[0]), "losses are not finite"),
        (lambda x: mak_scores(x[0], x[0] / 0), "distances are not finite"),
        (lambda x: mak_scores(x[0], x[1, :2]), "distances must be one number for each of the 3"),
        (lambda x: mak_scores(x[0], x[0], "a"), r"alpha must be a number in \[0, 1\], got 'a'"),
        (lambda x: mak_scores(x[0], x[0], torch.nan), "alpha"),
        (lambda x: k_means(x / 0, 2), "rows are not finite in 8 rows"),
        (lambda x: k_means(x, 2, seed=0.5), "seed"),
        (lambda x: k_means(x, 2, iterations=0), "iterations"),
    ],
)
def test_bad_input_is_refused(call, word):
    with pytest.raises(InputError, match=word):
        call(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: colt_selection(torch.eye(3), torch.ones(2), torch.eye(3), 1, clusters=2),
            r"tailness must be one number for each of the 3 images of the training set, got \(2,\)",
        ),
        (
            lambda: mak_selection(torch.eye(3), torch.eye(3)[:2], torch.ones(3), 1, clusters=2),
            r"losses must be one number for each of the 2 external images, got \(3,\)",
        ),
        (
            lambda: colt_selection(torch.eye(3) / 0, torch.ones(3), torch.eye(3), 1, clusters=2),
            "own are not finite in 3 rows",
        ),
        (
            lambda: mak_selection(
                torch.eye(3), torch.tensor([[1.0, 0, 0], [0, torch.inf, 0]]), torch.ones(2), 1, 2
            ),
            "external are not finite in 1 rows, first in row 1",
        ),
        (
            lambda: mak_selection(torch.eye(3), torch.eye(3), torch.ones(3) / 0, 1, clusters=2),
            "losses",
        ),
        (lambda: balanced_order(torch.zeros(0, dtype=torch.int64), 2, 0), "at least one image"),
        (lambda: balanced_order(torch.zeros(3), 2, 0), "torch.float32"),
        (lambda: balanced_order(torch.tensor([0, -1]), 2, 0), "one integer from 0"),
    ],
)
def test_what_is_not_one_finite_number_per_image_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
