"""The linear probe: how well a linear classifier does on frozen features."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.checks import TensorLike, as_labels, as_tensor
from bcl.core.errors import InputError
from bcl.evaluation.features import check_finite
from bcl.evaluation.metrics import class_accuracy, top_k_accuracy
from bcl.evaluation.probe.draws import Draws, split_validation
from bcl.evaluation.probe.gradient import fit_gradient
from bcl.evaluation.probe.lbfgs import Minimum, SoftmaxProblem, minimize
from bcl.evaluation.probe.options import (
    EXACT,
    GRADIENT_SOLVERS,
    Choice,
    FittedHeads,
    ProbeOptions,
    ProbeResult,
    Selection,
    Values,
    fixed_l2,
)
from bcl.evaluation.probe.ridge import fit_ridge
from bcl.evaluation.probe.svc import fit_svc

CHOICE_TOLERANCE = 2e-2  # gap at which the validation accuracy hardly changes any more
NOTED_GAP = 1e-5  # above it, a note says that the minimum was not reached
START_L2 = 1e-2  # where the search begins, and the fallback without a validation part
L2_RANGE = (-7.0, 1.0)  # decimal exponents that the search may reach
LARGEST = 1e15  # the sum of squares of larger features overflows float32
STACK_BYTES = 2 << 30  # draws are stacked up to this size
Fresh = Callable[[int, Tensor], Tensor]  # epoch and (n,) positions to features (n, D)


def fit_linear_probe(
    train_features: TensorLike,
    train_labels: TensorLike,
    test_features: TensorLike,
    test_labels: TensorLike,
    *,
    solver: str = "lbfgs",
    l2: Values = None,
    learning_rate: Values = None,
    epochs: int | None = None,
    selection: Selection = "last",
    tolerance: float = EXACT,
    num_classes: int | None = None,
    seed: int = 0,
) -> ProbeResult:
    r"""Fit a linear classifier to frozen features and test it.

    .. math:: \min_{W,b} \frac1n \sum_i \mathrm{CE}(W^\top \hat x_i + b, y_i)
              + \frac{\lambda}{2} \lVert W \rVert^2

    The default, ``"lbfgs"``, finds this minimum on features standardized with the training set's
    mean and standard deviation. :math:`\lambda` (scikit-learn's :math:`1 / (nC)`) is chosen by
    mean class accuracy on a stratified validation part of the training set, never on the test set;
    then the probe is fitted to the whole training set. Solvers:

    - ``"lbfgs"``: deterministic, no learning rate;
    - ``"ridge"``: least squares to one-hot labels in closed form, :math:`\lambda` chosen as above;
    - ``"adam"``: BCL's protocol, Adam 1e-2 to 1e-6, 500 epochs, batch 1,000, weight decay 5e-6;
    - ``"sgd"``: SDCLR's, learning rate 30, 30 epochs, batch 128;
    - ``"moco"``: MoCo's, which rwSAM takes, learning rate 30, 100 epochs, batch 256;
    - ``"cacr"``: CACR's, Adam 1e-3, 100 epochs, batch 128; the last epoch, where the paper reports
      the best epoch on the test set (``selection="best_test"``, which the result notes);
    - ``"svc"``: scikit-learn's LinearSVC on L2-normalized features, as in temperature schedules.

    The last five take the features as they are. The result depends only on the arguments.

    Args:
        train_features: (N, D); the probe is computed on their device.
        train_labels: (N,) integers from 0, or names, which are numbered in their sorted order.
        test_features: (M, D).
        test_labels: (M,), as those.
        solver: see above.
        l2: the penalty, or several to choose from; searched if not given (lbfgs, ridge).
        learning_rate: the rate, or several to choose from on the validation part (adam, sgd, moco,
            cacr).
        epochs: epochs, instead of the protocol's (as above).
        selection: ``"last"`` or ``"best_test"`` (as above).
        tolerance: estimated gap to the minimum at which lbfgs stops, as a share of the objective.
        num_classes: C; the largest label + 1 if not given.
        seed: decides the validation part, and the order and start of adam, sgd, moco and cacr.

    Returns:
        The result.

    Raises:
        InputError: shapes that do not match, NaN in the features, labels out of range, unknown
            solver, an option that the solver does not use, a learning rate at which training
            diverges.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [1.0], [1.1]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> fit_linear_probe(x, y, x, y).accuracy
        1.0
    """
    options = ProbeOptions(
        solver, l2, learning_rate, epochs, selection, tolerance=tolerance, seed=seed
    )
    _check_use(options)
    x = as_tensor("train features", train_features)
    test_x = as_tensor("test features", test_features)
    y, test_y = as_labels(train_labels, test_labels)
    num_classes = check_probe_data(x, y, test_x, test_y, num_classes)
    x, y, test_x, test_y = (part.detach().to(x.device) for part in (x, y, test_x, test_y))
    everything = [torch.arange(y.numel(), device=y.device)]
    return fit_heads(x, y, everything, test_x, test_y, num_classes=num_classes, options=options)[0]


def _check_use(options: ProbeOptions) -> None:
    """Refuse options that the solver would silently ignore."""
    uses = {"l2": ("lbfgs", "ridge"), "learning_rate": GRADIENT_SOLVERS, "epochs": GRADIENT_SOLVERS}
    for name, solvers in uses.items():
        if getattr(options, name) is not None and options.solver not in solvers:
            raise InputError(
                f"{name} is for the solvers {', '.join(solvers)}, not for '{options.solver}'; "
                "leave it out or take one of those."
            )


def check_probe_data(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    num_classes: int | None = None,
) -> int:
    """Refuse features and labels that cannot be probed; returns the number of classes C."""
    _check_set("train", train_features, train_labels)
    _check_set("test", test_features, test_labels)
    if train_features.shape[1] != test_features.shape[1]:
        raise InputError(
            f"train features have {train_features.shape[1]} dimensions and test features "
            f"{test_features.shape[1]}; take both from the same layer of the same encoder."
        )
    largest = max(int(train_labels.max()), int(test_labels.max()))
    images = train_labels.numel() + test_labels.numel()
    if largest >= (max(1000, images) if num_classes is None else num_classes):
        raise InputError(
            f"label {largest:,} with num_classes={num_classes} and {images:,} images; number the "
            "classes from 0 without gaps, or pass the right num_classes."
        )
    if train_labels.min() == train_labels.max():
        raise InputError("the training labels hold a single class; a classifier needs two.")
    return largest + 1 if num_classes is None else num_classes


def _check_set(name: str, x: Tensor, y: Tensor) -> None:
    """Refuse features that are not finite real (N, D), or labels that are not (N,) from 0."""
    if x.ndim != 2 or y.shape != x.shape[:1] or x.numel() == 0:
        raise InputError(
            f"{name} features and labels must be tensors (N, D) and (N,), got {tuple(x.shape)} "
            f"and {tuple(y.shape)}."
        )
    integers = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if x.dtype == torch.bool or x.is_complex() or not integers or int(y.min()) < 0:
        raise InputError(
            f"{name} features must be real numbers and labels integers from 0, got {x.dtype} and "
            f"{y.dtype}, first label {y[0].item()}; leave unlabeled images out."
        )
    check_finite(f"{name} features", x)
    if bool((x.abs() > LARGEST).any()):
        raise InputError(
            f"{name} features reach {float(x.abs().max()):.3g}, too huge for float32; scale them "
            "down."
        )


def fit_heads(
    features: Tensor,
    labels: Tensor,
    subsets: Sequence[Tensor],
    test_features: Tensor,
    test_labels: Tensor,
    *,
    num_classes: int,
    options: ProbeOptions,
    fresh: Fresh | None = None,
) -> list[ProbeResult]:
    """Fit one probe per subset (the draws of a protocol) over shared features, together.

    The draws share one penalty or learning rate, chosen by their mean validation accuracy.
    ``fresh`` gives the features of an epoch, counted from 0, at (n,) positions.
    """
    labels, test_labels = labels.long(), test_labels.long()  # bytes would index as a mask
    splits = []
    for rows in subsets:
        fit, held = split_validation(labels[rows], options.validation_share, options.seed)
        splits.append((rows[fit], rows[held]))
    shapes = {(fit.numel(), held.numel()) for fit, held in splits}
    size = 4 * features.shape[1] * sum(rows.numel() for rows in subsets)
    if len(subsets) > 1 and (len(shapes) > 1 or size > STACK_BYTES):
        # Unequal draws cannot be stacked, large ones need not be.
        return [
            fit_heads(
                features, labels, [rows], test_features, test_labels, num_classes=num_classes,
                options=options, fresh=fresh,
            )[0]
            for rows in subsets
        ]  # fmt: skip
    stacked = torch.stack([torch.cat(split) for split in splits])  # (P, n)
    num_fit = splits[0][0].numel()
    draws = Draws(features[stacked].float(), labels[stacked], num_fit, num_classes)
    test_features = test_features.float()
    if options.solver in ("lbfgs", "ridge"):
        fitted = _fit_standardized(draws, options)
    elif options.solver == "svc":
        fitted = fit_svc(draws, options.balanced)
        test_features = normalize(test_features, dim=1)
    else:
        epoch_x = None if fresh is None else _by_draw(fresh, stacked)
        fitted = fit_gradient(draws, options, (test_features, test_labels), epoch_x)
    absent = torch.ones_like(fitted.bias, dtype=torch.bool).scatter_(1, draws.y, False)
    bias = fitted.bias.masked_fill(absent, -torch.inf)
    results = []
    for head, chosen in enumerate(fitted.chosen):
        logits = torch.addmm(bias[head], test_features, fitted.weight[head])
        chosen = {"solver": options.solver, "train_images": draws.y.shape[1], **chosen}
        chosen["class_weights"] = options.class_weights
        results.append(score(logits, test_labels, chosen, fitted.weight[head], bias[head]))
    return results


def _by_draw(fresh: Fresh, stacked: Tensor) -> Callable[[int], Tensor]:
    """From an epoch to the (P, n, D) features of the draws; each image is encoded once."""
    rows, place = torch.unique(stacked, return_inverse=True)
    return lambda epoch: fresh(epoch, rows).float()[place]


def score(
    logits: Tensor, labels: Tensor, chosen: dict[str, Any], weight: Tensor, bias: Tensor
) -> ProbeResult:
    """Compare (M, C) logits of a classifier with the labels."""
    predictions, trained = logits.argmax(1), ~bias.isinf()
    per_class = class_accuracy(predictions, labels, logits.shape[1])
    notes = absence_notes(trained, per_class)
    gap = chosen.get("gap", 0.0)
    if gap > max(NOTED_GAP, chosen.get("tolerance", 0.0)):
        reached = f"the minimum was only approached, to {gap:.0e} of the objective"
        notes.append(f"{reached}: the penalty is tiny for these features")
    if chosen.get("selection") == "best_test":
        notes.append(
            "the epoch was chosen on the test set (as the CACR paper does): this accuracy is "
            "optimistic and not comparable with the others"
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
    """Up to two sentences on classes without training images or test images (NaN)."""
    notes = []
    for absent, which, effect in (
        (~trained, "training", "never predicted"),
        (per_class.isnan(), "test", "left out of the means"),
    ):
        if ids := absent.nonzero().flatten().tolist():
            more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
            listed = ", ".join(map(str, ids[:10])) + more
            notes.append(f"no {which} image of classes {listed}: {effect}")
    return notes


def _fit_standardized(draws: Draws, options: ProbeOptions) -> FittedHeads:
    """Solve on standardized features, and return heads for the features as given."""
    mean, deviation, constant = draws.standardize()  # (P, 1, D) each
    fitted = (fit_ridge if options.solver == "ridge" else fit_lbfgs)(draws, options)
    weight = fitted.weight / deviation.mT
    weight.masked_fill_(constant.mT, 0.0)  # nothing was learned from such a feature
    bias = fitted.bias - torch.bmm(mean, weight)[:, 0]
    return FittedHeads(weight, bias, fitted.chosen)


def fit_lbfgs(draws: Draws, options: ProbeOptions) -> FittedHeads:
    """Choose the penalty on the validation part, then find the minimum for all rows."""
    problem = SoftmaxProblem.of(draws.x, draws.y, draws.num_classes, options.balanced)
    choice, start = _choose_l2(problem, draws, options)
    heads = len(draws.x)
    l2 = draws.x.new_full((heads,), choice.value)
    found = minimize(problem, l2, start, tolerance=options.tolerance)
    more = {"steps": found.steps, "gap": found.gap, "tolerance": options.tolerance}
    return FittedHeads(found.weight, found.bias, choice.per_head("l2", heads, **more))


def _choose_l2(
    problem: SoftmaxProblem, draws: Draws, options: ProbeOptions
) -> tuple[Choice, Minimum | None]:
    """The penalty, and the minimum of its trial to start from."""
    if fixed := fixed_l2(options, draws.num_held, START_L2):
        return fixed, None
    part = problem.rows(draws.num_fit)
    tried: dict[float, list[float]] = {}
    minima: dict[float, Minimum] = {}

    def accuracy(l2: float) -> float:
        if l2 not in tried:
            near = min(tried, key=lambda other: round(abs(math.log10(other / l2)), 6), default=None)
            start = None if near is None else minima[near]
            strength = draws.x.new_full((len(draws.x),), l2)
            found = minimize(part, strength, start, tolerance=CHOICE_TOLERANCE, max_steps=50)
            minima[l2] = found
            tried[l2] = draws.accuracies(part.logits(found.parameters, draws.held_x))
        return sum(tried[l2])

    # Of equals in a list the strongest, which comes first.
    best = max(options.listed, key=accuracy) if options.listed else _summit(accuracy)
    return Choice(best, "validation part", tried), minima[best]


def _summit(accuracy: Callable[[float], float]) -> float:
    """The penalty of the highest accuracy, which over log l2 rises to one summit, flat around it.

    Walks by half decades, and by whole ones after two steps that paid. Weaker penalties come
    first: if they pay, stronger ones need not be tried. Warm starts make neighbors cheap.
    """
    best = math.log10(START_L2)
    accuracy(10.0**best)
    for direction in (-1, 1):
        stride, paid = 0.5, 0
        while L2_RANGE[0] <= (candidate := best + direction * stride) <= L2_RANGE[1]:
            if accuracy(10.0**candidate) > accuracy(10.0**best):
                best, paid = candidate, paid + 1
                stride = 1.0 if paid >= 2 else 0.5
            elif stride > 0.5:
                stride, paid = 0.5, 0
            else:
                break
        if paid:
            break
    return float(10.0**best)
