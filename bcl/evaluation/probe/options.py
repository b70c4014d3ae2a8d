"""Settings and result of a linear probe, and the papers' gradient solvers as a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from bcl.core.checks import check_choice, check_count
from bcl.core.errors import InputError

SOLVERS = ("lbfgs", "ridge", "adam", "sgd", "moco", "cacr", "svc")
GRADIENT_SOLVERS = ("adam", "sgd", "moco", "cacr")
SELECTIONS = ("last", "best_test")
Selection = Literal["last", "best_test"]
CLASS_WEIGHTS = ("none", "balanced")
ClassWeights = Literal["none", "balanced"]
Values = float | Sequence[float] | None
EXACT = 1e-6  # promised decrease, as a share of the objective, at which a minimum is reached
LEAST, MOST = 1e-30, 1e30  # beyond them a penalty or a rate is 0 or infinite in float32
FIXED = "fixed: too few images for a validation part"


@dataclass(frozen=True)
class ProbeOptions:
    """How linear probes are fitted: the options of `bcl.fit_linear_probe`, which describes them.

    Attributes:
        few_shot: SDCLR's schedule for few images (sgd).
        validation_share: part of each class's training images that a choice is made on.
        class_weights: ``"none"``, or ``"balanced"``: an image weighs n / (C n_c), so that all C
            classes weigh alike.

    Raises:
        InputError: a value out of its range.
    """

    solver: str = "lbfgs"
    l2: Values = None
    learning_rate: Values = None
    epochs: int | None = None
    selection: Selection = "last"
    few_shot: bool = False
    validation_share: float = 0.2
    tolerance: float = EXACT
    seed: int = 0
    class_weights: ClassWeights = "none"

    def __post_init__(self) -> None:
        check_choice("solver", self.solver, SOLVERS)
        check_choice("selection", self.selection, SELECTIONS)
        check_choice("class_weights", self.class_weights, CLASS_WEIGHTS)
        if self.epochs is not None:
            check_count("epochs", self.epochs)
        if not 0 <= self.validation_share < 1:
            raise InputError(f"validation_share must lie in [0, 1), got {self.validation_share}.")
        if not 0 < self.tolerance < 1:
            raise InputError(f"tolerance must lie in (0, 1), got {self.tolerance}.")
        for name in ("l2", "learning_rate"):
            object.__setattr__(self, name, _values(name, getattr(self, name)))

    @property
    def balanced(self) -> bool:
        """Whether all classes weigh alike, whatever their numbers of images."""
        return self.class_weights == "balanced"

    @property
    def listed(self) -> tuple[float, ...]:
        """The penalties to choose from, strongest first; empty for one or none."""
        return tuple(sorted(set(self.l2), reverse=True)) if isinstance(self.l2, tuple) else ()


def _values(name: str, value: Any) -> Values:
    """One number of any library as a float, several as a tuple; refuse what is out of range."""
    if value is None:
        return None
    value = value.tolist() if isinstance(value, Tensor) else value
    single = isinstance(value, Real)
    try:
        found = tuple(float(each) for each in ([value] if single else value))
    except (TypeError, ValueError):
        found = ()
    if not found or not all(LEAST <= each <= MOST for each in found):
        raise InputError(
            f"{name} must be a positive number or a list of numbers between {LEAST:g} and "
            f"{MOST:g}, got {value!r}."
        )
    return found[0] if single else found


@dataclass
class ProbeResult:
    """A fitted linear probe and its results on the test set.

    Attributes:
        accuracy: share of correct test predictions, in [0, 1].
        top5: share of test images whose label is among the five best classes.
        per_class_accuracy: (C,) float64; NaN for a class without test images.
        predictions: (M,) predicted test labels.
        chosen: solver, penalty or learning rate, how it was chosen (``choice``), its accuracy on
            the validation part, all that were ``tried``, and for lbfgs the ``gap`` to the minimum
            that was left, estimated, as a share of the objective.
        weight: (D, C), for the features as given (``svc``: for L2-normalized ones).
        bias: (C,); -inf for a class that the training set lacks.
        notes: remarks, such as absent classes.

    Example:
        >>> import torch
        >>> from bcl import fit_linear_probe
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


class FittedHeads(NamedTuple):
    """P linear heads before their test, and what was chosen for each."""

    weight: Tensor  # (P, D, C)
    bias: Tensor  # (P, C)
    chosen: list[dict[str, Any]]


@dataclass
class Choice:
    """How a penalty or a learning rate was chosen."""

    value: float
    choice: str  # "given", "validation part" or FIXED
    # Value to the mean class accuracy of each of P heads on its validation part.
    tried: dict[float, list[float]] = field(default_factory=dict)

    def per_head(self, name: str, heads: int, **more: Any) -> list[dict[str, Any]]:
        """Plain values for `ProbeResult.chosen`, one dict per head."""
        tried = [
            {"value": value, "validation_accuracy": sum(found) / len(found)}
            for value, found in self.tried.items()
        ]
        shared = {name: self.value, "choice": self.choice, "tried": tried, **more}
        own = self.tried.get(self.value, [None] * heads)
        return [{**shared, "validation_accuracy": accuracy} for accuracy in own]


def fixed_l2(options: ProbeOptions, num_held: int, fallback: float) -> Choice | None:
    """The penalty that was given, or one for lack of validation images; None: search for it."""
    if isinstance(options.l2, float):
        return Choice(options.l2, "given")
    listed = options.listed
    if num_held == 0:
        return Choice(listed[len(listed) // 2] if listed else fallback, FIXED)
    return None


@dataclass(frozen=True)
class GradientSettings:
    """A probe trained by gradient steps, as a paper describes it."""

    optimizer: Literal["adam", "sgd"]
    learning_rates: tuple[float, ...]  # a validation part chooses
    epochs: int
    batch_size: int
    weight_decay: float = 0.0  # added to the gradient
    momentum: float = 0.9  # of SGD
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam
    last_rate: float | None = None  # decay to it exponentially, one factor per epoch
    milestones: tuple[int, ...] = ()  # epochs after which the rate is multiplied by the factor
    factor: float = 0.1
    selection: Selection = "last"

    def build(self, parameters: list[Tensor], rate: float) -> torch.optim.Optimizer:
        """The optimizer of one training."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, rate, self.momentum, weight_decay=self.weight_decay)
        return torch.optim.Adam(parameters, rate, self.betas, weight_decay=self.weight_decay)

    def rate(self, base: float, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0; ``base`` is that of the first."""
        if self.last_rate is not None:  # which comes after the last epoch
            return float(base * (self.last_rate / base) ** (epoch / self.epochs))
        return base * self.factor ** sum(epoch >= milestone for milestone in self.milestones)

    @property
    def description(self) -> str:
        """One line for reports."""
        rates = ", ".join(f"{rate:g}" for rate in self.learning_rates)
        schedule = f"times {self.factor:g} after epochs {', '.join(map(str, self.milestones))}"
        if self.last_rate is not None:
            schedule = f"exponentially to {self.last_rate:g}"
        chosen = "last epoch" if self.selection == "last" else "BEST EPOCH ON THE TEST SET"
        return (
            f"{self.optimizer}, learning rate {rates} {schedule}, weight decay "
            f"{self.weight_decay:g}, batch {self.batch_size:,}, {self.epochs} epochs, {chosen}"
        )


# From papers and released code: BCL, GH and W-MSE; SDCLR, COLT and MAK; rwSAM and MoCo; CACR
# small-scale and AU.
_SGD = GradientSettings("sgd", (30.0,), 30, 128, milestones=(10, 20))
PRESETS = {
    "adam": GradientSettings("adam", (1e-2,), 500, 1000, weight_decay=5e-6, last_rate=1e-6),
    "sgd": _SGD,
    "sgd, few-shot": replace(_SGD, epochs=100, milestones=(40, 60)),
    "moco": replace(_SGD, epochs=100, batch_size=256, milestones=(60, 80)),
    "cacr": GradientSettings(
        "adam", (1e-3,), 100, 128, betas=(0.5, 0.999), milestones=(60, 80), factor=0.2
    ),
}


def gradient_settings(options: ProbeOptions, images: int = 0) -> GradientSettings:
    """The paper's settings with what ``options`` change; above 50,000 images SGD's batch is 512."""
    few = options.solver == "sgd" and options.few_shot
    settings = PRESETS["sgd, few-shot" if few else options.solver]
    if options.solver == "sgd" and images > 50_000:
        settings = replace(settings, batch_size=512)
    if options.learning_rate is not None:
        given = options.learning_rate
        rates = [given] if isinstance(given, float) else given
        settings = replace(settings, learning_rates=tuple(dict.fromkeys(rates)))
    if options.epochs is not None:
        moved = tuple(round(m * options.epochs / settings.epochs) for m in settings.milestones)
        settings = replace(settings, epochs=options.epochs, milestones=moved)
    return replace(settings, selection=options.selection)
