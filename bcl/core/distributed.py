"""Collectives for the losses and the memory, with the gradient that one process would have.

Without a process group every function is the identity, so callers need no branches.
"""

# ruff: noqa: ARG004 -- autograd hooks have the signatures torch calls

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bcl.core.errors import InputError


def world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def row_counts(rows: Tensor) -> list[int]:
    """Collect every rank's number of rows.

    Args:
        rows: (n, ...) this rank's rows.

    Returns:
        The numbers in rank order, the same on every rank.

    Example:
        >>> row_counts(torch.zeros(3, 2))
        [3]
    """
    if world_size() == 1:
        return [rows.shape[0]]
    mine = torch.tensor([rows.shape[0]], device=rows.device)
    sizes = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(sizes, mine)
    return [int(count) for count in torch.cat(sizes).tolist()]


def gather_rows(rows: Tensor, counts: list[int] | None = None) -> Tensor:
    r"""Concatenate the ranks' rows in rank order; ranks may have unequal numbers of rows.

    The gradient of the result is summed over the ranks: if every rank computes its share
    :math:`L_r` of a loss from the gathered rows, each row receives
    :math:`\sum_r \partial L_r / \partial x`, the gradient of the whole. It can be differentiated
    any number of times. All ranks must call it, and all must run the backward pass or none.

    Args:
        rows: (n, ...) this rank's rows; the other dimensions and the dtype agree between ranks.
        counts: the result of `row_counts`, if the caller has it already.

    Returns:
        (N, ...) with N the sum of the ranks' n.

    Raises:
        InputError: ``counts`` does not fit the process group or this rank's rows.

    Example:
        >>> gather_rows(torch.arange(3.0))
        tensor([0., 1., 2.])
    """
    if world_size() == 1:
        return rows
    counts = row_counts(rows) if counts is None else counts
    if len(counts) != world_size() or counts[rank()] != rows.shape[0]:
        raise InputError(
            f"counts {counts} do not fit {world_size()} ranks of which rank {rank()} has "
            f"{rows.shape[0]} rows; pass what row_counts(rows) returns, or nothing."
        )
    gathered: Tensor = _GatherRows.apply(rows, counts)
    return gathered


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum a tensor over the ranks; so is the gradient.

    Args:
        value: of the same shape on every rank.

    Returns:
        The sum, the same on every rank.

    Example:
        >>> sum_over_ranks(torch.tensor(2.0))
        tensor(2.)
    """
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
