r"""Softmin-weighted cost of a row against many columns, without the matrix of all pairs.

For unit rows :math:`x_i` and columns :math:`y_j` with :math:`c_{ij} = \lVert x_i - y_j\rVert^2`,

.. math:: r_i = \sum_j w_{ij} h(c_{ij}), \qquad w_{ij} = \mathrm{softmax}_j(-t c_{ij})

where h is the identity (Euclidean cost) or :math:`\exp(-s c)` (RBF cost); t = 0 gives uniform
weights. The distances come from dot products, block by block, and again in the backward pass.
"""

# ruff: noqa: ARG004, ARG005 -- autograd hooks and shape functions have given signatures

from typing import Any

import torch
from torch import Tensor

from bcl._rows import (
    LOG2_E,
    fill_own,
    full_precision,
    lowest,
    operator,
    own_pairs,
    row_blocks,
    rows_per_block,
)


def softmin_cost(
    x: Tensor,
    y: Tensor,
    bank: Tensor | None = None,
    *,
    skip: int,
    temperature: float,
    rbf_scale: float | None = None,
    constant_from: int | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Compute r of the module's first lines, once for each segment of columns.

    Args:
        x: (n, D).
        y: (S, N, D), S segments of N columns, each with weights of its own.
        bank: (Q, D) more columns, without gradient, that join the one segment.
        skip: row i leaves out column i + ``skip`` of every segment (its own sample).
        temperature: t.
        rbf_scale: s; None for the Euclidean cost.
        constant_from: columns from this one on have weights without gradient.
        chunk_size: rows of a block, 0 for the dense form, None for a choice by size.

    Returns:
        (n, S).
    """
    segments, columns = y.shape[0], y.shape[1] + (0 if bank is None else bank.shape[0])
    constant_from = columns if constant_from is None else constant_from
    block = rows_per_block(x.shape[0], segments * columns, x.device, chunk_size)
    if block == 0:
        return dense_cost(x, y, bank, skip, temperature, rbf_scale, constant_from)
    result: Tensor = _SoftminCost.apply(
        x, y, bank, skip, temperature, rbf_scale, constant_from, block
    )[0]
    return result


def dense_cost(
    x: Tensor,
    y: Tensor,
    bank: Tensor | None,
    skip: int,
    temperature: float,
    rbf_scale: float | None,
    constant_from: int,
) -> Tensor:
    """`softmin_cost` in plain PyTorch, with the whole matrix."""
    weights, distance = dense_weights(x, y, bank, skip, temperature, constant_from)
    cost = distance if rbf_scale is None else (-rbf_scale * distance).exp()
    return (weights * cost).sum(-1)


def dense_weights(
    x: Tensor,
    y: Tensor,
    bank: Tensor | None,
    skip: int,
    temperature: float,
    constant_from: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Weights and squared distances of all pairs, each (n, S, N + Q)."""
    if bank is not None:
        y = torch.cat([y, bank[None]], 1)
    norms = x.square().sum(-1)[:, None, None] + y.square().sum(-1)  # (n, S, N)
    distance = norms - 2 * torch.einsum("nd,smd->nsm", x, y)
    logits = -temperature * distance
    if constant_from is not None and constant_from < y.shape[1]:
        logits = torch.cat([logits[..., :constant_from], logits[..., constant_from:].detach()], -1)
    own = own_pairs(x.shape[0], y.shape[1], skip, x.device)  # (n, N)
    return logits.masked_fill(own[:, None], float("-inf")).softmax(-1), distance


@operator(
    "cacr::softmin_cost",
    "(Tensor x, Tensor y, Tensor? bank, int skip, float temperature, float? rbf_scale, int block) "
    "-> (Tensor, Tensor)",
    lambda x, y, *_: (x.new_empty(len(x), len(y)), x.new_empty(len(x), len(y))),
)
def _cost(
    x: Tensor,
    y: Tensor,
    bank: Tensor | None,
    skip: int,
    temperature: float,
    rbf_scale: float | None,
    block: int,
) -> tuple[Tensor, Tensor]:
    n, segments = x.shape[0], y.shape[0]
    result, log_mass = x.new_empty(n, segments), x.new_empty(n, segments)
    with full_precision(x):
        distances = _Distances(x, y, bank, block)
        for start, stop in row_blocks(n, block):
            distance, other = distances(start, stop)  # (r, S, N + Q)
            logits = torch.mul(distance, -temperature * LOG2_E, out=other)  # base 2
            fill_own(logits, skip, lowest(x.dtype), start)
            top = logits.amax(-1, keepdim=True)
            weights = logits.sub_(top).exp2_()
            mass = weights.sum(-1)  # (r, S)
            cost = distance
            if rbf_scale is not None:
                cost = distance.mul_(-rbf_scale * LOG2_E).exp2_()
            torch.div(cost.mul_(weights).sum(-1), mass, out=result[start:stop])
            torch.add(top.squeeze(-1), mass.log2_(), out=log_mass[start:stop])
    return result, log_mass


@operator(
    "cacr::softmin_cost_backward",
    "(Tensor grad, Tensor x, Tensor y, Tensor? bank, Tensor result, Tensor log_mass, int skip, "
    "float temperature, float? rbf_scale, int constant_from, int block, bool x_wanted, "
    "bool y_wanted) -> (Tensor, Tensor)",
    lambda grad, x, y, *others: (
        torch.empty_like(x) if others[-2] else x.new_empty(0),
        y.new_empty(y.shape) if others[-1] else x.new_empty(0),
    ),
)
def _cost_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    bank: Tensor | None,
    result: Tensor,
    log_mass: Tensor,
    skip: int,
    temperature: float,
    rbf_scale: float | None,
    constant_from: int,
    block: int,
    x_wanted: bool,
    y_wanted: bool,
) -> tuple[Tensor, Tensor]:
    columns = y.flatten(0, 1)  # (S N, D)
    x_grad = torch.empty_like(x) if x_wanted else x.new_empty(0)
    y_grad = torch.zeros_like(columns) if y_wanted else x.new_empty(0)
    with full_precision(x):
        distances = _Distances(x, y, bank, block)
        y_mass = y.new_zeros(columns.shape[0])
        for start, stop in row_blocks(x.shape[0], block):
            rows = x[start:stop]
            distance, other = distances(start, stop)  # (r, S, N + Q)
            share = torch.mul(distance, -temperature * LOG2_E, out=other)
            share.sub_(log_mass[start:stop, :, None]).exp2_()  # the weights
            fill_own(share, skip, 0, start)
            share.mul_(grad[start:stop, :, None])
            # d r / d c_j = w_j (h'(c_j) - t (h(c_j) - r)), without the second part where the
            # weights are constant.
            pull = (temperature * result[start:stop])[..., None]  # (r, S, 1)
            fixed = distance[..., constant_from:]
            if rbf_scale is None:
                slope = distance.mul_(-temperature).add_(1 + pull)
                fixed.fill_(1)
            else:
                slope = distance.mul_(-rbf_scale * LOG2_E).exp2_()
                tail = fixed * -rbf_scale
                slope.mul_(-rbf_scale - temperature).add_(pull)
                fixed.copy_(tail)
            flat = share.mul_(slope).flatten(1)  # (r, S N + Q): d loss / d c
            near, far = flat[:, : columns.shape[0]], flat[:, columns.shape[0] :]
            if x_wanted:  # d c_ij / d x_i = 2 (x_i - y_j)
                part = torch.mul(rows, flat.sum(1, keepdim=True), out=x_grad[start:stop])
                part.addmm_(near, columns, alpha=-1)
                if bank is not None:
                    part.addmm_(far, bank, alpha=-1)
            if y_wanted:
                y_mass.add_(near.sum(0))
                y_grad.addmm_(near.T, rows, alpha=-1)
        if x_wanted:
            x_grad.mul_(2)
        if y_wanted:
            y_grad.addcmul_(columns, y_mass[:, None]).mul_(2)
    return x_grad, y_grad.view_as(y) if y_wanted else y_grad


class _Distances:
    """Squared distances of a block of rows to all columns, in buffers that are used again."""

    def __init__(self, x: Tensor, y: Tensor, bank: Tensor | None, block: int) -> None:
        self.x, self.columns, self.bank = x, y.flatten(0, 1), bank
        norms = self.columns.square().sum(-1)  # (S N,)
        if bank is not None:
            norms = torch.cat([norms, bank.square().sum(-1)])
        self.x_norms, self.norms = x.square().sum(-1, keepdim=True), norms
        self.segments = y.shape[0]
        self.buffers = x.new_empty(2, min(block, x.shape[0]) * norms.numel())

    def __call__(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Fill the first buffer; return both as (r, S, N + Q)."""
        shape = stop - start, self.norms.numel()
        flat, other = (buffer[: shape[0] * shape[1]].view(shape) for buffer in self.buffers)
        torch.add(self.x_norms[start:stop], self.norms, out=flat)
        near = self.columns.shape[0]
        flat[:, :near].addmm_(self.x[start:stop], self.columns.T, alpha=-2)
        if self.bank is not None:
            flat[:, near:].addmm_(self.x[start:stop], self.bank.T, alpha=-2)
        shape_3 = shape[0], self.segments, shape[1] // self.segments
        return flat.view(shape_3), other.view(shape_3)


class _SoftminCost(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        bank: Tensor | None,
        skip: int,
        temperature: float,
        rbf_scale: float | None,
        constant_from: int,
        block: int,
    ) -> tuple[Tensor, Tensor]:
        both: tuple[Tensor, Tensor] = _cost(x, y, bank, skip, temperature, rbf_scale, block)
        return both

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, y, bank, *ctx.settings = inputs
        ctx.save_for_backward(x, y, bank, *output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:2]
        both = _SoftminCostBackward.apply(grads[0], *ctx.saved_tensors, *ctx.settings, *wanted)
        shares = [grad if yes else None for grad, yes in zip(both, wanted, strict=True)]
        return *shares, None, None, None, None, None, None


class _SoftminCostBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        both: tuple[Tensor, Tensor] = _cost_backward(*inputs)
        return both

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        grad, x, y, bank, _, _, *ctx.settings, _, x_wanted, y_wanted = inputs
        ctx.wanted = x_wanted, y_wanted
        ctx.save_for_backward(grad, x, y, bank)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        grad, x, y, bank = ctx.saved_tensors

        def keep(pair: tuple[Tensor, ...]) -> list[Tensor]:
            return [part for part, yes in zip(pair, ctx.wanted, strict=True) if yes]

        def first(grad: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
            grads = torch.func.vjp(lambda a, b: dense_cost(a, b, bank, *ctx.settings), x, y)[1](
                grad
            )
            return keep(grads)

        second = torch.func.vjp(first, grad, x, y)[1](keep(cotangents))
        return *second, *(None,) * 10
