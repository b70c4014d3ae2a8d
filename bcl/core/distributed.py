"""Collectives for the losses and the memory, with the gradient that one process would have.

Without a process group every function is the identity, so callers need no branches.
"""

# ruff: noqa: ARG004 -- autograd hooks have the signatures torch calls

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def row_counts(rows: Tensor) -> list[int]:
    """Return every rank's number of rows (n, ...), in rank order."""
    if world_size() == 1:
        return [rows.shape[0]]
    mine = torch.tensor([rows.shape[0]], device=rows.device)
    sizes = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(sizes, mine)
    return [int(count) for count in torch.cat(sizes).tolist()]


def gather_rows(rows: Tensor, counts: list[int] | None = None) -> Tensor:
    r"""Concatenate the ranks' rows (n, ...) in rank order to (N, ...); n may differ by rank.

    If every rank computes its share :math:`L_r` of a loss from the result, each row receives the
    gradient of the whole, :math:`\sum_r \partial L_r / \partial x`, to any order. All ranks must
    call this, and all must run the backward pass or none. ``counts`` comes from `row_counts`.
    """
    if world_size() == 1:
        return rows
    counts = row_counts(rows) if counts is None else counts
    assert len(counts) == world_size(), "counts do not fit the process group"
    assert counts[rank()] == rows.shape[0], "counts do not fit this rank's rows"
    gathered: Tensor = _GatherRows.apply(rows, counts)
    return gathered


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum a tensor of the same shape over the ranks; its gradient is summed too."""
    if world_size() == 1:
        return value
    total: Tensor = _SumOverRanks.apply(value)
    return total


def _all_gather(rows: Tensor, counts: list[int]) -> Tensor:
    longest = max(counts)
    if min(counts) < longest:
        padding = rows.new_zeros(longest - rows.shape[0], *rows.shape[1:])
        rows = torch.cat([rows, padding])
    gathered = [torch.empty_like(rows) for _ in counts]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return _all_gather(rows, counts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _ReduceRows.apply(grads[0], ctx.counts), None


class _ReduceRows(torch.autograd.Function):
    """Adjoint of the gather: sum over the ranks and keep this rank's rows."""

    @staticmethod
    def forward(ctx: Any, gathered: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        total = gathered.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = sum(counts[: rank()])
        return total[start : start + counts[rank()]].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _GatherRows.apply(grads[0], ctx.counts), None


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad: Tensor = _SumOverRanks.apply(grads[0])
        return grad
