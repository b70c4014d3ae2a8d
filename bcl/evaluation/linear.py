"""The linear probe: how well a linear classifier does on frozen features."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bcl.errors import InputError, unknown_name
from bcl.evaluation.metrics import class_accuracy, nan_mean, top_k_accuracy
from bcl.evaluation.softmax_lbfgs import SoftmaxProblem, minimise
from bcl.random import permutation

SOLVERS = ("lbfgs",)
START_L2 = 1e-2  # where the search begins, and the fallback without a validation part
L2_RANGE = (-7.0, 1.0)  # decimal exponents that the search may reach


@dataclass
class ProbeResult:
    """A fitted linear probe and what it does on the test set.

    Attributes:
        accuracy: share of right test predictions, in [0, 1].
        top5: share of test pictures whose label is among the five best classes.
        per_class_accuracy: (C,) float64; NaN for a class without test pictures.
        predictions: (N,) predicted test labels.
        chosen: solver, regularisation, how it was chosen, and its accuracy on the validation part.
        weight: (D, C), for the features as they were given.
        bias: (C,); -inf for a class that the training set lacks.
        notes: what a reader should know, such as absent classes.
    """

    accuracy: float
    top5: float
    per_class_accuracy: Tensor
    predictions: Tensor
    chosen: dict[str, Any]
    weight: Tensor
    bias: Tensor
    notes: list[str] = field(default_factory=list)


def fit_linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    solver: str = "lbfgs",
    l2: float | Sequence[float] | None = None,
    validation_share: float = 0.2,
    num_classes: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> ProbeResult:
    r"""Fit a linear classifier to frozen features and test it.

    .. math:: \min_{W,b} \frac1n \sum_i \mathrm{CE}(W^\top \hat x_i + b, y_i)
              + \frac{\lambda}{2} \lVert W \rVert^2

    on features standardised with the training set's mean and deviation. :math:`\lambda` (scikit's
    :math:`1 / (nC)`) is chosen on a stratified validation part of the training set by mean class
    accuracy, never on the test set; then the probe is fitted to the whole training set.

    Args:
        train_features: (N, D).
        train_labels: (N,) integers from 0.
        test_features: (M, D).
        test_labels: (M,).
        solver: ``"lbfgs"``, deterministic.
        l2: the value, or the values to choose from; searched if not given.
        validation_share: part of each class's training pictures that the choice is made on.
        num_classes: C; the largest label + 1 if not given.
        seed: decides the validation part.
        device: where to compute; where the features lie if not given.

    Returns:
        The result.

    Raises:
        InputError: shapes that do not fit, NaN in the features, labels out of range, unknown
            solver.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [1.0], [1.1]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> fit_linear_probe(x, y, x, y).accuracy
        1.0
    """
    if solver not in SOLVERS:
        raise unknown_name("solver", solver, SOLVERS)
    num_classes = check_features(
        train_features, train_labels, test_features, test_labels, num_classes
    )
    where = torch.device(device) if device is not None else train_features.device
    results = fit_heads(
        train_features.to(where),
        train_labels.to(where),
        [torch.arange(train_labels.numel(), device=where)],
        test_features.to(where),
        test_labels.to(where),
        num_classes=num_classes,
        l2=l2,
        validation_share=validation_share,
        seed=seed,
    )
    return results[0]


def check_features(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    num_classes: int | None = None,
) -> int:
    """Refuse features and labels that cannot be probed; returns C.

    Args:
        train_features: (N, D).
        train_labels: (N,).
        test_features: (M, D).
        test_labels: (M,).
        num_classes: C, or None for the largest label + 1.

    Returns:
        C.

    Raises:
        InputError: see `fit_linear_probe`.
    """
    for name, x, y in (
        ("train", train_features, train_labels),
        ("test", test_features, test_labels),
    ):
        if x.ndim != 2 or y.ndim != 1 or x.shape[0] != y.shape[0] or x.shape[0] == 0:
            raise InputError(
                f"{name} features must be (N, D) and {name} labels (N,), got {tuple(x.shape)} and "
                f"{tuple(y.shape)}."
            )
        if y.is_floating_point() or y.dtype == torch.bool:
            raise InputError(f"{name} labels must be integers, got {y.dtype}.")
        if int(y.min()) < 0:
            raise InputError(
                f"{name} labels hold {int(y.min())}: labels run from 0, and a probe needs a label "
                "for every picture. Leave unlabelled pictures out."
            )
        finite = x.isfinite().all(1)
        if not bool(finite.all()):
            raise InputError(
                f"{int((~finite).sum())} rows of the {name} features hold NaN or infinity, first "
                f"row {int((~finite).nonzero()[0])}; the encoder has diverged or is damaged."
            )
    if train_features.shape[1] != test_features.shape[1]:
        raise InputError(
            f"train features have {train_features.shape[1]} dimensions and test features "
            f"{test_features.shape[1]}; take both from the same layer of the same encoder."
        )
    largest = max(int(train_labels.max()), int(test_labels.max()))
    if num_classes is not None and largest >= num_classes:
        raise InputError(f"label {largest}, but num_classes is {num_classes}.")
    classes = num_classes if num_classes is not None else largest + 1
    if int(train_labels.min()) == int(train_labels.max()):
        raise InputError("the training labels hold a single class; nothing can be told apart.")
    return classes


def split_validation(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split positions into a fitting and a validation part, stratified by class.

    A class with n pictures gives ``round(n * share)`` of them, at most n - 1 so that none is lost.

    Args:
        labels: (N,).
        share: of each class, in [0, 1).
        seed: decides which.

    Returns:
        Positions to fit on and positions to validate on, on the labels' device.
    """
    n = labels.numel()
    order = permutation(n, seed, 0x5B117, device=labels.device)
    order = order[torch.sort(labels[order], stable=True).indices]  # by class, random within
    counts = torch.bincount(labels)
    first = counts.cumsum(0) - counts
    rank = torch.arange(n, device=labels.device) - first[labels[order]]
    take = torch.minimum((counts * share).round().to(torch.int64), (counts - 1).clamp(min=0))
    held_out = rank < take[labels[order]]
    return order[~held_out].sort().values, order[held_out].sort().values


def fit_heads(
    features: Tensor,
    labels: Tensor,
    subsets: Sequence[Tensor],
    test_features: Tensor,
    test_labels: Tensor,
    *,
    num_classes: int,
    l2: float | Sequence[float] | None = None,
    validation_share: float = 0.2,
    seed: int = 0,
) -> list[ProbeResult]:
    """Fit one probe a subset (the draws of a protocol) over shared features, together.

    The draws share one regularisation, chosen by their mean validation accuracy.

    Args:
        features: (N, D) of all training pictures.
        labels: (N,).
        subsets: positions of each draw's training pictures.
        test_features: (M, D).
        test_labels: (M,).
        num_classes: C.
        l2: see `fit_linear_probe`.
        validation_share: likewise.
        seed: likewise.

    Returns:
        One result a subset.
    """
    splits = [split_validation(labels[rows], validation_share, seed) for rows in subsets]
    shapes = {(fit.numel(), held.numel()) for fit, held in splits}
    if len(shapes) > 1:  # unequal draws cannot be stacked
        return [
            fit_heads(
                features, labels, [rows], test_features, test_labels, num_classes=num_classes,
                l2=l2, validation_share=validation_share, seed=seed,
            )[0]
            for rows in subsets
        ]  # fmt: skip
    (num_fit, num_held) = shapes.pop()
    rows = torch.stack(
        [subset[torch.cat(split)] for subset, split in zip(subsets, splits, strict=True)]
    )  # (P, n), those of the validation part last
    x = features[rows].float()  # (P, n, D)
    y = labels[rows].to(torch.int64)
    mean = x.mean(1, keepdim=True)
    x.sub_(mean)
    deviation = x.square().mean(1, keepdim=True).sqrt()
    deviation = torch.where(deviation > 1e-6 * deviation.amax(-1, keepdim=True), deviation, 1.0)
    x.div_(deviation)
    problem = SoftmaxProblem.of(x, y, num_classes)
    value, rule, validation, start = _choose(problem, num_fit, num_held, l2)
    strength = torch.full((len(subsets),), value, device=x.device)
    w, b, steps = minimise(problem, strength, start)
    weight = w / deviation.transpose(1, 2)  # undo the standardisation
    bias = b - torch.bmm(mean, weight)[:, 0]
    results = []
    for head, subset in enumerate(subsets):
        chosen = {
            "solver": "lbfgs",
            "l2": value,
            "rule": rule,
            "validation_accuracy": validation[head] if validation else None,
            "train_pictures": int(subset.numel()),
            "steps": steps,
        }
        results.append(
            _test(weight[head], bias[head], test_features, test_labels, num_classes, chosen)
        )
    return results


def _test(
    weight: Tensor,
    bias: Tensor,
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    chosen: dict[str, Any],
) -> ProbeResult:
    logits = torch.addmm(bias, features.float(), weight)  # (M, C)
    predictions = logits.argmax(1)
    per_class = class_accuracy(predictions, labels, num_classes)
    notes = []
    untrained = [int(c) for c in bias.isinf().nonzero()]
    if untrained:
        notes.append(f"no training picture of classes {_listed(untrained)}: never predicted")
    untested = [int(c) for c in per_class.isnan().nonzero()]
    if untested:
        notes.append(f"no test picture of classes {_listed(untested)}: left out of the means")
    return ProbeResult(
        accuracy=float((predictions == labels).double().mean()),
        top5=top_k_accuracy(logits, labels, 5),
        per_class_accuracy=per_class,
        predictions=predictions.cpu(),
        chosen=chosen,
        weight=weight.cpu(),
        bias=bias.cpu(),
        notes=notes,
    )


def _listed(ids: list[int]) -> str:
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return ", ".join(map(str, ids[:10])) + more


def _choose(
    problem: SoftmaxProblem, num_fit: int, num_held: int, l2: float | Sequence[float] | None
) -> tuple[float, str, list[float], tuple[Tensor, Tensor] | None]:
    """The regularisation, the rule that chose it, its validation accuracies, a warm start."""
    if isinstance(l2, (int, float)):
        return float(l2), "given", [], None
    values = None if l2 is None else sorted((float(value) for value in l2), reverse=True)
    if values is not None and (not values or values[-1] <= 0):
        raise InputError(f"l2 must be positive, got {l2}.")
    if num_held == 0:
        fallback = START_L2 if values is None else values[len(values) // 2]
        return fallback, "fixed: too few pictures for a validation part", [], None
    part = problem.rows(num_fit)
    held_x, held_y = problem.x[:, num_fit:], problem.y[:, num_fit:]
    tried: dict[float, tuple[list[float], tuple[Tensor, Tensor]]] = {}

    def accuracy(exponent: float) -> float:
        if exponent not in tried:
            near = min(tried, key=lambda e: abs(e - exponent), default=None)
            start = tried[near][1] if near is not None else None
            strength = held_x.new_full((held_x.shape[0],), 10.0**exponent)
            w, b, _ = minimise(part, strength, start, tolerance=3e-3, max_iterations=50)
            predictions = torch.baddbmm(b[:, None], held_x, w).argmax(-1)  # (P, v)
            means = [
                nan_mean(class_accuracy(predictions[p], held_y[p], problem.num_classes))
                for p in range(held_x.shape[0])
            ]
            tried[exponent] = (means, (w, b))
        return sum(tried[exponent][0])

    if values is not None:
        exponents = [float(torch.tensor(value).log10()) for value in values]
        best = max(exponents, key=accuracy)  # the strongest of equals, which comes first
        return values[exponents.index(best)], "validation part", tried[best][0], tried[best][1]
    # Accuracy over log l2 rises to one summit: walk there from the middle, whole decades first,
    # then half ones. Warm starts make the neighbours cheap; weak values, which are slow to fit, are
    # only visited where they are worth it.
    best = float(torch.tensor(START_L2).log10())
    for stride in (1.0, 0.5):
        moving = True
        while moving:
            moving = False
            for candidate in (best + stride, best - stride):
                inside = L2_RANGE[0] <= candidate <= L2_RANGE[1]
                if inside and accuracy(candidate) > accuracy(best):
                    best, moving = candidate, True
                    break
    return 10.0**best, "validation part", tried[best][0], tried[best][1]
