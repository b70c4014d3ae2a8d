"""Does a score that never saw a label find the rare classes?"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bcl.core.checks import as_labels, as_tensor, check_between, check_count
from bcl.core.errors import InputError
from bcl.evaluation.metrics import Interval
from bcl.evaluation.shots import ShotGroups, shot_groups

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TailDiscovery:
    """How well a score finds the tail; each measure with its 95 % bootstrap interval.

    Attributes:
        auc: chance that a tail sample has a higher score than a head sample, ties half; 0.5 by
            chance.
        average_precision: of the tail among all samples, from the highest score down.
        phi: share of the tail among the highest scores, over its share of all; 1 by chance.
        spearman_samples: rank correlation of score and class frequency over samples; negative
            where rare classes have high scores.
        spearman_classes: the same of the classes' mean scores.
        grouping: which classes are the tail and the head, in words.
        tail: number of tail samples.
        head: number of head samples.
    """

    auc: Interval
    average_precision: Interval
    phi: Interval
    spearman_samples: Interval
    spearman_classes: Interval
    grouping: str
    tail: int
    head: int


def tail_discovery(
    scores: Any,
    labels: Any,
    *,
    class_counts: Any = None,
    grouping: str = "thirds",
    top: float = 0.1,
    resamples: int = 1000,
    seed: int = 0,
) -> TailDiscovery:
    r"""Measure whether high scores are those of rare classes: `Few` is the tail, `Many` the head.

    Of two classes in ``"thirds"`` the smaller is the tail.

    With tail :math:`T`, and :math:`S` the share ``top`` of all :math:`N` samples that has the
    highest scores (samples that tie for the last places share them),

    .. math:: \phi = \frac{|S \cap T| / |S|}{|T| / N}

    Intervals are percentiles over resamples that draw each class's samples with replacement, so
    every resample has the same class frequencies. They say nothing of other runs or class orders.

    Args:
        scores: (N,) one per sample; higher means more likely tail.
        labels: (N,) classes from 0, or their names, which are numbered in their sorted order.
        class_counts: (C,) training images per class; those of ``labels`` if not given.
        grouping: ``"thirds"`` of the classes by frequency or ``"thresholds"``, as `shot_groups`.
        top: share of the samples that counts as high, in (0, 1].
        resamples: bootstrap resamples.
        seed: of the resamples.

    Returns:
        The measures. A rank correlation is NaN where one side is constant, and so is its interval
        if that happens in a resample.

    Raises:
        InputError: fewer than two samples, scores that are not finite or all equal, labels that do
            not match, classes of equal frequency, no sample of the tail or the head, a value out
            of range.

    Source: :math:`\phi` of MAK (arXiv 2111.01004).

    Example:
        >>> labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
        >>> found = tail_discovery(1 / labels.bincount()[labels], labels)
        >>> found.auc.value, found.phi.value, round(found.spearman_classes.value, 6)
        (1.0, 10.0, -1.0)
    """
    check_count("resamples", resamples)
    check_count("seed", seed, at_least=0)
    check_between("top", top, 0, 1)
    if top == 0:
        raise InputError("top is a share of the samples above 0, such as 0.1, got 0.")
    values, classes = _check_samples(scores, labels)
    counts = (
        torch.bincount(classes) if class_counts is None else as_tensor("class_counts", class_counts)
    )
    counts = shot_groups(counts, "thresholds").class_counts  # (C,) checked
    if isinstance(next(iter(labels)), str) and len(counts) != int(classes.max()) + 1:
        raise InputError(
            f"class_counts has {len(counts)} classes and labels name {int(classes.max()) + 1}, so "
            "that no one knows which is which; number the labels."
        )
    unknown = classes[(classes >= len(counts)) | (counts[classes.clamp(max=len(counts) - 1)] == 0)]
    if len(unknown):
        raise InputError(
            f"{len(unknown)} samples are of classes without images in class_counts of "
            f"{len(counts)} classes, such as label {int(unknown[0])}; pass the labels and "
            "class_counts of one training set."
        )
    present = (counts > 0).nonzero()[:, 0]
    sizes = counts[present]
    if grouping == "thirds" and len(present) == 2:  # no thirds of two
        order = torch.sort(sizes, descending=True, stable=True).indices
        groups = ShotGroups("thirds", sizes, order[:1], order[:0], order[1:])
    else:
        groups = shot_groups(sizes, grouping)
    if bool((sizes == sizes[0]).all()):
        raise InputError(
            f"all {len(sizes)} classes have the same number of images, {int(sizes[0])}, so that "
            "none is the tail; pass labels, or class_counts, of a long-tailed set."
        )
    tail, head = (torch.isin(classes, present[ids]) for ids in (groups.few, groups.many))
    if not bool(tail.any() and head.any()):
        raise InputError(
            f"{int(tail.sum())} samples are of tail classes and {int(head.sum())} of head classes "
            f"({groups.description}); pass another grouping, or labels of all classes."
        )
    samples = _Samples.of(values, classes, counts, tail, head)
    measured = _measure(samples, np.ones(len(values), dtype=np.int64), top)
    generator = np.random.default_rng(seed)
    draws = [_measure(samples, samples.resample(generator), top) for _ in range(resamples)]
    low, high = np.quantile(draws, [0.025, 0.975], axis=0).tolist()
    auc, precision, phi, of_samples, of_classes = map(Interval, measured, low, high)
    about = groups.description, int(tail.sum()), int(head.sum())
    return TailDiscovery(auc, precision, phi, of_samples, of_classes, *about)


def _check_samples(scores: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """(N,) float64 scores and int64 labels, on the CPU."""
    values = as_tensor("scores", scores).detach().cpu()
    classes = as_labels(labels)[0].detach().cpu()
    if values.ndim != 1 or values.shape != classes.shape or len(values) < 2:
        raise InputError(
            f"scores and labels must be (N,), one per sample of at least two, got "
            f"{tuple(values.shape)} and {tuple(classes.shape)}."
        )
    values = values.double()
    if not bool(values.isfinite().all()) or bool((values == values[0]).all()):
        raise InputError(
            f"scores must be finite and not all equal, got {values.min():g} to {values.max():g}; "
            "leave out samples that were never seen."
        )
    if classes.is_floating_point() or int(classes.min()) < 0:
        raise InputError(f"labels must be integers from 0, got {classes.min()} ({classes.dtype}).")
    return values, classes.long()


class _Samples(NamedTuple):
    """N samples, sorted by class."""

    score: Array
    level: Array  # place of the score among the distinct ones, 0 for the highest
    of_class: Array  # place of the class among those that have samples
    sample_rank: Array  # by the class's training images
    class_rank: Array  # (classes,) by training images
    tail: Array
    head: Array

    @classmethod
    def of(
        cls, score: Tensor, label: Tensor, counts: Tensor, tail: Tensor, head: Tensor
    ) -> "_Samples":
        from scipy.stats import rankdata

        order = label.argsort(stable=True)
        y, s, t, h = (each[order].numpy() for each in (label, score, tail, head))
        classes, of_class = np.unique(y, return_inverse=True)
        level, frequency = np.unique(-s, return_inverse=True)[1], counts.numpy()[classes]
        ranks = rankdata(frequency[of_class]), rankdata(frequency)
        return cls(s, level, of_class, *ranks, t, h)

    def resample(self, generator: np.random.Generator) -> Array:
        """How often a bootstrap resample, drawn within each class, holds each sample."""
        sizes = np.bincount(self.of_class)
        start, size = (np.cumsum(sizes) - sizes)[self.of_class], sizes[self.of_class]
        drawn = start + (generator.random(len(size)) * size).astype(np.int64)
        return np.bincount(drawn, minlength=len(size))


def _measure(samples: _Samples, times: Array, top: float) -> list[float]:
    """The measures in the order of `TailDiscovery`, each sample counted so many times."""
    from scipy.stats import rankdata

    every, tail, head = (  # (levels,) samples with each distinct score
        np.bincount(samples.level, times * some) for some in (1, samples.tail, samples.head)
    )
    reached, total = every.cumsum(), every.sum()
    above = reached - every
    below = head.sum() - head.cumsum()
    auc = (tail * (below + head / 2)).sum() / (tail.sum() * head.sum())
    precision = tail.cumsum() / np.maximum(reached, 1)
    taken = np.clip(max(1, round(top * total)) - above, 0, every)  # ties share the last places
    hits = (tail / np.maximum(every, 1) * taken).sum()
    sums, sizes = (np.bincount(samples.of_class, times * x) for x in (samples.score, 1))
    return [
        float(auc),
        float((precision * tail).sum() / tail.sum()),
        float(hits / taken.sum() / (tail.sum() / total)),
        -_correlation((above + every / 2)[samples.level], samples.sample_rank, times),
        _correlation(rankdata(sums / sizes), samples.class_rank, np.ones(len(sizes))),
    ]


def _correlation(a: Array, b: Array, times: Array) -> float:
    """Pearson's correlation of ranks, counted so many times; NaN for a constant."""
    a, b = a - np.average(a, weights=times), b - np.average(b, weights=times)
    spread = np.sqrt((times * a @ a) * (times * b @ b))
    return float(times * a @ b / spread) if spread > 1e-9 else float("nan")  # rounding aside
