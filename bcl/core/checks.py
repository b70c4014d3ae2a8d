"""Checks of arguments, for the public functions and the settings of every room."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from numbers import Real
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bcl.core.errors import InputError, unknown_name

TensorLike = Tensor | ArrayLike | Sequence[Tensor]  # what `as_tensor` takes


def as_tensor(name: str, values: TensorLike) -> Tensor:
    """Make a tensor of what a user gave where a tensor is meant.

    A tensor stays what it is. A list of tensors is stacked, which keeps gradients; other lists and
    arrays are copied, with the types that ``torch.tensor`` gives them (float64 arrays stay so).

    Raises:
        InputError: rows of unequal length, or values that are no numbers.

    Example:
        >>> as_tensor("losses", [1.0, 2.0])
        tensor([1., 2.])
    """
    if isinstance(values, Tensor):
        return values
    try:
        if isinstance(values, list | tuple):
            if values and all(isinstance(each, Tensor) for each in values):
                return torch.stack(values)
            if not any(hasattr(each, "__array__") for each in values):
                return torch.tensor(values)
        array = np.asarray(values)
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} must be a tensor, an array or a list of numbers, got {values!r:.80} "
            f"({type(values).__name__}): {error}."
        ) from error


def as_labels(*sets: TensorLike) -> list[Tensor]:
    """Return the labels of several sets as tensors; names are numbered in their sorted order.

    Raises:
        InputError: as `as_tensor`, or names beside numbers.

    Example:
        >>> as_labels(["fox", "cat"], ["cat"])
        [tensor([1, 0]), tensor([0])]
    """
    first = [next(iter(each), None) if isinstance(each, Iterable) else None for each in sets]
    if not any(isinstance(each, str) for each in first):
        return [as_tensor("labels", each) for each in sets]
    if not all(isinstance(each, str) for each in first):
        raise InputError(
            f"labels are names in one set and numbers in another, first {first}; give names in all "
            "sets, or numbers."
        )
    rows = [np.asarray(each).astype(str) for each in sets]
    numbers = np.unique(np.concatenate(rows), return_inverse=True)[1]
    return list(torch.split(torch.from_numpy(numbers), [len(each) for each in rows]))


def as_ids(values: TensorLike, batch: int) -> Tensor:
    """Return sample ids (B,) as int64; refuse others."""
    ids = as_tensor("ids", values)
    if ids.shape != (batch,) or ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(
            f"ids must be integers of shape (B,) = ({batch},), got {tuple(ids.shape)} of "
            f"{ids.dtype}."
        )
    return ids.to(torch.int64)


def as_features(name: str, values: TensorLike, shape: str) -> Tensor:
    """Return floating-point features with the dimensions of a ``"(V, B, D)"``; refuse others."""
    x, ndim = as_tensor(name, values), shape.count(",") + 1
    if x.ndim != ndim or x.shape[-1] == 0 or not x.is_floating_point():
        step = "torch.stack the projector's outputs" if ndim > 2 else "pass the projector's output"
        raise InputError(
            f"{name} must be of shape {shape} and floating point, got {tuple(x.shape)} of "
            f"{x.dtype}; {step}."
        )
    return x


def check_together(reference: tuple[str, Tensor], others: Mapping[str, Tensor | None]) -> None:
    """Refuse tensors, by name, whose device or width differs from the reference's; skip None."""
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


def check_positive(
    name: str,
    value: float | Tensor,
    zero: bool = False,
    step: str | None = None,
    several: bool = False,
) -> None:
    """Refuse a number that is not finite and above 0 (or 0, if ``zero``).

    It may stand in a tensor, and there may be ``several`` in one. The error ends with ``step``,
    what to do. Values on a GPU are not checked: that would stop the device at every step.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1 and not several:
            raise InputError(f"{name} must be one number, got a tensor {tuple(value.shape)}.")
        if value.device.type != "cpu" or torch.compiler.is_compiling():
            return
        try:
            low, high = value.detach().aminmax()
            value = float(high if high == inf else low)
        except RuntimeError:  # torch.func.vmap hides values
            return
    is_number = isinstance(value, Real)
    if not is_number or not (0 < value < inf or (zero and value == 0)):  # NaN, too
        bound = "at least 0" if zero else "above 0"
        if several and not isinstance(value, Real | str):
            step = "pass several as a tensor"
        hint = f"; {step}" if step else ""
        raise InputError(f"{name} must be a finite number {bound}, got {value!r}{hint}.")


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Refuse anything but a number in [low, high]."""
    if not isinstance(value, Real) or not low <= value <= high:
        raise InputError(f"{name} must be a number in [{low}, {high}], got {value!r}.")


def check_count(name: str, value: int, at_least: int = 1) -> None:
    """Refuse anything but an integer of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise InputError(f"{name} must be an integer of at least {at_least}, got {value!r}.")


def check_choice(kind: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a name that is not allowed; the error suggests the nearest that is."""
    if value not in allowed:
        raise unknown_name(kind, str(value), allowed)


def check_types(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Refuse arguments of ``function``, by name, that are not of its annotated types."""
    for name, hint in get_type_hints(function).items():
        if name in values and not isinstance(values[name], hint):
            allowed = " | ".join(each.__name__ for each in get_args(hint) or [hint])
            raise InputError(
                f"{name} must be {allowed.replace('NoneType', 'None')}, got {values[name]!r}."
            )


def check_chunk_size(chunk_size: int | None) -> None:
    """Refuse anything but a number of rows, 0 (dense) or None (chosen by size)."""
    if chunk_size is not None:
        check_count("chunk_size", chunk_size, at_least=0)
