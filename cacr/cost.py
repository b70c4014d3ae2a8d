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

from bcl.losses.blocks import (
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
    even: bool = True,
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
        even: whether all rows will most likely weigh the same in the loss; then a CPU prepares the
            gradient along with the value, which saves the recomputation.

    Returns:
        (n, S).
    """
    segments, columns = y.shape[0], y.shape[1] + (0 if bank is None else bank.shape[0])
    constant_from = columns if constant_from is None else constant_from
    block = rows_per_block(x.shape[0], segments * columns, x.device, chunk_size)
    if block == 0:
        return dense_cost(x, y, bank, skip, temperature, rbf_scale, constant_from)
    # A GPU would have to stop to see whether the rows did weigh the same.
    ready = even and x.device.type == "cpu" and torch.is_grad_enabled()
    ready = ready and not torch.compiler.is_compiling()
    result: Tensor = _SoftminCost.apply(
        x, y, bank, skip, temperature, rbf_scale, constant_from, block,
        ready and x.requires_grad, ready and y.requires_grad,
    )[0]  # fmt: skip
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
    "(Tensor x, Tensor y, Tensor? bank, int skip, float temperature, float? rbf_scale, "
    "int constant_from, int block, bool x_wanted, bool y_wanted) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    lambda x, y, *others: (
        x.new_empty(len(x), len(y)),
        x.new_empty(len(x), len(y)),
        x.new_empty((_x_parts(y, others[3]), *x.shape) if others[-2] else 0),
        y.new_empty(y.shape if others[-1] else 0),
    ),
)
def _cost(
    x: Tensor,
    y: Tensor,
    bank: Tensor | None,
    skip: int,
    temperature: float,
    rbf_scale: float | None,
    constant_from: int,
    block: int,
    x_wanted: bool,
    y_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute r and the weights' log-mass, and on request d r / d x and d r / d y.

    The latter are of the sum over rows: what the backward pass needs if all rows weigh the same,
    and cheap here, where the block of distances is at hand. That of x, (S or 1, n, D), is also
    summed over segments where those will weigh the same, as with the Euclidean cost.
    """
    n, segments = x.shape[0], y.shape[0]
    result, log_mass = x.new_empty(n, segments), x.new_empty(n, segments)
    x_grad = x.new_zeros((_x_parts(y, rbf_scale), *x.shape) if x_wanted else 0)
    with full_precision(x):
        distances = _Distances(x, y, bank, block)
        gradient = _Gradient(y, bank, y_wanted)
        for start, stop in row_blocks(n, block):
            distance, other, third = distances(start, stop)  # (r, S, N + Q)
            logits = torch.mul(distance, -temperature * LOG2_E, out=other)  # base 2
            fill_own(logits, skip, lowest(x.dtype), start)
            top = logits.amax(-1, keepdim=True)
            weights = logits.sub_(top).exp2_()
            mass = weights.sum(-1)  # (r, S)
            if rbf_scale is None:
                cost = torch.mul(distance, weights, out=third)
            else:
                cost = torch.mul(distance, -rbf_scale * LOG2_E, out=third).exp2_().mul_(weights)
            torch.div(cost.sum(-1), mass, out=result[start:stop])
            if x_wanted or y_wanted:
                slopes = _slopes(
                    distance, weights, result[start:stop], 1 / mass, temperature, rbf_scale,
                    constant_from,
                )  # fmt: skip
                parts = x_grad[:, start:stop].expand(segments, -1, -1) if x_wanted else None
                gradient.add(slopes, x[start:stop], parts)
            torch.add(top.squeeze(-1), mass.log2_(), out=log_mass[start:stop])
    return result, log_mass, x_grad.mul_(2), gradient.of_columns()


@operator(
    "cacr::softmin_cost_backward",
    "(Tensor grad, Tensor x, Tensor y, Tensor? bank, Tensor result, Tensor log_mass, int skip, "
    "float temperature, float? rbf_scale, int constant_from, int block, bool x_wanted, "
    "bool y_wanted) -> (Tensor, Tensor)",
    lambda grad, x, y, *others: (
        x.new_empty(x.shape if others[-2] else 0),
        y.new_empty(y.shape if others[-1] else 0),
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
    x_grad = x.new_zeros(x.shape if x_wanted else 0)
    with full_precision(x):
        distances = _Distances(x, y, bank, block)
        gradient = _Gradient(y, bank, y_wanted)
        for start, stop in row_blocks(x.shape[0], block):
            distance, other, _ = distances(start, stop)  # (r, S, N + Q)
            weights = torch.mul(distance, -temperature * LOG2_E, out=other)
            weights.sub_(log_mass[start:stop, :, None]).exp2_()
            fill_own(weights, skip, 0, start)
            slopes = _slopes(
                distance, weights, result[start:stop], grad[start:stop], temperature, rbf_scale,
                constant_from,
            )  # fmt: skip
            parts = x_grad[start:stop].expand(len(y), -1, -1) if x_wanted else None
            gradient.add(slopes, x[start:stop], parts)
    return x_grad.mul_(2), gradient.of_columns()


def _x_parts(y: Tensor, rbf_scale: float | None) -> int:
    return 1 if rbf_scale is None else len(y)


def _slopes(
    distance: Tensor,
    weights: Tensor,
    result: Tensor,
    factor: Tensor,
    temperature: float,
    rbf_scale: float | None,
    constant_from: int,
) -> Tensor:
    """Turn weights into ``factor`` times d r / d c, in place; ``distance`` is overwritten.

    d r / d c_j = w_j (h'(c_j) - t (h(c_j) - r)), without the second part where the weights are
    constant.
    """
    factor = factor[..., None]  # (r, S, 1)
    pull = temperature * result[..., None] * factor
    constant = distance[..., constant_from:]
    if rbf_scale is None:
        slope = distance.mul_(-temperature * factor).add_(factor + pull)
        constant.copy_(factor.expand_as(constant))
    else:
        slope = distance.mul_(-rbf_scale * LOG2_E).exp2_()
        rest = constant * (-rbf_scale * factor)
        slope.mul_((-rbf_scale - temperature) * factor).add_(pull)
        constant.copy_(rest)
    return weights.mul_(slope)


class _Gradient:
    """Sums of slopes times d c_ij / d x_i = 2 (x_i - y_j), and the negative for y_j."""

    def __init__(self, y: Tensor, bank: Tensor | None, y_wanted: bool) -> None:
        self.y, self.bank, self.y_wanted = y, bank, y_wanted
        self.y_grad = y.new_zeros(y.shape if y_wanted else 0)  # (S, N, D)
        self.y_mass = y.new_zeros(y.shape[:2])  # (S, N)

    def add(self, slopes: Tensor, rows: Tensor, x_parts: Tensor | None) -> None:
        """Add a block.

        Args:
            slopes: (r, S, N + Q).
            rows: (r, D).
            x_parts: (S, r, D), what half of each segment's gradient is added to; the segments may
                share memory.
        """
        for s, columns in enumerate(self.y):
            every = slopes[:, s]  # (r, N + Q)
            near, far = every[:, : len(columns)], every[:, len(columns) :]
            if x_parts is not None:
                x_parts[s].addcmul_(rows, every.sum(1, keepdim=True))
                x_parts[s].addmm_(near, columns, alpha=-1)
                if self.bank is not None:
                    x_parts[s].addmm_(far, self.bank, alpha=-1)
            if self.y_wanted:
                self.y_mass[s].add_(near.sum(0))
                self.y_grad[s].addmm_(near.T, rows, alpha=-1)

    def of_columns(self) -> Tensor:
        """(S, N, D), or empty if not wanted."""
        if self.y_wanted:
            self.y_grad.addcmul_(self.y, self.y_mass[..., None]).mul_(2)
        return self.y_grad


class _Distances:
    """Squared distances of a block of rows to all columns, in buffers that are used again."""

    def __init__(self, x: Tensor, y: Tensor, bank: Tensor | None, block: int) -> None:
        self.x, self.columns, self.bank = x, y.flatten(0, 1), bank
        norms = self.columns.square().sum(-1)  # (S N,)
        if bank is not None:
            norms = torch.cat([norms, bank.square().sum(-1)])
        self.x_norms, self.norms = x.square().sum(-1, keepdim=True), norms
        self.segments = y.shape[0]
        self.buffers = x.new_empty(3, min(block, x.shape[0]) * norms.numel())

    def __call__(self, start: int, stop: int) -> list[Tensor]:
        """Fill the first of three buffers; return them as (r, S, N + Q)."""
        shape = stop - start, self.norms.numel()
        buffers = [buffer[: shape[0] * shape[1]].view(shape) for buffer in self.buffers]
        flat = buffers[0]
        torch.add(self.x_norms[start:stop], self.norms, out=flat)
        near = self.columns.shape[0]
        flat[:, :near].addmm_(self.x[start:stop], self.columns.T, alpha=-2)
        if self.bank is not None:
            flat[:, near:].addmm_(self.x[start:stop], self.bank.T, alpha=-2)
        shape_3 = shape[0], self.segments, shape[1] // self.segments
        return [buffer.view(shape_3) for buffer in buffers]


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
        x_wanted: bool,
        y_wanted: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        results: tuple[Tensor, Tensor, Tensor, Tensor] = _cost(
            x, y, bank, skip, temperature, rbf_scale, constant_from, block, x_wanted, y_wanted
        )
        return results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, y, bank, *ctx.settings, x_ready, y_ready = inputs
        ctx.ready = x_ready or y_ready
        ctx.save_for_backward(x, y, bank, *output)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:2]
        *saved, x_ready, y_ready = ctx.saved_tensors
        # Derivatives of the derivative need it as a function of its inputs, not as a number.
        parts = len(x_ready) if wanted[0] else grads[0].shape[1]
        if ctx.ready and not torch.is_grad_enabled() and _agree(grads[0], parts):
            weight = grads[0][0][:, None, None]  # (S, 1, 1)
            both = [
                (weight[:parts] * x_ready).sum(0) if wanted[0] else None,
                weight * y_ready if wanted[1] else None,
            ]
        else:
            both = _SoftminCostBackward.apply(grads[0], *saved, *ctx.settings, *wanted)
        shares = [grad if yes else None for grad, yes in zip(both, wanted, strict=True)]
        return *shares, *(None,) * 8


def _agree(grad: Tensor, parts: int) -> bool:
    """Whether all rows of (n, S) are equal, and if there is one part for all segments, they too."""
    try:
        return bool((grad == grad[:1, : None if parts == grad.shape[1] else 1]).all())
    except RuntimeError:  # within torch.func.vmap a value cannot be looked at
        return False


class _SoftminCostBackward(torch.autograd.Function):
    generate_vmap_rule = True

    # The arguments by name: torch.compile takes the first of (*inputs) for a context.
    @staticmethod
    def forward(
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
        both: tuple[Tensor, Tensor] = _cost_backward(
            grad,
            x,
            y,
            bank,
            result,
            log_mass,
            skip,
            temperature,
            rbf_scale,
            constant_from,
            block,
            x_wanted,
            y_wanted,
        )
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
