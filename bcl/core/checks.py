"""Checks of arguments, for the public functions and the settings of every room."""

from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from bcl.core.errors import InputError, unknown_name


def check_features(name: str, x: Tensor, shape: str) -> None:
    """Refuse anything but a floating-point tensor with the dimensions of ``shape``.

    Args:
        name: the argument's name.
        x: its value.
        shape: the dimensions as text, such as ``"(V, B, D)"``; D is at least 1.
    """
    if not isinstance(x, Tensor):
        raise InputError(
            f"{name} must be a tensor of shape {shape}, got {type(x).__name__}; torch.stack "
            "combines several."
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
    """Refuse tensors whose device or width D differs from the reference's.

    Args:
        reference: name and tensor.
        others: name to tensor, or to None for an argument that was not given.
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
                "come from projectors of the same output size."
            )


def check_positive(name: str, value: float | Tensor, zero: bool = False) -> None:
    """Refuse a number, or a tensor with one, that is not finite and above 0 (or 0, if ``zero``).

    Tensors on a GPU are not checked: that would stop the device at every step.
    """
    if isinstance(value, Tensor):
        if value.device.type != "cpu" or torch.compiler.is_compiling():
            return
        try:
            low, high = value.detach().aminmax()
            value = float(high if high == float("inf") else low)
        except RuntimeError:  # torch.func.vmap hides values
            return
    if not isinstance(value, Real):
        raise InputError(
            f"{name} must be a number, got {value!r}; where one per sample is allowed, they "
            "must be a tensor."
        )
    in_range = value >= 0 if zero else value > 0  # False for NaN
    if not in_range or value == float("inf"):
        raise InputError(
            f"{name} must be a finite number {'at least' if zero else 'above'} 0, got {value!r}."
        )


def check_count(name: str, value: int, at_least: int = 1) -> None:
    """Refuse anything but an integer of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise InputError(f"{name} must be an integer of at least {at_least}, got {value!r}.")


def check_choice(kind: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a name that is not allowed; the error suggests the nearest that is."""
    if value not in allowed:
        raise unknown_name(kind, str(value), allowed)


def check_chunk_size(chunk_size: int | None) -> None:
    """Refuse anything but a number of rows, 0 (dense) or None (chosen by size)."""
    if chunk_size is not None:
        check_count("chunk_size", chunk_size, at_least=0)


def faults(x: Tensor, unit: bool) -> Tensor:
    """Count rows that are not finite and, if ``unit``, rows whose length is not one.

    Args:
        x: (..., D).
        unit: whether the rows must have length one, to 1e-3 or the rounding of a coarser type.

    Returns:
        (2,) int64: rows not finite, rows of another length.
    """
    finite = x.isfinite().all(-1)
    away = (x.float().norm(dim=-1) - 1).abs() > max(1e-3, torch.finfo(x.dtype).eps)
    return torch.stack(
        [(~finite).sum(), (finite & away).sum() if unit else (finite & ~finite).sum()]
    )


def refuse_faults(counts: Tensor) -> None:
    """Raise if `faults` counted any, summed over tensors and ranks."""
    not_finite, not_unit = (int(count) for count in counts.tolist())
    if not_finite:
        raise InputError(
            f"{not_finite} feature rows hold NaN or infinity; lower the learning rate, or look at "
            "these samples."
        )
    if not_unit:
        raise InputError(
            f"{not_unit} feature rows are not of length one although normalize=False; pass "
            "normalize=True, or normalize them."
        )
