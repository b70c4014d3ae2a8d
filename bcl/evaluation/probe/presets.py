"""Solvers by name, and what the papers did."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from bcl.core.errors import InputError, unknown_name

SOLVERS = ("lbfgs", "ridge", "adam", "sgd", "cacr", "svc")
GRADIENT_SOLVERS = ("adam", "sgd", "cacr")
Selection = Literal["last", "best_test"]


@dataclass(frozen=True)
class GradientRule:
    """A probe that is trained by gradient steps, as a paper describes it.

    Attributes:
        name: of the solver.
        optimizer: ``"adam"`` or ``"sgd"``.
        learning_rates: tried together; several are chosen from on a validation part.
        epochs: passes over the training images.
        batch_size: images a step.
        weight_decay: L2, added to the gradient.
        momentum: of SGD.
        betas: of Adam.
        last_rate: the rate decays exponentially to it, by the epoch.
        milestones: epochs after which the rate is multiplied by ``factor``.
        factor: see ``milestones``.
        selection: which epoch's weights are reported.
        source: where the numbers come from.
    """

    name: str
    optimizer: Literal["adam", "sgd"]
    learning_rates: tuple[float, ...]
    epochs: int
    batch_size: int
    weight_decay: float = 0.0
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    last_rate: float | None = None
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    selection: Selection = "last"
    source: str = ""

    def rate(self, base: float, epoch: int) -> float:
        """Learning rate of an epoch, from 0.

        Args:
            base: the first rate.
            epoch: which epoch.

        Returns:
            The rate.
        """
        if self.last_rate is not None:
            # One factor an epoch; the last rate would be reached after the last epoch.
            return float(base * (self.last_rate / base) ** (epoch / self.epochs))
        return base * self.factor ** sum(epoch >= milestone for milestone in self.milestones)

    @property
    def description(self) -> str:
        """One line for reports."""
        rates = ", ".join(f"{rate:g}" for rate in self.learning_rates)
        if self.last_rate is not None:
            schedule = f"exponentially to {self.last_rate:g}"
        elif self.milestones:
            schedule = f"times {self.factor:g} after epochs {', '.join(map(str, self.milestones))}"
        else:
            schedule = "constant"
        chosen = "last epoch" if self.selection == "last" else "BEST EPOCH ON THE TEST SET"
        return (
            f"{self.optimizer}, learning rate {rates} {schedule}, weight decay "
            f"{self.weight_decay:g}, batch {self.batch_size:,}, {self.epochs} epochs, {chosen}"
        )


# Facts of the released code and papers; features are extracted once and without augmentation, also
# where a paper augments (SDCLR: random crops and flips).
_ADAM = GradientRule(
    "adam", "adam", (1e-2,), 500, 1000, weight_decay=5e-6, last_rate=1e-6, source="BCL, GH; W-MSE"
)
_SGD = GradientRule(
    "sgd", "sgd", (30.0,), 30, 128, milestones=(10, 20), source="SDCLR, COLT, MAK (full-shot)"
)
_SGD_FEW = replace(_SGD, epochs=100, milestones=(40, 60), source="SDCLR, COLT, MAK (few-shot)")
_CACR = GradientRule(
    "cacr", "adam", (1e-3,), 100, 128, betas=(0.5, 0.999), milestones=(60, 80), factor=0.2,
    source="CACR small-scale; AU",
)  # fmt: skip


def gradient_rule(
    solver: str,
    *,
    few_shot: bool = False,
    learning_rate: float | tuple[float, ...] | None = None,
    epochs: int | None = None,
    selection: Selection = "last",
    images: int = 0,
) -> GradientRule:
    """The rule of a solver that takes gradient steps, with what the caller wants otherwise.

    Args:
        solver: ``"adam"``, ``"sgd"`` or ``"cacr"``.
        few_shot: SDCLR trains longer on few images.
        learning_rate: one, or several to choose from.
        epochs: more or fewer; milestones move along.
        selection: ``"last"``, or ``"best_test"`` as the CACR paper reports.
        images: size of the training set; above 50,000 SDCLR's batches are 512.

    Returns:
        The rule.

    Raises:
        InputError: unknown solver or selection, a rate or a number of epochs that is not positive.
    """
    if solver not in GRADIENT_SOLVERS:
        raise unknown_name("solver", solver, SOLVERS)
    if selection not in ("last", "best_test"):
        raise unknown_name("selection", selection, ("last", "best_test"))
    rule = {"adam": _ADAM, "sgd": _SGD_FEW if few_shot else _SGD, "cacr": _CACR}[solver]
    if solver == "sgd" and images > 50_000:
        rule = replace(rule, batch_size=512)
    if learning_rate is not None:
        rates = learning_rate if isinstance(learning_rate, tuple) else (float(learning_rate),)
        if not rates or not all(0 < rate < math.inf for rate in rates):
            raise InputError(f"learning rates must be positive and finite, got {learning_rate}.")
        rule = replace(rule, learning_rates=rates)
    if epochs is not None:
        if epochs < 1:
            raise InputError(f"epochs must be at least 1, got {epochs}.")
        moved = tuple(round(m * epochs / rule.epochs) for m in rule.milestones)
        rule = replace(rule, epochs=epochs, milestones=moved)
    return replace(rule, selection=selection)
