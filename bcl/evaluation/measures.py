"""Measures of a representation that need no classifier, and how well a tracker finds the tail."""

from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.errors import InputError
from bcl.core.random import permutation
from bcl.evaluation.metrics import auroc, nan_mean, spearman
from bcl.evaluation.shots import ShotGroups

MAX_IMAGES = 4096  # pairs grow with the square; this many give the uniformity to 0.01


class Measures(TypedDict):
    """Measures of test features."""

    uniformity: float | None
    alignment: float | None
    spread: dict[str, float]
    spread_per_class: list[float]


# Momentum losses of a class: mean and quartiles, None where the tracker saw none of its samples.
Number = float | None
ClassLoss = TypedDict(
    "ClassLoss", {"class": int, "mean": Number, "low": Number, "high": Number, "score": Number}
)


class TailDiscovery(TypedDict):
    """What `tail_discovery` finds."""

    samples: int
    seen: int
    spearman_samples: float
    spearman_classes: float
    auroc_tail: float
    score_histogram: list[int]
    by_class: list[ClassLoss]


def uniformity(features: Tensor, t: float = 2.0, seed: int = 0) -> float:
    r"""How evenly features lie on the sphere; lower is more even.

    .. math:: \log \mathbb{E}_{x \ne y} e^{-t \lVert x - y \rVert^2}

    over pairs of L2-normalized features, of at most 4,096 images drawn by the seed.

    Args:
        features: (N, D), N at least 2.
        t: see above.
        seed: of the draw.

    Returns:
        A number in [-4 t, 0].

    Raises:
        InputError: fewer than two images.

    Source: Wang and Isola 2020 (arXiv 2005.10242), equation 2.

    Example:
        >>> round(uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), 4)
        -8.0
    """
    n = features.shape[0]
    if n < 2:
        raise InputError(f"uniformity needs at least two images, got {n}.")
    rows = permutation(n, seed, 0x0F1, device=features.device)[:MAX_IMAGES]
    x = normalize(features[rows].float(), dim=1)
    return float(torch.pdist(x).square().mul(-t).exp().mean().log())


def alignment(first: Tensor, second: Tensor, alpha: float = 2.0) -> float:
    r"""How close the two features of a positive pair lie; lower is closer.

    .. math:: \mathbb{E} \lVert x - x^+ \rVert^\alpha

    of L2-normalized features.

    Args:
        first: (N, D), one view of each image.
        second: (N, D), another.
        alpha: see above.

    Returns:
        A number in [0, 2^alpha].

    Source: Wang and Isola 2020 (arXiv 2005.10242), equation 1.

    Example:
        >>> round(alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])), 6)
        2.0
    """
    x, y = normalize(first.float(), dim=1), normalize(second.float(), dim=1)
    return float((x - y).norm(dim=1).pow(alpha).mean())


def class_spread(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    r"""(C,) circular variance of the features of each class; NaN for absent classes.

    .. math:: 1 - \Bigl\lVert \frac1{n_c} \sum_{i: y_i = c} \hat x_i \Bigr\rVert

    for L2-normalized features: 0 where a class is one point, near 1 where it covers the sphere.

    Example:
        >>> class_spread(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), 2)
        tensor([0., 0.], dtype=torch.float64)
    """
    x = normalize(features.float(), dim=1)
    sums = x.new_zeros(num_classes, x.shape[1]).index_add_(0, labels, x)
    counts = torch.bincount(labels, minlength=num_classes).to(x)
    spread: Tensor = 1 - sums.norm(dim=1) / counts
    return spread.double().cpu()


def representation_measures(
    features: Tensor,
    labels: Tensor,
    groups: ShotGroups,
    views: Callable[[], tuple[Tensor, Tensor]] | None = None,
) -> Measures:
    """Measure test features; ``views`` returns features of two views of the same images."""
    spread = class_spread(features, labels, groups.class_counts.numel())
    by_group = {name: nan_mean(spread[ids]) for name, ids in groups.as_dict().items()}
    return {
        "uniformity": uniformity(features) if features.shape[0] > 1 else None,
        "alignment": alignment(*views()) if views is not None else None,
        "spread": {**by_group, "all": nan_mean(spread)},
        "spread_per_class": spread.tolist(),
    }


def tail_discovery(
    momentum_loss: Tensor, scores: Tensor, seen: Tensor, labels: Tensor, class_counts: Tensor
) -> TailDiscovery:
    """Does the tracker, which never saw a label, find the rare classes?

    Args:
        momentum_loss: (N,) of the training samples.
        scores: (N,) memorization scores.
        seen: (N,) bool.
        labels: (N,) of the training samples.
        class_counts: (C,) training images.

    Returns:
        Rank correlations of the momentum loss (and of its class means) with class frequency,
        negative where rare classes have larger losses; ``auroc_tail``, the chance that a sample of
        the rarer half of the classes has a larger loss than one of the other half; and more.
    """
    frequency = class_counts[labels].double()  # (N,)
    by_class = [
        _class_loss(c, momentum_loss, scores, seen & (labels == c))
        for c in range(class_counts.numel())
    ]
    known = [(row["mean"], row["class"]) for row in by_class if row["mean"] is not None]
    means = torch.tensor([mean for mean, _ in known], dtype=torch.float64)
    present = class_counts[class_counts > 0].double()
    # Between the two middle classes of an even number; torch.median takes the lower one.
    tail = frequency < (present.quantile(0.5) if present.numel() else 0)
    return {
        "samples": momentum_loss.numel(),
        "seen": int(seen.sum()),
        "spearman_samples": spearman(momentum_loss[seen].double(), frequency[seen]),
        "spearman_classes": spearman(means, class_counts[[c for _, c in known]].double()),
        "auroc_tail": auroc(momentum_loss[seen], tail[seen]),
        "score_histogram": torch.histc(scores[seen].float(), 20, 0, 1).to(torch.int64).tolist(),
        "by_class": by_class,
    }


def _class_loss(class_id: int, losses: Tensor, scores: Tensor, own: Tensor) -> ClassLoss:
    """Mean and quartiles of the momentum losses of one class."""
    values = losses[own].double()
    if values.numel() == 0:
        return {"class": class_id, "mean": None, "low": None, "high": None, "score": None}
    low, high = torch.quantile(values, values.new_tensor([0.25, 0.75])).tolist()
    mean, score = float(values.mean()), float(scores[own].mean())
    return {"class": class_id, "mean": mean, "low": low, "high": high, "score": score}
