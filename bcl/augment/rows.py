"""Change some rows of a batch."""

from collections.abc import Callable

import torch
from torch import Tensor


def change_rows(x: Tensor, mask: Tensor, change: Callable[..., Tensor], *params: Tensor) -> Tensor:
    """Replace the rows of ``x`` under ``mask`` by ``change(rows, *params of these rows)``.

    On a CPU only those rows are computed. Elsewhere, and under ``torch.compile``, all rows are
    and the mask selects: which rows there are is then never asked by the host, so that nothing
    waits for the device.

    Args:
        x: (R, ...).
        mask: (R,) bool.
        change: function of rows that keeps their shape.
        params: (R, ...) tensors handed on by row.

    Returns:
        (R, ...).
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.where(mask[:, None, None, None], change(x, *params), x)
    rows = mask.nonzero().squeeze(1)
    if rows.numel() == 0:
        return x
    return x.index_copy(0, rows, change(x[rows], *(param[rows] for param in params)))
