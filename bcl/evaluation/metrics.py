"""Top-1, top-5, per class, Many/Medium/Few, both spreads, confidence intervals, rank statistics."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_stat_scores

from bcl.core.errors import InputError
from bcl.evaluation.shots import GROUPS, ShotGroups


def class_accuracy(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(C,) float64 share of correct predictions per class; NaN where no test image has the class.

    torchmetrics returns 0 for an absent class, which would count as a failure.

    Example:
        >>> class_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3)
        tensor([0.5000, 1.0000,    nan], dtype=torch.float64)
    """
    scores = multiclass_stat_scores(
        predictions, labels, num_classes=num_classes, average=None, validate_args=False
    )  # (C, 5): tp, fp, tn, fn, support
    return (scores[:, 0].double() / scores[:, 4].double()).cpu()


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of samples whose label is among the k largest of (N, C) logits."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices  # (N, k)
    return float((best == labels[:, None]).any(1).double().mean())


def nan_mean(values: Tensor) -> float:
    """Mean of the values that are not NaN; NaN if there is none."""
    return float(values.double().nanmean())


def group_accuracy(per_class: Tensor, groups: ShotGroups) -> dict[str, float]:
    r"""Many, Medium, Few and their standard deviation under both definitions.

    A group's accuracy is the mean over its classes. ``std_population`` divides by 3 (SDCLR's
    released code), ``std_sample`` by 2 (which reproduces the tables of the BCL and GH papers) and
    is :math:`\sqrt{3/2}` times as large.

    Args:
        per_class: (C,) accuracies, NaN for classes without test images.
        groups: from `bcl.shot_groups`.

    Returns:
        ``many``, ``medium``, ``few``, ``class_mean``, ``std_population``, ``std_sample``; NaN
        where a group is empty.

    Raises:
        InputError: another number of classes.

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
    from scipy import stats

    n = len(values)
    if n == 0:
        return math.nan, math.nan
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan
    return mean, float(stats.t.ppf(0.975, n - 1) * stats.sem(values))


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of (N,) values, ties at their mean rank; NaN for a constant.

    Example:
        >>> round(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 15.0])), 4)
        0.5
    """
    from scipy.stats import spearmanr

    if len(a) < 2 or bool((a == a[0]).all() | (b == b[0]).all()):
        return math.nan
    return float(spearmanr(a.cpu(), b.cpu()).statistic)


def auroc(scores: Tensor, positive: Tensor) -> float:
    """Chance that a positive sample has the larger score, ties half; NaN without both kinds.

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
        0.75
    """
    from sklearn.metrics import roc_auc_score

    if bool(positive.all() | ~positive.any()):
        return math.nan
    return float(roc_auc_score(positive.cpu(), scores.cpu()))
