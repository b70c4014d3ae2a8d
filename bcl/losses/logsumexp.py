"""Log-sum-exp over the rows of a matrix of dot products that is never held as a whole.

Each is an operator of its own, so that torch.compile takes it as one node, with a backward
operator that recomputes block by block. Second derivatives go through the dense form: they are
right, and need the whole matrix.

Exponentials are to the base 2, which several CPUs compute many times faster than those to e.
"""

# ruff: noqa: ARG004, ARG005 -- autograd hooks and shape functions have given signatures

import math
from typing import Any

import torch
from torch import Tensor

from bcl.losses.blocks import (
    LN_2,
    LOG2_E,
    fill_own,
    full_precision,
    lowest,
    operator,
    own_pairs,
    row_blocks,
    rows_per_block,
)

# Pairs of a block that keep a device busy (64 MB of float32).
_DEVICE_PAIRS = 2**24


def row_logsumexp(
    x: Tensor, y: Tensor, skip: int | None = None, chunk_size: int | None = None
) -> Tensor:
    r"""Compute :math:`\log \sum_j \exp(x_i \cdot y_j)` for every row i.

    Args:
        x: (n, D).
        y: (m, D).
        skip: row i leaves out column i + ``skip`` (its own sample); None leaves out nothing.
        chunk_size: rows of a block, 0 for the dense form, None for a choice by size.

    Returns:
        (n,).
    """
    block = rows_per_block(x.shape[0], y.shape[0], x.device, chunk_size)
    if block == 0:
        return _dense_rows(x, y, skip)
    result: Tensor = _RowLogSumExp.apply(x, y, skip, block)
    return result


def gram_logsumexp(z: Tensor, chunk_size: int | None = None) -> Tensor:
    r"""Compute :math:`\log \sum_{j \ne i} \exp(z_i \cdot z_j)` for every row i.

    The matrix is symmetric: each pair is computed once and serves its row and its column.

    Args:
        z: (n, D).
        chunk_size: as in `row_logsumexp`.

    Returns:
        (n,).
    """
    n = z.shape[0]
    block = rows_per_block(n, n, z.device, chunk_size)
    if block == 0:
        return _dense_rows(z, z, 0)
    if chunk_size is None:  # the thinner the blocks, the less of the lower triangle is computed
        # A device would wait for the host between blocks that it is done with in no time.
        least = 128 if z.device.type == "cpu" else _DEVICE_PAIRS // n
        block = min(block, max(-(-n // 8), least))
    result: Tensor = _GramLogSumExp.apply(z, block)
    return result


def _dense_rows(x: Tensor, y: Tensor, skip: int | None) -> Tensor:
    logits = x @ y.T  # (n, m)
    if skip is not None:
        own = own_pairs(logits.shape[0], logits.shape[1], skip, logits.device)
        logits = logits.masked_fill(own, -math.inf)
    return logits.logsumexp(-1)


def _where(like: Tensor, wanted: bool) -> Tensor:
    return torch.empty_like(like) if wanted else like.new_empty(0)


@operator(
    "bcl::row_logsumexp",
    "(Tensor x, Tensor y, int? skip, int block) -> Tensor",
    lambda x, y, skip, block: x.new_empty(x.shape[0]),
)
def _rows(x: Tensor, y: Tensor, skip: int | None, block: int) -> Tensor:
    result = x.new_empty(x.shape[0])
    with full_precision(x):
        buffer = x.new_empty(block * y.shape[0])
        for start, stop in row_blocks(x.shape[0], block):
            logits = _logits(x[start:stop], y, buffer)  # (r, m), base 2
            fill_own(logits, skip, lowest(x.dtype), start)
            top = logits.amax(1, keepdim=True)
            mass = logits.sub_(top).exp2_().sum(1)
            torch.add(top.squeeze(1), mass.log2_(), out=result[start:stop])
    return result.mul_(LN_2)


@operator(
    "bcl::row_logsumexp_backward",
    "(Tensor grad, Tensor x, Tensor y, Tensor logsumexp, int? skip, int block, bool x_wanted, "
    "bool y_wanted) -> (Tensor, Tensor)",
    lambda _, x, y, logsumexp, skip, block, x_wanted, y_wanted: (
        _where(x, x_wanted),
        _where(y, y_wanted),
    ),
)
def _rows_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    logsumexp: Tensor,
    skip: int | None,
    block: int,
    x_wanted: bool,
    y_wanted: bool,
) -> tuple[Tensor, Tensor]:
    x_grad = torch.empty_like(x) if x_wanted else x.new_empty(0)
    y_grad = torch.zeros_like(y) if y_wanted else y.new_empty(0)
    with full_precision(x):
        buffer = x.new_empty(block * y.shape[0])
        base_2 = logsumexp * LOG2_E
        for start, stop in row_blocks(x.shape[0], block):
            rows = x[start:stop]
            share = _logits(rows, y, buffer).sub_(base_2[start:stop, None]).exp2_()  # (r, m)
            fill_own(share, skip, 0, start)
            share.mul_(grad[start:stop, None])
            if x_wanted:
                torch.mm(share, y, out=x_grad[start:stop])
            if y_wanted:
                y_grad.addmm_(share.T, rows)
    return x_grad, y_grad


@operator(
    "bcl::gram_logsumexp",
    "(Tensor z, int block) -> Tensor",
    lambda z, block: z.new_empty(z.shape[0]),
)
def _gram(z: Tensor, block: int) -> Tensor:
    n = z.shape[0]
    with full_precision(z):
        # Running maximum and sum of every row; a block adds to its rows, and by symmetry to the
        # rows below it, which then leave these columns out.
        top = z.new_full((n,), lowest(z.dtype))
        mass = z.new_zeros(n)
        buffer, other = z.new_empty(block * n), z.new_empty(block * n)
        for start, stop in row_blocks(n, block):
            logits = _logits(z[start:stop], z[start:], buffer)  # (r, n - start), base 2
            fill_own(logits, 0, lowest(z.dtype))
            _accumulate(logits, 1, top[start:stop], mass[start:stop], other)
            if stop < n:
                below = logits[:, stop - start :]  # (r, n - stop)
                _accumulate(below, 0, top[stop:], mass[stop:], other)
        return top.add_(mass.log2_()).mul_(LN_2)


@operator(
    "bcl::gram_logsumexp_backward",
    "(Tensor grad, Tensor z, Tensor logsumexp, int block) -> Tensor",
    lambda grad, z, logsumexp, block: torch.empty_like(z),
)
def _gram_backward(grad: Tensor, z: Tensor, logsumexp: Tensor, block: int) -> Tensor:
    n = z.shape[0]
    z_grad = torch.zeros_like(z)
    with full_precision(z):
        buffer, other = z.new_empty(block * n), z.new_empty(block * n)
        base_2 = logsumexp * LOG2_E
        for start, stop in row_blocks(n, block):
            rows, columns = z[start:stop], z[start:]
            logits = _logits(rows, columns, buffer)  # (r, n - start), base 2
            # Pair (i, j) counts in row i and, by symmetry, in row j.
            share = torch.sub(
                logits, base_2[start:stop, None], out=other[: logits.numel()].view_as(logits)
            )
            share.exp2_().mul_(grad[start:stop, None])
            logits.sub_(base_2[start:]).exp2_()
            share.addcmul_(logits, grad[start:])
            fill_own(share, 0, 0)
            z_grad[start:stop].addmm_(share, columns)
            if stop < n:
                z_grad[stop:].addmm_(share[:, stop - start :].T, rows)
    return z_grad


def _logits(rows: Tensor, columns: Tensor, buffer: Tensor) -> Tensor:
    """Dot products for exponentials to the base 2, written into ``buffer``."""
    shape = rows.shape[0], columns.shape[0]
    return torch.mm(rows * LOG2_E, columns.T, out=buffer[: shape[0] * shape[1]].view(shape))


def _accumulate(logits: Tensor, dim: int, top: Tensor, mass: Tensor, buffer: Tensor) -> None:
    """Take the logits along ``dim`` into running maxima and sums, in place."""
    highest = torch.maximum(top, logits.amax(dim))
    powers = torch.sub(
        logits, highest.unsqueeze(dim), out=buffer[: logits.numel()].view(logits.shape)
    ).exp2_()
    mass.mul_(top.sub_(highest).exp2_()).add_(powers.sum(dim))
    top.copy_(highest)


class _RowLogSumExp(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, skip: int | None, block: int) -> Tensor:
        result: Tensor = _rows(x, y, skip, block)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, y, ctx.skip, ctx.block = inputs
        ctx.save_for_backward(x, y, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, logsumexp = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        x_grad, y_grad = _RowLogSumExpBackward.apply(
            grads[0], x, y, logsumexp, ctx.skip, ctx.block, *wanted
        )
        return x_grad if wanted[0] else None, y_grad if wanted[1] else None, None, None


class _RowLogSumExpBackward(torch.autograd.Function):
    generate_vmap_rule = True

    # The arguments by name: torch.compile takes the first of (*inputs) for a context.
    @staticmethod
    def forward(
        grad: Tensor,
        x: Tensor,
        y: Tensor,
        logsumexp: Tensor,
        skip: int | None,
        block: int,
        x_wanted: bool,
        y_wanted: bool,
    ) -> tuple[Tensor, Tensor]:
        grads: tuple[Tensor, Tensor] = _rows_backward(
            grad, x, y, logsumexp, skip, block, x_wanted, y_wanted
        )
        return grads

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        grad, x, y, _, ctx.skip, _, *ctx.wanted = inputs
        ctx.save_for_backward(grad, x, y)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        def first(grad: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
            grads = torch.func.vjp(lambda a, b: _dense_rows(a, b, ctx.skip), x, y)[1](grad)
            return [g for g, wanted in zip(grads, ctx.wanted, strict=True) if wanted]

        given = [c for c, wanted in zip(cotangents, ctx.wanted, strict=True) if wanted]
        second = torch.func.vjp(first, *ctx.saved_tensors)[1](given)
        return *second, None, None, None, None, None


class _GramLogSumExp(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, block: int) -> Tensor:
        result: Tensor = _gram(z, block)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, ctx.block = inputs
        ctx.save_for_backward(z, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, logsumexp = ctx.saved_tensors
        return _GramLogSumExpBackward.apply(grads[0], z, logsumexp, ctx.block), None


class _GramLogSumExpBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, z: Tensor, logsumexp: Tensor, block: int) -> Tensor:
        result: Tensor = _gram_backward(grad, z, logsumexp, block)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, z, _, _ = inputs
        ctx.save_for_backward(grad, z)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        def first(grad: Tensor, z: Tensor) -> Tensor:
            z_grad: Tensor = torch.func.vjp(lambda a: _dense_rows(a, a, 0), z)[1](grad)[0]
            return z_grad

        return *torch.func.vjp(first, *ctx.saved_tensors)[1](cotangents[0]), None, None
