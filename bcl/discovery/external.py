"""Which images of a second collection, without labels, help the rare ones of the first."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.checks import (
    TensorLike,
    as_features,
    as_tensor,
    check_between,
    check_count,
    check_positive,
    check_together,
)
from bcl.core.errors import InputError
from bcl.core.random import permutation, uniform
from bcl.discovery.selection import k_center
from bcl.evaluation.features import check_finite

_INIT_STREAM, _ROTATION_STREAM, _REPEAT_STREAM = 0xC017, 0xB0A7, 0xB1A5
_BLOCK = 1 << 16  # rows at a time


class KMeans(NamedTuple):
    """Centers (C, D), and (N,) int64 the cluster of each row; of equal rows some are empty."""

    centers: Tensor
    of: Tensor


@torch.no_grad()
def k_means(rows: Tensor, count: int, seed: int = 0, iterations: int = 100) -> KMeans:
    """Cluster rows by Lloyd's algorithm from k-means++ centers, until no row moves.

    Args:
        rows: (N, D) floating point.
        count: C, at most N.
        seed: of the first centers.
        iterations: at most so many.

    Returns:
        Centers and clusters, the same on every machine up to rounding.

    Raises:
        InputError: more clusters than rows, rows that are not finite, or a number out of its range.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])
        >>> k_means(x, 2).of.tolist()
        [1, 0, 1]
    """
    rows = as_features("rows", rows, "(N, D)")
    check_finite("rows", rows.sum(1, keepdim=True))  # without a mask of all values
    check_count("clusters", count)
    check_count("seed", seed, at_least=0)
    check_count("iterations", iterations)
    if count > len(rows):
        raise InputError(f"{count} clusters of {len(rows)} images; ask for fewer clusters.")
    centers, of = _first_centers(rows, count, seed), torch.full((len(rows),), -1)
    for _ in range(iterations):
        before, of = of, _nearest(rows, centers)
        if of.equal(before):
            break
        sizes = torch.bincount(of, minlength=count)
        empty = (sizes == 0).nonzero()[:, 0]
        gaps = (rows - centers[of]).square().sum(1) if len(empty) else rows[:, 0]
        centers = torch.zeros_like(centers).index_add_(0, of, rows) / sizes.clamp(min=1)[:, None]
        centers[empty] = rows[gaps.topk(len(empty)).indices]  # those that fit worst
    return KMeans(centers, of)


def _first_centers(rows: Tensor, count: int, seed: int) -> Tensor:
    """Rows drawn one after another by their squared distance to those before (k-means++)."""
    draws = uniform(seed, _INIT_STREAM, torch.arange(count)).double()
    chosen = [int(draws[0] * len(rows))]
    squares = torch.linalg.vecdot(rows, rows)
    nearest = torch.full_like(squares, torch.inf)
    for draw in draws[1:]:
        last = rows[chosen[-1]]
        gaps = torch.addmv(squares + last @ last, rows, last, alpha=-2)
        nearest = nearest.minimum(gaps.clamp(min=0))
        nearest[chosen[-1]] = 0
        sums = nearest.cumsum(0, dtype=torch.float64)
        place = int(torch.searchsorted(sums, draw * sums[-1], right=True))
        chosen.append(min(place, len(rows) - 1))
    return rows[chosen]


def _nearest(rows: Tensor, centers: Tensor) -> Tensor:
    """(N,) the center at the smallest Euclidean distance."""
    half = centers.square().sum(1) / 2
    return torch.cat([(part @ centers.T - half).argmax(1) for part in torch.split(rows, _BLOCK)])


def tail_budget(tailness: TensorLike, budget: int, temperature: float = 1.0) -> Tensor:
    r"""Share a budget among clusters, more for those that are more likely tail.

    .. math:: b_c = \Bigl\lfloor b\, \operatorname{softmax}_c
        \Bigl(\frac{s_c - \operatorname{mean} s}{\tau \operatorname{std} s}\Bigr) \Bigr\rfloor

    with the standard deviation of C - 1; the last cluster has what rounding leaves.

    Args:
        tailness: (C,) mean tailness s of each cluster.
        budget: b.
        temperature: :math:`\tau > 0`; a high one shares evenly.

    Returns:
        (C,) int64 that sum to the budget.

    Raises:
        InputError: tailness that is not finite or not (C,), or a number out of its range.

    Source: COLT (arXiv 2306.04934), with its released code.

    Example:
        >>> tail_budget(-torch.tensor([0.30, 0.12, 0.25, 0.05]), 10_000)
        tensor([ 621, 2967,  960, 5452])
    """
    check_count("budget", budget)
    check_positive("temperature", temperature)
    level = _finite("tailness", tailness).double()
    spread = level.std() if len(level) > 1 else level.new_zeros(())
    z = (level - level.mean()) / spread if spread > 0 else torch.zeros_like(level)
    shares = (budget * (z / temperature).softmax(0)).floor().to(torch.int64)
    shares[-1] += budget - shares.sum()
    return shares


def colt_selection(
    own: Tensor,
    tailness: TensorLike,
    external: Tensor,
    budget: int,
    clusters: int = 10,
    temperature: float = 1.0,
    seed: int = 0,
) -> Tensor:
    r"""Select external images near the clusters of a training set that are likely tail.

    `k_means` of the training set, a share of the budget for each cluster by the mean tailness of
    its images (`tail_budget`), and cluster after cluster the external images with the largest
    cosine to its center that are not taken yet.

    Args:
        own: (N, D) features of the training set.
        tailness: (N,) of its images, such as the memory's (`bcl.contrastive_signals`); NaN where
            it is not known.
        external: (M, D) features of the external images.
        budget: b, at most M.
        clusters: C.
        temperature: of `tail_budget`.
        seed: of `k_means`.

    Returns:
        (b,) int64 rows of ``external``, ascending.

    Raises:
        InputError: a budget above M, features that are not finite, or no tailness at all.

    Source: COLT (arXiv 2306.04934), algorithm 1. Clusters without images, or without one whose
    tailness is known, get no share.

    Example:
        >>> own = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> others = torch.tensor([[0.9, 0.3], [0.2, 0.9], [-1.0, 0.0]])
        >>> colt_selection(own, -torch.tensor([0.9, 0.8, 0.1]), others, budget=1, clusters=2)
        tensor([1])
    """
    own, external = _checked(own, external, budget)
    tailness = _one_each("tailness", tailness, len(own), "images of the training set")
    known = ~tailness.isnan()
    if not bool(known.any()):
        raise InputError("no image has a tailness yet; train for an epoch before the selection.")
    found = k_means(own, clusters, seed)
    counts = torch.bincount(found.of[known], minlength=clusters)
    sums = torch.zeros(clusters, dtype=torch.float64)
    sums.index_add_(0, found.of[known], tailness[known].double())
    some = counts > 0
    shares = tail_budget(sums[some] / counts[some], budget, temperature)
    near = external @ normalize(found.centers[some], dim=1).T  # (M, C)
    for cluster, share in enumerate(shares.tolist()):
        near[near[:, cluster].topk(share).indices] = -torch.inf  # of no cluster any more
    return near[:, 0].isneginf().nonzero()[:, 0]


def mak_scores(losses: TensorLike, distances: TensorLike, alpha: float = 0.3) -> Tensor:
    r"""Score external images: hard, as tail images are, and close to the training set.

    .. math:: q = \alpha\, z(\text{loss}) - (1 - \alpha)\, z(\text{distance}), \qquad
        z(x) = \frac{x - \operatorname{mean} x}{\operatorname{std} x}

    Args:
        losses: (M,) expected contrastive losses, see `bcl.losses.expected_loss`.
        distances: (M,) to the training set.
        alpha: :math:`\alpha` in [0, 1].

    Returns:
        (M,).

    Raises:
        InputError: ``alpha`` out of its range, or other than one finite number per image.

    Source: MAK (arXiv 2111.01004), whose scripts take :math:`\alpha = 0.5`.

    Example:
        >>> mak_scores(torch.tensor([2.0, 1, 3, 2]), torch.tensor([0.1, 0.2, 0.4, 0.3]))
        tensor([ 0.9391, -0.1112, -0.5149, -0.3130])
    """
    check_between("alpha", alpha, 0, 1)
    losses = _finite("losses", losses)
    distances = _one_each("distances", _finite("distances", distances), len(losses), "losses")

    def z(x: Tensor) -> Tensor:
        spread = x.std(correction=0)
        return torch.where(spread > 0, (x - x.mean()) / spread, 0.0)

    return alpha * z(losses) - (1 - alpha) * z(distances)


def mak_selection(
    own: Tensor,
    external: Tensor,
    losses: TensorLike,
    budget: int,
    clusters: int = 10,
    alpha: float = 0.3,
    candidates: float = 1.5,
    seed: int = 0,
) -> Tensor:
    r"""Select external images that are hard, close to a training set, and unlike each other.

    Of all external images the ``candidates`` b with the highest `mak_scores` are kept, their
    distance being 1 minus the largest cosine to a center of `k_means` of the training set; from
    these b are chosen by greedy k-center, beginning with the best.

    Args:
        own: (N, D) features of the training set.
        external: (M, D) features of the external images.
        losses: (M,) expected contrastive losses, see `bcl.losses.expected_loss`.
        budget: b, at most M.
        clusters: centers that stand for the training set.
        alpha: of `mak_scores`.
        candidates: at least 1.
        seed: of `k_means`.

    Returns:
        (b,) int64 rows of ``external``, ascending.

    Raises:
        InputError: a budget above M, a number out of its range, or features or losses that are
            not finite.

    Source: MAK (arXiv 2111.01004), section 3; whose k-center computes all distances again at each
    of its b choices.

    Example:
        >>> own, others = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.eye(3)[:, :2] + 0.1
        >>> mak_selection(own, others, torch.tensor([2.0, 1.0, 3.0]), budget=1, clusters=2)
        tensor([0])
    """
    own, external = _checked(own, external, budget)
    if not 1 <= candidates < torch.inf:
        raise InputError(f"candidates must be at least 1 times the budget, got {candidates!r}.")
    losses = _one_each("losses", losses, len(external), "external images")
    centers = normalize(k_means(own, clusters, seed).centers, dim=1)
    nearest = torch.cat([(part @ centers.T).amax(1) for part in torch.split(external, _BLOCK)])
    scores = mak_scores(losses, 1 - nearest, alpha)
    best = torch.sort(scores, descending=True, stable=True).indices
    kept = best[: round(candidates * budget)]
    return kept[k_center(external[kept], budget)].sort().values


def _checked(own: Tensor, external: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Rows of length one."""
    own = as_features("own", own, "(N, D)")
    external = as_features("external", external, "(M, D)")
    check_together(("own", own), {"external": external})
    check_count("budget", budget)
    if budget > len(external):
        raise InputError(
            f"the budget is {budget:,} images, more than the {len(external):,} external ones; "
            "select at most so many."
        )
    own, external = normalize(own.float(), dim=1), normalize(external.float(), dim=1)
    for name, rows in (("own", own), ("external", external)):
        check_finite(name, rows.sum(1, keepdim=True))  # without a mask of all values
    return own, external


def _one_each(name: str, given: TensorLike, count: int, of: str) -> Tensor:
    values = as_tensor(name, given)
    if values.shape != (count,):
        raise InputError(
            f"{name} must be one number for each of the {count:,} {of}, got {tuple(values.shape)}."
        )
    return values


def _finite(name: str, given: TensorLike) -> Tensor:
    values = as_tensor(name, given)
    if values.ndim != 1 or not len(values):
        raise InputError(
            f"{name} must be of shape (N,), at least one number, got {tuple(values.shape)}; pass "
            f"{name}.flatten() of a column."
        )
    check_finite(name, values[:, None])
    return values if values.is_floating_point() else values.float()


def balanced_order(clusters: Tensor, count: int, *keys: int) -> Tensor:
    r"""Draw images so that every cluster is drawn equally often.

    Of C clusters that have images each has ⌊n/C⌋ or ⌈n/C⌉ of n places; within a cluster no image
    comes again before all have come.

    Args:
        clusters: (N,) int64 cluster of each image.
        count: n.
        keys: of the draw, such as seed and epoch.

    Returns:
        (n,) int64 images, cluster by cluster.

    Raises:
        InputError: no clusters, or other than one integer of at least 0 per image.

    Source: balanced sampling from clusters as in the curation of Vo et al. 2024 (arXiv 2405.15613).

    Example:
        >>> balanced_order(torch.tensor([0, 0, 0, 1]), 4, 0)
        tensor([1, 0, 3, 3])
    """
    check_count("count", count)
    integers = not (clusters.is_floating_point() or clusters.dtype == torch.bool)
    if clusters.ndim != 1 or not len(clusters) or not integers or int(clusters.min()) < 0:
        raise InputError(
            "clusters must be one integer from 0 for each image, at least one image, got "
            f"{tuple(clusters.shape)} of {clusters.dtype}."
        )
    sizes = torch.bincount(clusters)
    members = list(torch.split(clusters.argsort(stable=True), sizes.tolist()))
    members = [ids for ids in members if len(ids)]
    ranks = permutation(len(members), *keys, _ROTATION_STREAM)  # whose turn it is to get one more
    parts = []
    for cluster, (ids, rank) in enumerate(zip(members, ranks.tolist(), strict=True)):
        places = count // len(members) + (rank < count % len(members))
        rounds = range(-(-places // len(ids)))
        orders = [permutation(len(ids), *keys, _REPEAT_STREAM, cluster, r) for r in rounds]
        parts += [ids[order] for order in orders[:-1]]
        parts += [ids[order[: places - (len(orders) - 1) * len(ids)]] for order in orders[-1:]]
    return torch.cat(parts)
