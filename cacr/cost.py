r"""Softmin-weighted cost of a row against many columns, without the matrix of all pairs.

For unit rows :math:`x_i` and columns :math:`y_j` with :math:`c_{ij} = \lVert x_i - y_j\rVert^2`,

.. math:: r_i = \sum_j w_{ij} h(c_{ij}), \qquad w_{ij} = \mathrm{softmax}_j(-t c_{ij})

where h is the identity (Euclidean cost) or :math:`\exp(-s c)` (RBF cost); t = 0 gives uniform
weights.
"""

import sys

from torch import Tensor

from bcl.losses.blocks import row_stats
from bcl.losses.dense import Sums


def softmin_cost(
    x: Tensor,
    y: Tensor,
    bank: Tensor | None,
    *,
    skip: int,
    temperature: float | Tensor,
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
        temperature: t, or (n,) one per row, for which the whole matrix is held.
        rbf_scale: s; None for the Euclidean cost.
        constant: whose weights have no gradient: ``"none"``, ``"queue"`` (the bank's) or ``"all"``.
        chunk_size: as in `bcl.losses.blocks.rows_per_block`.
        even: whether all rows will most likely weigh the same in the loss.

    Returns:
        (n, S).
    """
    split = {"none": sys.maxsize, "queue": y.shape[1], "all": 0}[constant]
    rate = None if rbf_scale is None else 2 * rbf_scale
    scale = 2 * temperature
    if isinstance(scale, Tensor):
        scale, chunk_size = scale.to(x).view(-1, 1, 1), 0
    sums = Sums(scale, skip, True, True, rate, split, even and rate is None)
    _, cost = row_stats(x, y, sums, chunk_size, bank)  # (n, S)
    return cost if rate else -2 * cost


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
    return row_stats(x, y, Sums(2 * scale, distance=True), chunk_size)[0] / scale
