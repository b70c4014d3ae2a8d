"""Top-1, top-5, per class, Many/Medium/Few, both spreads, confidence intervals."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_stat_scores

from bcl.core.errors import InputError
from bcl.evaluation.shots import GROUPS, ShotGroups

# Student's t, two-sided 95 %, by degrees of freedom 1 to 30; beyond, the normal value.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def class_accuracy(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Share of right predictions for every class; NaN where the test set has no such class.

    torchmetrics gives 0 for an absent class, which would count as a failure; here it is NaN, and
    the means over classes leave it out.

    Args:
        predictions: (N,) int64.
        labels: (N,) int64.
        num_classes: C.

    Returns:
        (C,) float64.

    Example:
        >>> class_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3)
        tensor([0.5000, 1.0000,    nan], dtype=torch.float64)
    """
    scores = multiclass_stat_scores(
        predictions, labels, num_classes=num_classes, average=None, validate_args=False
    )  # (C, 5): tp, fp, tn, fn, support
    return (scores[:, 0].double() / scores[:, 4].double()).cpu()


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of samples whose label is among the k largest logits.

    Args:
        logits: (N, C).
        labels: (N,).
        k: at most C is used.

    Returns:
        A number in [0, 1].
    """
    num_classes = logits.shape[1]
    value = multiclass_accuracy(
        logits,
        labels,
        num_classes=num_classes,
        average="micro",
        top_k=min(k, num_classes),
        validate_args=False,
    )
    return float(value)


def nan_mean(values: Tensor) -> float:
    """Mean of the numbers that are there; NaN if none is."""
    there = values[~values.isnan()]
    return float(there.double().mean()) if there.numel() else math.nan


def group_accuracy(per_class: Tensor, groups: ShotGroups) -> dict[str, float]:
    r"""Many, Medium, Few and their standard deviation under both definitions.

    A group's accuracy is the mean over its classes. ``std_population`` divides by 3 (SDCLR's
    released code), ``std_sample`` by 2 (with which the tables of the BCL and GH papers reproduce):
    :math:`\sqrt{3/2}` times as much.

    Args:
        per_class: (C,) accuracies, NaN for classes without test images.
        groups: from `bcl.shot_groups`.

    Returns:
        ``many``, ``medium``, ``few``, ``class_mean``, ``std_population``, ``std_sample``; NaN
        where a group is empty.

    Raises:
        InputError: as many accuracies as classes are needed.

    Example:
        >>> from bcl.evaluation.shots import shot_groups
        >>> result = group_accuracy(torch.tensor([0.9, 0.6, 0.3]), shot_groups([9, 5, 1]))
        >>> round(result["std_population"], 4), round(result["std_sample"], 4)
        (0.2449, 0.3)
    """
    if per_class.numel() != groups.class_counts.numel():
        raise InputError(
            f"{per_class.numel()} class accuracies, but the groups were made for "
            f"{groups.class_counts.numel()} classes; use the counts of the same data set."
        )
    result = {name: nan_mean(per_class[ids]) for name, ids in groups.as_dict().items()}
    three = torch.tensor([result[name] for name in GROUPS], dtype=torch.float64)
    result["class_mean"] = nan_mean(per_class)
    result["std_population"] = float(three.std(correction=0))
    result["std_sample"] = float(three.std(correction=1))
    return result


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    r"""Mean and half-width of the 95 % interval, :math:`t_{0.975,n-1}\, s / \sqrt n`.

    Args:
        values: one number per draw or seed.

    Returns:
        Mean and half-width; the half-width is NaN for a single value.

    Example:
        >>> mean, half = confidence_interval([0.50, 0.52, 0.54])
        >>> round(mean, 4), round(half, 4)
        (0.52, 0.0497)
    """
    n = len(values)
    if n == 0:
        return math.nan, math.nan
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    t = _T95[n - 2] if n - 2 < len(_T95) else 1.96
    return mean, t * spread / math.sqrt(n)


def ranks(values: Tensor) -> Tensor:
    """(N,) ranks from 0, ties sharing their mean rank, as float64."""
    ordered, _ = values.sort()
    below = torch.searchsorted(ordered, values, right=False)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to - 1).double() / 2


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation with mean ranks for ties; NaN where one side is constant.

    Args:
        a: (N,).
        b: (N,).

    Returns:
        A number in [-1, 1].

    Example:
        >>> round(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 15.0])), 4)
        0.5
    """
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    norm = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / norm if norm > 0 else math.nan


def auroc(scores: Tensor, positive: Tensor) -> float:
    """Chance that a positive sample has the larger score; ties count half; NaN without both kinds.

    Args:
        scores: (N,).
        positive: (N,) bool.

    Returns:
        A number in [0, 1].

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
        0.75
    """
    pos = int(positive.sum())
    neg = positive.numel() - pos
    if pos == 0 or neg == 0:
        return math.nan
    total = float(ranks(scores)[positive].sum())
    return (total - pos * (pos - 1) / 2) / (pos * neg)
