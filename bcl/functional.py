"""NT-Xent as a function: per sample, exact across ranks."""

from typing import Literal

import torch
from torch import Tensor

from bcl._rows import at_least_float32, row_logsumexp, unit_rows
from bcl.distributed import gather_rows, rank, row_counts, world_size
from bcl.errors import InputError, unknown_name

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "none")


def reduce_samples(losses: Tensor, reduction: Reduction, total: int | None = None) -> Tensor:
    """Reduce this rank's per-sample losses so that the ranks' mean is the whole batch's loss.

    Args:
        losses: (B,) losses of this rank's samples.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        total: samples on all ranks together; None where nothing was gathered.

    Returns:
        () or (B,).
    """
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if total is None:
        return losses.mean()
    return losses.sum() * (world_size() / total)


def nt_xent(
    z1: Tensor,
    z2: Tensor,
    temperature: float | Tensor = 0.2,
    *,
    reduction: Reduction = "mean",
    gather: bool = True,
    chunk_size: int | None = None,
) -> Tensor:
    """NT-Xent of two views."""
    if reduction not in REDUCTIONS:
        raise unknown_name("reduction", reduction, REDUCTIONS)
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise InputError(
            f"z1 and z2 must both be of shape (B, D), got {tuple(z1.shape)} and {tuple(z2.shape)}."
        )
    spread = gather and world_size() > 1
    with torch.autocast(z1.device.type, enabled=False):
        z = unit_rows(torch.stack([z1, z2]))  # (2, B, D)
        counts = row_counts(z1) if spread else [z1.shape[0]]
        total, start = sum(counts), sum(counts[: rank()]) if spread else 0
        every = z
        if spread:
            every = gather_rows(z.transpose(0, 1), counts).transpose(0, 1)  # (2, N, D)
        columns = every.reshape(2 * total, -1)
        positive = (z[0] * z[1]).sum(-1)  # (B,)
        if isinstance(temperature, Tensor):
            temperature = at_least_float32(temperature)
        scale = (
            temperature[:, None]
            if isinstance(temperature, Tensor) and temperature.ndim
            else temperature
        )
        rows = z / scale  # (2, B, D)
        lse = (
            row_logsumexp(rows[0], columns, start) + row_logsumexp(rows[1], columns, total + start)
        ) / 2
        return reduce_samples(lse - positive / temperature, reduction, total if spread else None)
