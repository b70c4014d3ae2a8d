"""Measures of a representation that need no classifier."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.random import permutation
from bcl.evaluation.metrics import nan_mean
from bcl.evaluation.shots import ShotGroups

MAX_IMAGES = 4096  # pairs grow with the square; this many give the uniformity to 0.01


def uniformity(features: Tensor) -> float:
    r"""How evenly (N, D) features lie on the sphere, in [-8, 0]; lower is more even.

    .. math:: \log \mathbb{E}_{x \ne y} e^{-2 \lVert x - y \rVert^2}

    over pairs of L2-normalized features of at most 4,096 images; NaN for a single image.
    Source: Wang and Isola 2020 (arXiv 2005.10242), equation 2.
    """
    rows = permutation(len(features), 0, 0x0F1, device=features.device)[:MAX_IMAGES]
    x = normalize(features[rows].float(), dim=1)
    pairs = (x @ x.T).sub_(1).mul_(4).exp_()  # |x - y|² = 2 - 2 x·y
    total = pairs.sum(dtype=torch.float64) - pairs.diagonal().sum(dtype=torch.float64)
    return float((total / (len(x) * (len(x) - 1))).log())


def alignment(first: Tensor, second: Tensor) -> float:
    r"""Mean :math:`\lVert x - x^+ \rVert^2` of L2-normalized positive pairs, (N, D) each.

    Source: Wang and Isola 2020 (arXiv 2005.10242), equation 1.
    """
    x, y = normalize(first.float(), dim=1), normalize(second.float(), dim=1)
    return float((x - y).norm(dim=1).pow(2.0).mean())


def effective_rank(features: Tensor) -> float:
    r"""RankMe: how many directions (N, D) features use, from 1 to :math:`\min(N, D)`.

    .. math:: \exp\Bigl(-\sum_k p_k \log p_k\Bigr), \qquad
              p_k = \sigma_k / \lVert \sigma \rVert_1 + \epsilon

    for the singular values :math:`\sigma` of the features as they are, neither centered nor
    normalized, and :math:`\epsilon` = 1e-7; 1 where all features are zero.
    Source: Garrido et al. 2023 (arXiv 2210.02885), equation 2.

    Example:
        >>> round(effective_rank(torch.eye(4, 9)), 3), round(effective_rank(torch.ones(4, 9)), 3)
        (4.0, 1.0)
    """
    x = features.double()
    # From the smaller Gram matrix: faster, and off by 1e-8 of the largest value.
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if not float(values.sum()) > 0:
        return 1.0
    p = values / values.sum() + 1e-7
    return float((-(p * p.log()).sum()).exp())


def nearest_neighbors(features: Tensor, k: int) -> Tensor:
    """(N, k) positions of the k nearest other rows of (N, D) features by cosine, nearest first.

    All (N, N) similarities are held at once; k above N - 1 gives N - 1.
    """
    x = normalize(features.float(), dim=1)
    similarity = (x @ x.T).fill_diagonal_(-torch.inf)
    return similarity.topk(min(k, len(x) - 1), dim=1).indices


def neighbor_agreement(first: Tensor, second: Tensor) -> float:
    r"""Share of the nearest neighbors that two (N, k) tables of `nearest_neighbors` share.

    .. math:: \frac{1}{N} \sum_i \frac{|A_i \cap B_i|}{k}

    Example:
        >>> neighbor_agreement(torch.tensor([[1, 2], [0, 2]]), torch.tensor([[2, 3], [2, 0]]))
        0.75
    """
    return float((first[:, :, None] == second[:, None]).any(2).double().mean())  # (N, k, k)


def class_spread(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    r"""(C,) circular variance of the features of each class; NaN for absent classes.

    :math:`1 - \lVert \frac1{n_c} \sum_{i: y_i = c} \hat x_i \rVert` for L2-normalized features: 0
    where a class is one point, near 1 where it covers the sphere.
    """
    x = normalize(features.float(), dim=1)
    sums = x.new_zeros(num_classes, x.shape[1]).index_add_(0, labels, x)
    counts = torch.bincount(labels, minlength=num_classes).to(x)
    spread: Tensor = 1 - sums.norm(dim=1) / counts
    return spread.double().cpu()


def representation_measures(
    features: Tensor, labels: Tensor, groups: ShotGroups, views: tuple[Tensor, Tensor] | None = None
) -> dict[str, Any]:
    """Measures of (M, D) test features; ``views`` holds features of two views of some images."""
    spread = class_spread(features, labels, groups.class_counts.numel())
    by_group = {name: nan_mean(spread[ids]) for name, ids in groups.as_dict().items()}
    return {
        "uniformity": uniformity(features) if features.shape[0] > 1 else None,
        "alignment": alignment(*views) if views is not None else None,
        "spread": {**by_group, "all": nan_mean(spread)},
        "spread_per_class": spread.tolist(),
    }
