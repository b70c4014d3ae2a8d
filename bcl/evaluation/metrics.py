"""Top-1, top-5, per class, Many/Medium/Few, both spreads, confidence intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_stat_scores

from bcl.core.checks import TensorLike, as_tensor
from bcl.evaluation.shots import GROUPS, ShotGroups


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def class_accuracy(predictions: TensorLike, labels: TensorLike, num_classes: int) -> Tensor:
    """(C,) float64 share of correct predictions per class; NaN where no test image has the class.

    torchmetrics returns 0 for an absent class, which would count as a failure.
    """
    scores = multiclass_stat_scores(
        as_tensor("predictions", predictions), as_tensor("labels", labels),
        num_classes=num_classes, average=None, validate_args=False,
    )  # fmt: skip  # (C, 5): tp, fp, tn, fn, support
    return (scores[:, 0].double() / scores[:, 4].double()).cpu()


def top_k_accuracy(logits: TensorLike, labels: TensorLike, k: int) -> float:
    """Share of samples whose label is among the k largest of (N, C) logits."""
    logits, labels = as_tensor("logits", logits), as_tensor("labels", labels)
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices  # (N, k)
    return float((best == labels[:, None]).any(1).double().mean())


def nan_mean(values: Tensor) -> float:
    """Mean of the values that are not NaN; NaN if there is none."""
    return float(values.double().nanmean())


def group_accuracy(per_class: TensorLike, groups: ShotGroups) -> dict[str, float]:
    r"""Means over the classes of each group, from (C,) accuracies, and their standard deviation.

    ``std_population`` divides by 3 (SDCLR's released code), ``std_sample`` by 2 (the tables of the
    BCL and GH papers), :math:`\sqrt{3/2}` times as large. NaN where a group is empty.
    """
    per_class = as_tensor("per_class", per_class)
    result = {name: nan_mean(per_class[ids]) for name, ids in groups.as_dict().items()}
    three = torch.tensor([result[name] for name in GROUPS], dtype=torch.float64)
    result["class_mean"] = nan_mean(per_class)
    result["std_population"] = float(three.std(correction=0))
    result["std_sample"] = float(three.std(correction=1))
    return result


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    r"""Mean and half-width of the 95 % interval, :math:`t_{0.975,n-1}\, s / \sqrt n`.

    The half-width of a single value is NaN, and so are both of none.

    Example:
        >>> mean, half = confidence_interval([0.50, 0.52, 0.54])
        >>> round(mean, 4), round(half, 4)
        (0.52, 0.0497)
    """
    from scipy import stats

    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    half = float(stats.t.ppf(0.975, n - 1) * stats.sem(values)) if n > 1 else math.nan
    return mean, half


def wilson_interval(share: float, images: float) -> tuple[float, float]:
    r"""Wilson's 95 % interval of a share of images; (NaN, NaN) for none.

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    Example:
        >>> low, high = wilson_interval(0.5, 40)
        >>> round(low, 3), round(high, 3)
        (0.352, 0.648)
    """
    if not images > 0:
        return math.nan, math.nan
    z = 1.959963984540054  # the normal distribution's 97.5 % quantile
    center = share + z**2 / (2 * images)
    half = z * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return (center - half) / (1 + z**2 / images), (center + half) / (1 + z**2 / images)
