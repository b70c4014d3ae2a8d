"""The papers' optimizers by name."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from bcl.core.errors import InputError, unknown_name

OptimizerName = Literal["sgd", "lars", "adamw"]
OPTIMIZERS: tuple[OptimizerName, ...] = ("sgd", "lars", "adamw")


def parameter_groups(
    modules: Iterable[nn.Module], weight_decay: float, decay_norm_and_bias: bool
) -> list[dict[str, Any]]:
    """Group the trained parameters by whether weight decay applies to them.

    Args:
        modules: each parameter is taken once, however often a module or a weight is shared.
        weight_decay: of the groups that have one.
        decay_norm_and_bias: whether it applies to norms and biases (vectors) too.

    Returns:
        One group, or two with the second one free of weight decay.

    Example:
        >>> groups = parameter_groups([nn.Linear(2, 2), nn.BatchNorm1d(2)], 0.1, False)
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(1, 0.1), (3, 0.0)]
    """
    found = dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad)
    if decay_norm_and_bias:
        return [{"params": list(found), "weight_decay": weight_decay}]
    decayed = [parameter for parameter in found if parameter.ndim > 1]
    free = [parameter for parameter in found if parameter.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def build_optimizer(
    name: OptimizerName,
    groups: Sequence[dict[str, Any]],
    learning_rate: float,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """Build an optimizer.

    Args:
        name: ``"sgd"`` (SimCLR, BCL, SDCLR, CACR), ``"lars"`` or ``"adamw"`` (CACR's MoCo-v3
            form on ResNets and ViTs).
        groups: from `parameter_groups`.
        learning_rate: the highest of the schedule.
        momentum: of SGD and LARS.
        betas: of AdamW.

    Returns:
        The optimizer. LARS is timm's; parameters without weight decay take no trust ratio.

    Raises:
        InputError: unknown name, or a learning rate that is not positive.
    """
    if learning_rate <= 0:
        raise InputError(f"learning_rate must be positive, got {learning_rate!r}.")
    parameters: Any = list(groups)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, betas=betas)
    if name == "lars":
        from timm.optim.lars import Lars

        return Lars(parameters, lr=learning_rate, momentum=momentum)
    raise unknown_name("optimizer", name, OPTIMIZERS)
