"""Row functions of a Gram matrix: what both losses need of all pairs, one number a row."""

import math

import torch
from torch import Tensor


def unit_rows(x: Tensor) -> Tensor:
    """Scale rows to length one, in float32 or better, for rows of any length.

    Squares of large or tiny rows would overflow or vanish, so the largest entry is divided out
    first. A zero row stays zero and its gradient stays bounded; a row that is not finite becomes
    NaN and is seen.

    Args:
        x: (..., D).

    Returns:
        (..., D), float32 for half precision, else of the dtype of ``x``.
    """
    x = at_least_float32(x)
    largest = x.detach().abs().amax(-1, keepdim=True)  # (..., 1)
    x = x / torch.where(largest == 0, 1, largest)
    # The largest entry is now 1 except in a zero row, so a floor of 1/2 touches zero rows alone.
    return x * x.square().sum(-1, keepdim=True).clamp_min(0.5).rsqrt()


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def row_logsumexp(x: Tensor, y: Tensor, skip: int | None = None) -> Tensor:
    r"""Log-sum-exp of every row of :math:`x y^\top`.

    Args:
        x: (n, D).
        y: (m, D).
        skip: row i leaves out column i + ``skip`` (its own sample); None leaves out nothing.

    Returns:
        (n,).
    """
    logits = x @ y.T  # (n, m)
    if skip is not None:
        logits = logits.masked_fill(_own(logits, skip), -math.inf)
    return logits.logsumexp(-1)


def _own(matrix: Tensor, skip: int) -> Tensor:
    row = torch.arange(matrix.shape[-2], device=matrix.device)
    column = torch.arange(matrix.shape[-1], device=matrix.device)
    return column == row[:, None] + skip  # (n, m)
