"""Rows of length one, and the precision that the losses compute in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def unit_rows(x: Tensor) -> Tensor:
    """Scale rows to length one, in float32 or better, for rows of any length.

    A zero row stays zero and its gradient stays bounded; a row that is not finite becomes NaN.

    Args:
        x: (..., D).

    Returns:
        (..., D), float32 for half precision, else of the dtype of ``x``.

    Example:
        >>> unit_rows(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    x = at_least_float32(x)
    if plain_only():
        return _unit_rows(x)[0]
    unit: Tensor = _UnitRows.apply(x)
    return unit


def _unit_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows, and their length, (..., 1)."""
    # Squares of large or tiny rows leave float32, so the largest entry is divided out first.
    largest = x.detach().abs().amax(-1, keepdim=True)  # (..., 1)
    largest = largest.masked_fill(largest == 0, 1)
    x = x / largest
    # The largest entry is now 1 except in a zero row, so the floor of 1/2 affects zero rows alone.
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(0.5)
    return x / length, length * largest


class _UnitRows(torch.autograd.Function):
    """The derivative of `_unit_rows` in few operations, which small batches notice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        unit, length = _unit_rows(x)
        ctx.save_for_backward(x, unit, length)
        return unit

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, unit, length = ctx.saved_tensors
        if torch.is_grad_enabled():  # for higher derivatives
            plain: Tensor = torch.func.vjp(lambda x: _unit_rows(x)[0], x)[1](grads[0])[0]
            return plain
        with full_precision(x):
            radial = torch.linalg.vecdot(unit, grads[0])[..., None]
            return torch.addcmul(grads[0], unit, radial, value=-1).div_(length)


# Not public; where a later torch lacks it, torch.func says itself what it cannot differentiate.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def plain_only() -> bool:
    """Whether torch.compile or torch.func is tracing, which need plain operations."""
    return torch.compiler.is_compiling() or _transforms_active()


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; leave float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Disable autocast on the device of ``x``."""
    if not torch.is_autocast_enabled(x.device.type):
        return nullcontext()  # small batches notice the other
    return torch.autocast(x.device.type, enabled=False)
