"""Refusals of bad input that the losses share."""

from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from bcl.core.errors import InputError, unknown_name


def check_features(name: str, x: Tensor, shape: str) -> None:
    """Refuse what is not a floating-point tensor of the given dimensions.

    Args:
        name: the argument's name.
        x: what was given.
        shape: the dimensions as text, such as ``"(V, B, D)"``.

    Raises:
        InputError: no tensor, wrong number of dimensions, no width, or not floating point.
    """
    if not isinstance(x, Tensor):
        raise InputError(
            f"{name} must be a tensor of shape {shape}, got {type(x).__name__}; torch.stack makes "
            "one tensor of several."
        )
    if x.ndim != shape.count(",") + 1 or x.shape[-1] == 0:
        step = "torch.stack the views" if shape.count(",") == 2 else "pass one row per sample"
        raise InputError(f"{name} must be of shape {shape}, got {tuple(x.shape)}; {step}.")
    if not x.is_floating_point():
        raise InputError(
            f"{name} must be floating point, got {x.dtype}; pass the projector's output, or "
            f"{name}.float()."
        )


def check_together(reference: tuple[str, Tensor], others: Mapping[str, Tensor | None]) -> None:
    """Refuse tensors on different devices or of different widths.

    Args:
        reference: name and tensor that the others must fit.
        others: name to tensor; None stands for an argument not given.

    Raises:
        InputError: a device or a width D that differs.
    """
    name, x = reference
    for other_name, other in others.items():
        if other is None:
            continue
        if other.device != x.device:
            raise InputError(
                f"{name} is on {x.device} and {other_name} on {other.device}; move one with "
                f"{other_name}.to({name}.device)."
            )
        if other.shape[-1] != x.shape[-1]:
            raise InputError(
                f"{name} has width {x.shape[-1]} and {other_name} {other.shape[-1]}; both must "
                "come from projectors of one output size."
            )


def check_positive(name: str, value: float | Tensor, zero: bool = False) -> None:
    """Refuse a negative (and, unless ``zero``, a zero) number, or one that is not finite.

    Tensors are looked at on the CPU only: on a GPU that would stop the device at every step.

    Args:
        name: the argument's name.
        value: what was given.
        zero: whether 0 is allowed.

    Raises:
        InputError: the number is out of range.
    """
    if isinstance(value, Tensor):
        if value.device.type != "cpu" or torch.compiler.is_compiling():
            return
        try:
            low, high = value.detach().aminmax()
            value = float(high if high == float("inf") else low)
        except RuntimeError:  # within torch.func.vmap a value cannot be looked at
            return
    if not isinstance(value, Real):
        raise InputError(
            f"{name} must be a number, got {value!r}; where one for each sample is allowed, they "
            "must be a tensor."
        )
    right = value >= 0 if zero else value > 0  # False for NaN
    if not right or value == float("inf"):
        raise InputError(
            f"{name} must be a finite number {'at least' if zero else 'above'} 0, got {value!r}."
        )


def check_count(name: str, value: int, at_least: int = 1) -> None:
    """Refuse what is not an integer of at least ``at_least``.

    Args:
        name: the argument's name.
        value: what was given.
        at_least: the smallest value that is allowed.

    Raises:
        InputError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise InputError(f"{name} must be an integer of at least {at_least}, got {value!r}.")


def check_choice(kind: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a name that is not among those allowed.

    Args:
        kind: the argument's name.
        value: what was given.
        allowed: the names that are right.

    Raises:
        InputError: with the nearest right name.
    """
    if value not in allowed:
        raise unknown_name(kind, str(value), allowed)


def check_chunk_size(chunk_size: int | None) -> None:
    """Refuse a block size that is not None, 0 or a positive integer.

    Args:
        chunk_size: what was given.

    Raises:
        InputError: it is something else.
    """
    if chunk_size is None:
        return
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 0:
        raise InputError(
            "chunk_size must be a number of rows, 0 for the dense form or None for a choice by "
            f"size, got {chunk_size!r}."
        )
