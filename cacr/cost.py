r"""Softmin-weighted cost of a row against many columns, without the matrix of all pairs.

For unit rows :math:`x_i` and columns :math:`y_j` with :math:`c_{ij} = \lVert x_i - y_j\rVert^2`,

.. math:: r_i = \sum_j w_{ij} h(c_{ij}), \qquad w_{ij} = \mathrm{softmax}_j(-t c_{ij})

where h is the identity (Euclidean cost) or :math:`\exp(-s c)` (RBF cost); t = 0 gives uniform
weights.
"""

import torch
from torch import Tensor

from bcl.losses.blocks import Sums, row_stats


def softmin_cost(
    x: Tensor,
    y: Tensor,
    bank: Tensor | None,
    *,
    skip: int,
    temperature: float,
    rbf_scale: float | None = None,
    constant: str = "none",
    chunk_size: int | None = None,
    even: bool = True,
) -> Tensor:
    """Compute r, once for each segment of columns.

    Args:
        x: (n, D).
        y: (S, N, D), S segments of N columns, each with weights of its own.
        bank: (Q, D) more columns, without gradient, that join each segment; or None.
        skip: row i leaves out column i + ``skip`` of every segment (its own sample).
        temperature: t.
        rbf_scale: s; None for the Euclidean cost.
        constant: whose weights have no gradient: ``"none"``, ``"queue"`` (the bank's) or ``"all"``.
        chunk_size: as in `bcl.losses.blocks.rows_per_block`.
        even: whether all rows will most likely weigh the same in the loss.

    Returns:
        (n, S).
    """
    rows = _rows(x)
    rate = None if rbf_scale is None else -rbf_scale
    even = even and rate is None and bank is None
    sums = Sums(-temperature, skip, True, rate, constant=constant == "all", even=even)
    mass, cost = row_stats(rows, _columns(y), sums, chunk_size)  # (n, S)
    if bank is None:
        return cost
    sums = sums._replace(skip=None, constant=constant != "none")
    bank_mass, bank_cost = row_stats(rows, _columns(bank[None]), sums, chunk_size)  # (n, 1)
    if constant == "all":
        mass, bank_mass = mass.detach(), bank_mass.detach()
    elif constant == "queue":
        bank_mass = bank_mass.detach()
    return torch.lerp(bank_cost.expand_as(cost), cost, (mass - bank_mass).sigmoid())


def soft_nearest(x: Tensor, y: Tensor, scale: float, chunk_size: int | None) -> Tensor:
    r"""Compute :math:`\tfrac1s \log \sum_j \exp(-s c_{ij})` over all columns of each segment.

    Args:
        x: (n, D).
        y: (S, N, D).
        scale: s.
        chunk_size: as in `bcl.losses.blocks.rows_per_block`.

    Returns:
        (n, S).
    """
    return row_stats(_rows(x), _columns(y), Sums(-scale), chunk_size)[0] / scale


# Distances are dot products of longer rows: c = (x, |x|², 1) · (-2y, 1, |y|²).


def _rows(x: Tensor) -> Tensor:
    return torch.cat([x, x.square().sum(-1, keepdim=True), torch.ones_like(x[..., :1])], -1)


def _columns(y: Tensor) -> Tensor:
    return torch.cat([-2 * y, torch.ones_like(y[..., :1]), y.square().sum(-1, keepdim=True)], -1)
