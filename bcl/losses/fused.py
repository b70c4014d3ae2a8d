"""The kernels of the losses over all pairs: when they run, how they are launched, differentiated.

Both functions have the results of their namesakes in `bcl.losses.blocks`, in memory that grows with
n D. The gradient of the rows and that of the columns each compute the pairs anew; where rows and
columns are the same tensor, the matrix is symmetric and one of them does for both.
"""

import functools
import math
import sys
from typing import Any

import torch
from torch import Tensor

from bcl.core.triton import runs_triton
from bcl.losses.dense import (
    LOG2_E,
    Scale,
    Sums,
    dense_gram,
    differentiate_dense,
    half_squares,
    partner_products,
    scaled,
)
from bcl.losses.temperatures import Reciprocal, SimilarityTemperature

# Rows that a program keeps: the most that leave two programs to each of some hundred processors. A
# table, not a search at run time, so that a run repeats to the bit.
_BLOCKS, _PROGRAMS = (64, 32, 16), 256
_STEP = 32  # entries that a product adds at a time
_PART = 256  # entries of a gradient that a program keeps at most
_FLOAT32 = "ieee"  # or "tf32x3": three products of halves on tensor cores, not timed yet


def takes(x: Tensor, scale: Scale) -> bool:
    """Whether kernels compute the pairs of ``x``; others take blocks or the dense form."""
    known = not callable(scale) or (
        isinstance(scale, Reciprocal) and type(scale.temperature) is SimilarityTemperature
    )
    return known and x.dtype == torch.float32 and x.numel() > 0 and runs_triton(x)


def gram_cross_entropy(z: Tensor, scale: Scale, log_mass: Tensor | None) -> Tensor:
    """As `bcl.losses.blocks.gram_cross_entropy`, at any scale."""
    losses: Tensor = _GramCrossEntropy.apply(z.contiguous(), scale, log_mass)
    return losses


def row_stats(x: Tensor, y: Tensor, sums: Sums, bank: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `bcl.losses.blocks.row_stats`."""
    stats: tuple[Tensor, Tensor] = _RowStats.apply(x.contiguous(), y, bank, sums)
    return stats


class _GramCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: Scale, log_mass: Tensor | None) -> Tensor:
        ctx.scale, ctx.form = scale, _form(Sums(scale, skip=0), len(z), paired=True)
        if log_mass is None:
            top, mass, positive = _stats(z, z, 1, ctx.form).unbind(0)  # (1, 2B) each, base 2
            rest = mass.log2()
            losses, log_mass = (top - positive + rest) / LOG2_E, top + rest
        else:
            losses, log_mass = log_mass - scaled(partner_products(z), scale), log_mass * LOG2_E
        ctx.save_for_backward(z, log_mass)
        return losses.view(2, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        z, log_mass = ctx.saved_tensors
        if torch.is_grad_enabled():  # for higher derivatives
            dense = functools.partial(dense_gram, scale=ctx.scale)
            return torch.func.vjp(dense, z)[1](grads[0])[0], None, None
        stats = torch.stack([log_mass.view(1, -1), grads[0].reshape(1, -1)])
        return _gradient(z, z, stats, ctx.form, of_rows=True, of_columns=True), None, None


class _RowStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, bank: Tensor | None, sums: Sums
    ) -> tuple[Tensor, Tensor]:
        columns = y.flatten(0, 1).contiguous()
        if bank is not None:  # a copy, since a queue may change before the backward pass
            columns = torch.cat([columns, bank])  # (M, D)
        ctx.sums, ctx.form = sums, _form(sums, len(columns) // len(y))
        top, mass, cost = _stats(x, columns, len(y), ctx.form).unbind(0)  # (S, n) each
        log_mass = top + mass.log2()
        ctx.save_for_backward(x, y, columns, log_mass, cost)
        return log_mass.T / LOG2_E, cost.T.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, columns, log_mass, cost = ctx.saved_tensors
        if torch.is_grad_enabled():  # for higher derivatives
            return *differentiate_dense(x, y, columns, ctx.sums, grads), None, None
        stats = torch.stack([log_mass, grads[0].T, cost, grads[1].T])  # (4, S, n)
        x_grad = y_grad = None
        how = ctx.form, ctx.sums.constant
        if ctx.needs_input_grad[0]:
            x_grad = _gradient(x, columns, stats, *how, of_rows=True)
        if ctx.needs_input_grad[1]:
            own = columns[: y.shape[0] * y.shape[1]]
            y_grad = _gradient(own, x, stats, *how, of_columns=True).view_as(y)
        return x_grad, y_grad, None, None


def _form(sums: Sums, columns: int, paired: bool = False) -> dict[str, Any]:
    """Name the arguments that both kernels take, for segments of so many columns."""
    numbers, function = (0.0, 0.0, 0.0, 0.0), "none"
    if isinstance(sums.scale, Reciprocal) and isinstance(
        (temperature := sums.scale.temperature), SimilarityTemperature
    ):
        offset, width, function = -1.0, 1.0, "cosine"
        if temperature.offset is not None:
            offset, width, function = temperature.offset, temperature.width, "plateau"
        numbers = temperature.low, temperature.high, offset, math.pi / width
    cost = "linear" if sums.rate is None else "exponential"
    return {
        "scale": 1.0 if callable(sums.scale) else float(sums.scale),
        **dict(zip(("low", "high", "offset", "turn"), map(float, numbers), strict=True)),
        "rate": float(sums.rate or 0.0),
        "skip": columns if sums.skip is None else sums.skip,  # no column lies so far off
        "function": function,
        "cost": "partner" if paired else cost if sums.cost else "none",
        "distance": sums.distance,
        "precision": _precision(),
    }


def _precision() -> str:
    """How kernels multiply float32: as PyTorch's own products may."""
    matmul = torch.backends.cuda.matmul
    allowed = getattr(matmul, "fp32_precision", None)  # the older name fails beside the new one
    tf32 = matmul.allow_tf32 if allowed is None else allowed == "tf32"
    return "tf32" if tf32 else _FLOAT32


def _block(rows: int, times: int) -> int:
    """Rows of a program, if each of them runs so many times."""
    return next((b for b in _BLOCKS if -(-rows // b) * times >= _PROGRAMS), _BLOCKS[-1])


def _half_squares(x: Tensor, form: dict[str, Any]) -> Tensor:
    return half_squares(x) if form["distance"] else x  # which the kernels do not read


def _stats(x: Tensor, columns: Tensor, segments: int, form: dict[str, Any]) -> Tensor:
    """Launch `stats_kernel`, to (3, S, n)."""
    from bcl.losses.kernel import stats_kernel

    (n, dim), block = x.shape, _block(len(x), segments)
    stats = x.new_empty(3, segments, n)
    with torch.cuda.device(x.device):
        stats_kernel[(-(-n // block), segments)](
            stats, x, columns, _half_squares(x, form), _half_squares(columns, form),
            n, len(columns) // segments, dim,
            **form, **_widths(dim), block=block, stream=64, num_warps=4,
        )  # fmt: skip
    return stats


def _gradient(
    a: Tensor, b: Tensor, stats: Tensor, form: dict[str, Any], constant: int = sys.maxsize,
    of_rows: bool = False, of_columns: bool = False,
) -> Tensor:  # fmt: skip
    """Launch `gradient_kernel`, to the gradient of a; ``stats`` (2, S, n), or (4, S, n)."""
    from bcl.losses.kernel import gradient_kernel

    dim, (segments, rows) = a.shape[1], stats.shape[1:]
    columns = len(b if of_rows else a) // segments
    count, grids = (rows, 1) if of_rows else (columns, segments)
    widths, block = _widths(dim), _block(count, grids)
    part, grad = min(widths["width"], _PART), torch.empty_like(a)
    with torch.cuda.device(a.device):
        gradient_kernel[(-(-count // block), grids, -(-dim // part))](
            grad, a, b, _half_squares(a, form), _half_squares(b, form), stats,
            rows, columns, segments, dim, min(constant, columns),
            **form, **widths, of_rows=of_rows, of_columns=of_columns, part=part, block=block,
            stream=32, num_warps=8 if block * part >= 64 * 128 else 4,
        )  # fmt: skip
    return grad


def _widths(dim: int) -> dict[str, int]:
    """Entries of a row as kernels see them, filled up with zeros to a power of two."""
    width = max(16, 1 << (dim - 1).bit_length())
    return {"width": width, "step": min(width, _STEP)}
