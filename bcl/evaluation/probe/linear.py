"""The linear probe: how well a linear classifier does on frozen features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError, unknown_name
from bcl.core.random import permutation
from bcl.evaluation.metrics import class_accuracy, nan_mean, top_k_accuracy
from bcl.evaluation.probe.gradient import train_heads
from bcl.evaluation.probe.lbfgs import EXACT, Fit, SoftmaxProblem, minimize
from bcl.evaluation.probe.presets import GRADIENT_SOLVERS, SOLVERS, Selection, gradient_rule

CHOICE_TOLERANCE = 2e-2  # gap at which the validation accuracy hardly changes any more
NOTED_GAP = 1e-5  # above it, a reader is told that the minimum was not reached
START_L2 = 1e-2  # where the search begins, and the fallback without a validation part
L2_RANGE = (-7.0, 1.0)  # decimal exponents that the search may reach
LARGEST = 1e15  # a feature beyond it has no square sum in float32
L2_BOUNDS = (1e-30, 1e30)  # beyond them a penalty is 0 or infinite in float32
ALIKE = 1e-6  # a feature that varies by less of its own size is constant up to rounding
FAINTEST = 1e-30  # a feature that varies by less has no inverse in float32
STACK_BYTES = 2 << 30  # draws are stacked up to this size
FIXED = "fixed: too few images for a validation part"


Tried = dict[str, float]


@dataclass
class ProbeResult:
    """A fitted linear probe and what it does on the test set.

    Attributes:
        accuracy: share of right test predictions, in [0, 1].
        top5: share of test images whose label is among the five best classes.
        per_class_accuracy: (C,) float64; NaN for a class without test images.
        predictions: (N,) predicted test labels.
        chosen: solver, regularization or learning rate, how it was chosen, its accuracy on the
            validation part, all that were ``tried``, and for lbfgs the ``gap`` to the minimum that
            was left, as a share of the objective.
        weight: (D, C), for the features as they were given (``svc``: normalized ones).
        bias: (C,); -inf for a class that the training set lacks.
        notes: what a reader should know, such as absent classes.

    Example:
        >>> x, y = torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1])
        >>> result = fit_linear_probe(x, y, x, y)
        >>> result.per_class_accuracy.tolist(), result.chosen["solver"]
        ([1.0, 1.0], 'lbfgs')
        >>> (x @ result.weight + result.bias).argmax(1).equal(result.predictions)
        True
    """

    accuracy: float
    top5: float
    per_class_accuracy: Tensor
    predictions: Tensor
    chosen: dict[str, Any]
    weight: Tensor
    bias: Tensor
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ProbeOptions:
    """How probes are fitted; see `fit_linear_probe`."""

    solver: str = "lbfgs"
    l2: float | tuple[float, ...] | None = None
    learning_rate: float | tuple[float, ...] | None = None
    epochs: int | None = None
    selection: Selection = "last"
    few_shot: bool = False
    validation_share: float = 0.2
    tolerance: float = EXACT
    seed: int = 0


def fit_linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    solver: str = "lbfgs",
    l2: float | Sequence[float] | None = None,
    learning_rate: float | Sequence[float] | None = None,
    epochs: int | None = None,
    selection: Selection = "last",
    few_shot: bool = False,
    validation_share: float = 0.2,
    tolerance: float = EXACT,
    num_classes: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> ProbeResult:
    r"""Fit a linear classifier to frozen features and test it.

    .. math:: \min_{W,b} \frac1n \sum_i \mathrm{CE}(W^\top \hat x_i + b, y_i)
              + \frac{\lambda}{2} \lVert W \rVert^2

    The default, ``"lbfgs"``, finds this minimum on features standardized with the training set's
    mean and deviation. :math:`\lambda` (scikit's :math:`1 / (nC)`) is
    chosen on a stratified validation part of the training set by mean class accuracy, never on the
    test set; then the probe is fitted to the whole training set. Solvers:

    - ``"lbfgs"``: deterministic, no learning rate;
    - ``"ridge"``: least squares to one-hot labels in closed form, :math:`\lambda` chosen likewise;
    - ``"adam"``: BCL's protocol, Adam 1e-2 to 1e-6, 500 epochs, batch 1,000, weight decay 5e-6;
    - ``"sgd"``: SDCLR's, learning rate 30, 30 epochs (``few_shot``: 100), batch 128;
    - ``"cacr"``: CACR's, Adam 1e-3, 100 epochs, batch 128; the last epoch, where the paper reports
      the best epoch on the test set (``selection="best_test"``, which is noted in the result);
    - ``"svc"``: scikit-learn's LinearSVC on L2-normalized features, as temperature schedules use.

    The last four take the features as they are. With the same seed the result is the same.

    Args:
        train_features: (N, D).
        train_labels: (N,) integers from 0.
        test_features: (M, D).
        test_labels: (M,).
        solver: see above.
        l2: the penalty, or several to choose from; searched if not given (lbfgs, ridge).
        learning_rate: the rate, or several to choose from on the validation part (adam, sgd, cacr).
        epochs: other than the protocol's (adam, sgd, cacr).
        selection: ``"last"`` or ``"best_test"`` (adam, sgd, cacr).
        few_shot: SDCLR's schedule for few images (sgd).
        validation_share: part of each class's training images that a choice is made on.
        tolerance: share of the objective that may be left to gain where lbfgs stops.
        num_classes: C; the largest label + 1 if not given.
        seed: decides the validation part, and the order and start of adam, sgd and cacr.
        device: where to compute; where the features lie if not given.

    Returns:
        The result.

    Raises:
        InputError: shapes that do not fit, NaN in the features, labels out of range, unknown
            solver, an option that the solver has no use for, a learning rate at which training
            diverges.

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
    if selection not in ("last", "best_test"):
        raise unknown_name("selection", selection, ("last", "best_test"))
    if not 0 <= validation_share < 1:
        raise InputError(f"validation_share must lie in [0, 1), got {validation_share}.")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance must lie in (0, 1), got {tolerance}; the default is {EXACT}.")
    _check_use(solver, l2=l2, learning_rate=learning_rate, epochs=epochs)
    where = torch.device(device) if device is not None else train_features.device
    options = ProbeOptions(
        solver=solver,
        l2=values(l2),
        learning_rate=values(learning_rate),
        epochs=epochs,
        selection=selection,
        few_shot=few_shot,
        validation_share=validation_share,
        tolerance=tolerance,
        seed=seed,
    )
    results = fit_heads(
        train_features.detach().to(where),
        train_labels.to(where, torch.int64),  # bytes would index as a mask
        [torch.arange(train_labels.numel(), device=where)],
        test_features.detach().to(where),
        test_labels.to(where, torch.int64),
        num_classes=num_classes,
        options=options,
    )
    return results[0]


def values(value: float | Sequence[float] | None) -> float | tuple[float, ...] | None:
    """A penalty or a learning rate as a number, several of them as a tuple."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        value = value.tolist()  # a number if the tensor has no dimension
    try:
        if isinstance(value, (float, int, Real)):  # NumPy's numbers as well
            return float(value)
        return tuple(float(item) for item in value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"penalties and learning rates are a number or a list of numbers, got {value!r}."
        ) from error


def _check_use(solver: str, **given: Any) -> None:
    """Refuse options that would be ignored in silence."""
    of = {
        "l2": ("lbfgs", "ridge"),
        "learning_rate": GRADIENT_SOLVERS,
        "epochs": GRADIENT_SOLVERS,
    }
    for name, value in given.items():
        if value is not None and solver not in of[name]:
            raise InputError(
                f"{name} is for the solvers {', '.join(of[name])}, and '{solver}' makes no use of "
                "it; leave it out or take one of those."
            )


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
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            raise InputError(
                f"{name} features and labels must be tensors, got {type(x).__name__} and "
                f"{type(y).__name__}; convert them with torch.as_tensor."
            )
        if x.ndim != 2 or y.ndim != 1 or x.shape[0] != y.shape[0] or x.numel() == 0:
            raise InputError(
                f"{name} features must be (N, D) and {name} labels (N,), got {tuple(x.shape)} and "
                f"{tuple(y.shape)}."
            )
        if x.dtype == torch.bool or x.is_complex():
            raise InputError(
                f"{name} features must be real numbers, got {x.dtype}; convert them, such as by "
                "features.float()."
            )
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
            raise InputError(f"{name} labels must be integers, got {y.dtype}.")
        if int(y.min()) < 0:
            raise InputError(
                f"{name} labels hold {int(y.min())}: labels run from 0, and a probe needs a label "
                "for every image. Leave unlabeled images out."
            )
        finite = x.isfinite().all(1)
        if not bool(finite.all()):
            raise InputError(
                f"{int((~finite).sum())} rows of the {name} features hold NaN or infinity, first "
                f"row {int((~finite).nonzero()[0])}; the encoder has diverged or is damaged."
            )
        if bool((x.abs() > LARGEST).any()):
            raise InputError(
                f"{name} features reach {float(x.abs().max()):.3g}, too huge for float32; the "
                "encoder has diverged, or scale them down."
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
    images = train_labels.numel() + test_labels.numel()
    if num_classes is None and classes > max(1000, images):
        raise InputError(
            f"label {largest} would make {classes:,} classes of {images:,} images; number the "
            "classes from 0 without gaps, or pass num_classes if so many are meant."
        )
    if int(train_labels.min()) == int(train_labels.max()):
        raise InputError("the training labels hold a single class; nothing can be told apart.")
    return classes


def split_validation(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split positions into a fitting and a validation part, stratified by class.

    A class with n images gives ``round(n * share)`` of them, at most n - 1 so that none is lost.

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


@dataclass
class Fitted:
    """P fitted heads before their test."""

    weight: Tensor  # (P, D, C)
    bias: Tensor  # (P, C)
    chosen: list[dict[str, Any]]


def fit_heads(
    features: Tensor,
    labels: Tensor,
    subsets: Sequence[Tensor],
    test_features: Tensor,
    test_labels: Tensor,
    *,
    num_classes: int,
    options: ProbeOptions,
) -> list[ProbeResult]:
    """Fit one probe a subset (the draws of a protocol) over shared features, together.

    The draws share one regularization or learning rate, chosen by their mean validation accuracy.

    Args:
        features: (N, D) of all training images.
        labels: (N,).
        subsets: positions of each draw's training images.
        test_features: (M, D).
        test_labels: (M,).
        num_classes: C.
        options: solver and its settings.

    Returns:
        One result a subset.

    Raises:
        InputError: a learning rate at which training diverges, huge features.
    """
    share, seed = options.validation_share, options.seed
    splits = [split_validation(labels[rows], share, seed) for rows in subsets]
    shapes = {(fit.numel(), held.numel()) for fit, held in splits}
    size = 4 * features.shape[1] * sum(rows.numel() for rows in subsets)
    if len(subsets) > 1 and (len(shapes) > 1 or size > STACK_BYTES):
        # Unequal draws cannot be stacked, large ones need not be.
        return [
            result
            for rows in subsets
            for result in fit_heads(
                features, labels, [rows], test_features, test_labels, num_classes=num_classes,
                options=options,
            )
        ]  # fmt: skip
    num_fit, num_held = shapes.pop()
    rows = torch.stack(
        [subset[torch.cat(split)] for subset, split in zip(subsets, splits, strict=True)]
    )  # (P, n), those of the validation part last
    x = features[rows].float()  # (P, n, D)
    y = labels[rows].to(torch.int64)
    if options.solver in ("lbfgs", "ridge"):
        fitted = _fit_standardized(x, y, num_fit, num_held, num_classes, options)
    elif options.solver == "svc":
        fitted = _fit_svc(x, y, num_classes)
        test_features = torch.nn.functional.normalize(test_features.float(), dim=1)
    else:
        test = (test_features.float(), test_labels)
        fitted = _fit_by_steps(x, y, num_fit, num_held, num_classes, options, test)
    present = torch.zeros(len(subsets), num_classes, dtype=torch.bool, device=y.device)
    present.scatter_(1, y, True)
    bias = torch.where(present, fitted.bias, -torch.inf)
    return [
        judge(
            torch.addmm(bias[head], test_features.float(), fitted.weight[head]),
            test_labels,
            num_classes,
            {"solver": options.solver, "train_images": subset.numel(), **fitted.chosen[head]},
            fitted.weight[head],
            bias[head],
        )
        for head, subset in enumerate(subsets)
    ]


def judge(
    logits: Tensor,
    labels: Tensor,
    num_classes: int,
    chosen: dict[str, Any],
    weight: Tensor,
    bias: Tensor,
) -> ProbeResult:
    """Compare logits with the truth.

    Args:
        logits: (M, C).
        labels: (M,).
        num_classes: C.
        chosen: how the classifier came about.
        weight: (D, C) of the classifier.
        bias: (C,); -inf for classes that were not trained.

    Returns:
        The result, with notes on absent classes.
    """
    predictions = logits.argmax(1)
    per_class = class_accuracy(predictions, labels, num_classes)
    trained = ~bias.isinf()
    notes = absence_notes(trained, per_class)
    if chosen.get("gap", 0.0) > max(NOTED_GAP, chosen.get("tolerance", 0.0)):
        notes.append(
            f"the minimum was only approached, to {chosen['gap']:.0e} of the objective: the "
            "penalty is tiny for these features"
        )
    if chosen.get("selection") == "best_test":
        notes.append(
            "the epoch was chosen on the test set (as the CACR paper does): this accuracy is "
            "optimiztic and not comparable with the others"
        )
    return ProbeResult(
        accuracy=float((predictions == labels).double().mean()),
        # A class that was not trained is no answer, neither the first nor the fifth.
        top5=top_k_accuracy(logits, labels, min(5, int(trained.sum()))),
        per_class_accuracy=per_class,
        predictions=predictions.cpu(),
        chosen=chosen,
        weight=weight.cpu(),
        bias=bias.cpu(),
        notes=notes,
    )


def absence_notes(trained: Tensor, per_class: Tensor) -> list[str]:
    """What a reader should know of classes without training or test images.

    Args:
        trained: (C,) bool.
        per_class: (C,) accuracies, NaN for classes without test images.

    Returns:
        Up to two sentences.
    """
    notes = []
    untrained = [int(c) for c in (~trained).nonzero()]
    if untrained:
        notes.append(f"no training image of classes {_listed(untrained)}: never predicted")
    untested = [int(c) for c in per_class.isnan().nonzero()]
    if untested:
        notes.append(f"no test image of classes {_listed(untested)}: left out of the means")
    return notes


def _listed(ids: list[int]) -> str:
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return ", ".join(map(str, ids[:10])) + more


def _mean_accuracies(logits: Tensor, labels: Tensor, num_classes: int) -> list[float]:
    """Mean class accuracy of every head; logits (P, v, C)."""
    predictions = logits.argmax(-1)
    return [
        nan_mean(class_accuracy(row, truth, num_classes))
        for row, truth in zip(predictions, labels, strict=True)
    ]


# --- convex solvers -------------------------------------------------------------------------


def _standardize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features to mean 0 and deviation 1 in place, constant ones to 0.

    Args:
        x: (P, n, D), changed.

    Returns:
        Mean, deviation (1 where constant), and whether a feature is constant, (P, 1, D) each.
    """
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    spread = high - low
    # Measured against the feature itself: others may be of any scale.
    constant = spread <= ALIKE * torch.maximum(low.abs(), high.abs())
    constant |= spread < FAINTEST
    spread = torch.where(constant, 1.0, spread)
    mean = x.mean(1, keepdim=True)
    x.sub_(mean).div_(spread)  # within [-1, 1], where no square is lost
    deviation = torch.where(constant, 1.0, x.square().mean(1, keepdim=True).sqrt())
    x.div_(deviation).masked_fill_(constant, 0.0)  # what is left of those is rounding
    return mean, deviation.mul_(spread), constant


def _fit_standardized(
    x: Tensor, y: Tensor, num_fit: int, num_held: int, num_classes: int, options: ProbeOptions
) -> Fitted:
    mean, deviation, constant = _standardize(x)
    given = options.l2
    listed = given if isinstance(given, tuple) else () if given is None else (given,)
    if given == () or not all(0 < value < math.inf for value in listed):
        raise InputError(f"l2 must be positive and finite, got {given}.")
    least, most = L2_BOUNDS
    if not all(least <= value <= most for value in listed):
        raise InputError(f"l2 must lie between {least:g} and {most:g}, got {given}.")
    solve = _ridge if options.solver == "ridge" else partial(_lbfgs, tolerance=options.tolerance)
    w, b, chosen = solve(x, y, num_fit, num_held, num_classes, given)
    weight = w / deviation.transpose(1, 2)  # undo the standardization
    weight.masked_fill_(constant.transpose(1, 2), 0.0)  # such a feature has taught nothing
    bias = b - torch.bmm(mean, weight)[:, 0]
    per_head = chosen.pop("validation_accuracies")
    heads = [
        {**chosen, "validation_accuracy": per_head[head] if per_head else None}
        for head in range(x.shape[0])
    ]
    return Fitted(weight, bias, heads)


def _lbfgs(
    x: Tensor,
    y: Tensor,
    num_fit: int,
    num_held: int,
    num_classes: int,
    l2: float | tuple[float, ...] | None,
    *,
    tolerance: float,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    problem = SoftmaxProblem.of(x, y, num_classes)
    value, rule, accuracies, start, tried = _choose(problem, num_fit, num_held, l2)
    fit = minimize(problem, x.new_full((x.shape[0],), value), start, tolerance=tolerance)
    chosen = {
        "l2": value,
        "rule": rule,
        "steps": fit.steps,
        "gap": fit.gap,
        "tolerance": tolerance,
        "validation_accuracies": accuracies,
        "tried": tried,
    }
    return fit.weight, fit.bias, chosen


def _choose(
    problem: SoftmaxProblem, num_fit: int, num_held: int, l2: float | tuple[float, ...] | None
) -> tuple[float, str, list[float], Fit | None, list[Tried]]:
    """The penalty, the rule that chose it, its accuracies, a warm start, all that was tried."""
    if isinstance(l2, (int, float)):
        return float(l2), "given", [], None, []
    listed = None if l2 is None else sorted(set(l2), reverse=True)
    if num_held == 0:
        fallback = START_L2 if listed is None else listed[len(listed) // 2]
        return fallback, FIXED, [], None, []
    part = problem.rows(num_fit)
    absent = part.log_share.isinf()[:, None]
    held_x, held_y = problem.x[:, num_fit:], problem.y[:, num_fit:]
    tried: dict[float, tuple[list[float], Fit]] = {}

    def accuracy(exponent: float) -> float:
        if exponent not in tried:
            near = min(tried, key=lambda e: abs(e - exponent), default=None)
            start = tried[near][1] if near is not None else None
            strength = held_x.new_full((held_x.shape[0],), 10.0**exponent)
            fit = minimize(part, strength, start, tolerance=CHOICE_TOLERANCE, max_steps=50)
            bias = fit.bias[:, None].masked_fill(absent, -torch.inf)
            logits = torch.baddbmm(bias, held_x, fit.weight)  # (P, v, C)
            tried[exponent] = (_mean_accuracies(logits, held_y, problem.num_classes), fit)
        return sum(tried[exponent][0])

    def outcome(best: float, value: float) -> tuple[float, str, list[float], Fit, list[Tried]]:
        all_tried = [_tried(10.0**exponent, found) for exponent, (found, _) in tried.items()]
        return value, "validation part", *tried[best], all_tried

    if listed is not None:
        exponents = [math.log10(value) for value in listed]
        best = max(exponents, key=accuracy)  # the strongest of equals, which comes first
        return outcome(best, listed[exponents.index(best)])
    # Accuracy over log l2 rises to one summit and is flat around it: walk there by half decades,
    # twice as far after two steps that paid. Weaker comes first: if it pays, stronger need not be
    # tried at all. Warm starts make neighbors cheap.
    best = math.log10(START_L2)
    accuracy(best)
    for direction in (-1, 1):
        stride, paid = 0.5, 0
        while L2_RANGE[0] <= (candidate := best + direction * stride) <= L2_RANGE[1]:
            if accuracy(candidate) > accuracy(best):
                best, paid = candidate, paid + 1
                stride = 1.0 if paid >= 2 else 0.5
            elif stride > 0.5:
                stride, paid = 0.5, 0
            else:
                break
        if paid:
            break
    return outcome(best, 10.0**best)


def _tried(value: float, accuracies: list[float]) -> Tried:
    """A value that was tried, and its mean class accuracy on the validation parts of the draws."""
    mean = sum(accuracies) / len(accuracies)
    return {"value": value, "validation_accuracy": mean}


def _ridge(
    x: Tensor,
    y: Tensor,
    num_fit: int,
    num_held: int,
    num_classes: int,
    l2: float | tuple[float, ...] | None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    r"""W = (XᵀX/n + λI)⁻¹ XᵀY/n for one-hot Y, from one eigendecomposition for all λ."""

    def system(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        n = rows.shape[1]
        center = rows.mean(1, keepdim=True)
        moment = torch.bmm(rows.transpose(1, 2), rows).div_(n)
        moment -= center.transpose(1, 2) * center
        one_hot = torch.zeros(rows.shape[0], n, num_classes, device=rows.device)
        one_hot.scatter_(-1, labels[..., None], 1.0)
        share = one_hot.mean(1, keepdim=True)  # (P, 1, C)
        cross = torch.bmm(rows.transpose(1, 2), one_hot).div_(n) - center.transpose(1, 2) * share
        values, vectors = torch.linalg.eigh(moment)
        return values.clamp_(min=0), vectors, vectors.transpose(1, 2) @ cross, center, share

    def solve(parts: tuple[Tensor, ...], strength: float) -> tuple[Tensor, Tensor]:
        values, vectors, rotated, center, share = parts
        w = vectors @ (rotated / (values[:, :, None] + strength))
        return w, (share - center @ w)[:, 0]

    accuracies: list[float] = []
    tried: list[Tried] = []
    if isinstance(l2, (int, float)):
        best, rule = float(l2), "given"
    elif num_held == 0:
        listed = () if l2 is None else sorted(set(l2), reverse=True)
        best, rule = listed[len(listed) // 2] if listed else 0.1, FIXED
    else:
        rule = "validation part"
        grid = l2 if l2 is not None else tuple(10.0 ** (e / 2) for e in range(4, -13, -1))
        parts = system(x[:, :num_fit], y[:, :num_fit])
        held_x, held_y = x[:, num_fit:], y[:, num_fit:]
        best = grid[0]
        for strength in sorted(grid, reverse=True):
            w, b = solve(parts, strength)
            found = _mean_accuracies(torch.baddbmm(b[:, None], held_x, w), held_y, num_classes)
            tried.append(_tried(strength, found))
            if not accuracies or sum(found) > sum(accuracies):
                best, accuracies = strength, found
    w, b = solve(system(x, y), best)
    return (
        w,
        b,
        {
            "l2": best,
            "rule": rule,
            "validation_accuracies": accuracies,
            "tried": tried,
        },
    )


# --- the papers' own ways -------------------------------------------------------------------


def _fit_by_steps(
    x: Tensor,
    y: Tensor,
    num_fit: int,
    num_held: int,
    num_classes: int,
    options: ProbeOptions,
    test: tuple[Tensor, Tensor],
) -> Fitted:
    rule = gradient_rule(
        options.solver,
        few_shot=options.few_shot,
        learning_rate=options.learning_rate,
        epochs=options.epochs,
        selection=options.selection,
        images=x.shape[1],
    )
    accuracies: list[float] = []
    found: list[list[float]] = []
    rates = tuple(dict.fromkeys(rule.learning_rates))
    rule = replace(rule, learning_rates=rates)
    if len(rates) > 1:
        if num_held == 0:
            raise InputError(
                f"{len(rates)} learning rates to choose from, but too few images for a "
                "validation part; give one."
            )
        trial = replace(rule, selection="last")
        w, b, _ = train_heads(x[:, :num_fit], y[:, :num_fit], num_classes, trial, seed=options.seed)
        for index in range(len(rates)):
            logits = torch.baddbmm(b[:, index, None], x[:, num_fit:], w[:, index])
            logits = logits.nan_to_num(-torch.inf)  # a rate that diverged chooses class 0
            found.append(_mean_accuracies(logits, y[:, num_fit:], num_classes))
        best = max(range(len(rates)), key=lambda index: sum(found[index]))
        accuracies = found[best]
        rule = replace(rule, learning_rates=(rates[best],))
    w, b, epoch = train_heads(x, y, num_classes, rule, seed=options.seed, test=test)
    if not bool(w.isfinite().all() and b.isfinite().all()):
        raise InputError(
            f"the probe diverged at learning rate {rule.learning_rates[0]:g}; give a smaller "
            "learning_rate or several, or use solver='lbfgs', which has none."
        )
    heads = [
        {
            "learning_rate": rule.learning_rates[0],
            "rule": "validation part" if len(rates) > 1 else "given",
            "tried": [_tried(*pair) for pair in zip(rates, found, strict=False)],
            "validation_accuracy": accuracies[head] if accuracies else None,
            "selection": rule.selection,
            "epoch": int(epoch[head, 0]),
            "settings": rule.description,
        }
        for head in range(x.shape[0])
    ]
    return Fitted(w[:, 0], b[:, 0], heads)


def _fit_svc(x: Tensor, y: Tensor, num_classes: int) -> Fitted:
    from sklearn.svm import LinearSVC

    P, _, D = x.shape
    weight = torch.zeros(P, D, num_classes)
    bias = torch.zeros(P, num_classes)
    for head in range(P):
        rows = torch.nn.functional.normalize(x[head], dim=1).cpu().numpy()
        machine = LinearSVC(random_state=0).fit(rows, y[head].cpu().numpy())
        classes = torch.as_tensor(machine.classes_)
        w = torch.as_tensor(machine.coef_, dtype=torch.float32).T  # (D, C), or (D, 1) for two
        b = torch.as_tensor(machine.intercept_, dtype=torch.float32)
        if classes.numel() == 2:
            w, b = torch.cat([-w, w], 1), torch.cat([-b, b])
        weight[head][:, classes] = w
        bias[head][classes] = b
    settings = "scikit-learn LinearSVC, C = 1, L2-normalized features"
    chosen = {"rule": "given", "validation_accuracy": None, "settings": settings}
    return Fitted(weight.to(x), bias.to(x), [dict(chosen) for _ in range(P)])
