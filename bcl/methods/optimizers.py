"""The papers' optimizers by name."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from bcl.core.checks import check_choice, check_positive
from bcl.core.errors import InputError
from bcl.methods.sharpness import SharpnessSettings

OptimizerName = Literal["sgd", "lars", "adamw"]
OPTIMIZERS: tuple[OptimizerName, ...] = ("sgd", "lars", "adamw")


@dataclass(frozen=True)
class OptimizerSettings:
    """An optimizer by name.

    Args:
        name: ``"sgd"`` (SimCLR, BCL, SDCLR, CACR), ``"lars"`` or ``"adamw"`` (the MoCo-v3 form of
            CACR, on ResNets and ViTs). LARS is timm's; it takes no trust ratio for parameters
            without weight decay.
        learning_rate: the highest of the schedule.
        momentum: momentum of SGD and LARS, in [0, 1).
        weight_decay: weight decay.
        decay_norm_and_bias: whether weight decay applies to norms and biases too.
        sharpness: sharpness-aware steps, at twice the cost; None for plain ones.

    Example:
        >>> OptimizerSettings("adamw", learning_rate=1e-3).build(nn.Linear(2, 2)).defaults["lr"]
        0.001
    """

    name: OptimizerName = "sgd"
    learning_rate: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    sharpness: SharpnessSettings | None = None

    def __post_init__(self) -> None:
        check_choice("optimizer", self.name, OPTIMIZERS)
        check_positive("learning_rate", self.learning_rate)
        check_positive("weight_decay", self.weight_decay, zero=True)
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {self.momentum!r}.")
        if not isinstance(self.sharpness, SharpnessSettings | None):
            raise InputError(
                f"sharpness must be None or settings, got {self.sharpness!r}; pass "
                "SharpnessSettings(...)."
            )

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of a module's parameters that require a gradient."""
        groups: Any = parameter_groups(module, self.weight_decay, self.decay_norm_and_bias)
        if self.name == "adamw":
            return torch.optim.AdamW(groups, lr=self.learning_rate)
        if self.name == "lars":
            from timm.optim.lars import Lars

            return Lars(groups, lr=self.learning_rate, momentum=self.momentum)
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)


def parameter_groups(
    module: nn.Module, weight_decay: float, decay_norm_and_bias: bool
) -> list[dict[str, Any]]:
    """Group the trained parameters by whether weight decay applies to them."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if decay_norm_and_bias:
        return [{"params": trained, "weight_decay": weight_decay}]
    # Norms and biases are vectors.
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
