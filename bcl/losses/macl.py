"""MACL: a temperature that follows the alignment of the batch, and rows weighed alike."""

import math
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from bcl.core.checks import (
    TensorLike,
    check_between,
    check_choice,
    check_chunk_size,
    check_positive,
)
from bcl.core.distributed import sum_over_ranks
from bcl.core.errors import InputError
from bcl.losses.blocks import row_stats
from bcl.losses.dense import Sums
from bcl.losses.nt_xent import (
    Reduction,
    as_pair,
    as_two_views,
    counts_of,
    gather_views,
    reduce_samples,
)
from bcl.losses.precision import at_least_float32, full_precision, unit_rows


def macl_loss(
    z1: TensorLike,
    z2: TensorLike,
    base: float = 0.1,
    slope: float = 0.5,
    offset: float = 0.0,
    *,
    reduction: Reduction = "mean",
    gather: bool = True,
    normalize: bool = True,
    chunk_size: int | None = None,
) -> Tensor:
    r"""NT-Xent at a temperature that grows with the alignment A of the batch.

    .. math:: \tau = \tau_0 \bigl(1 + \alpha (A - A_0)\bigr), \qquad
        A = \operatorname{mean}_i\; u_{1i} \cdot u_{2i}, \qquad
        \ell(u) = \frac{-\log p(u)}{1 - p(u)}

    with :math:`\tau`, A and the weight :math:`1 / (1 - p)` constant in the derivative. The weight
    takes back NT-Xent's own, which is small for rows that are found easily: the derivative is that
    of :math:`\log\frac{1 - p}{p}`. A sample's loss is the mean over its two views. With a process
    group A is that of all ranks; see `bcl.nt_xent`.

    Args:
        z1: (B, D) features of one view, of any length.
        z2: (B, D) features of the other view of the same samples.
        base: :math:`\tau_0 > 0`.
        slope: :math:`\alpha \ge 0`, so small that the temperature stays above 0 for A = -1.
        offset: :math:`A_0` in [-1, 1].
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (one loss per sample).
        gather: compare with the samples of all ranks.
        normalize: False if the rows already have length one.
        chunk_size: as in `bcl.nt_xent`.

    Returns:
        () or, with ``reduction="none"``, (B,).

    Raises:
        InputError: as `bcl.nt_xent`, or a temperature that could reach 0.

    Source: MACL (arXiv 2207.07874). lightly's `MACLLoss` has one number for the batch.

    Example:
        >>> z = torch.eye(3)
        >>> macl_loss(z, z, base=1.0, slope=0.0, reduction="none")
        tensor([1.5197, 1.5197, 1.5197])
    """
    views = as_pair(z1, z2)
    _check_settings(base, slope, offset, reduction, chunk_size)
    return _macl(views, base, slope, offset, reduction, gather, normalize, chunk_size)[0]


def _macl(
    views: Tensor,
    base: float,
    slope: float,
    offset: float,
    reduction: Reduction,
    gather: bool,
    normalize: bool,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor]:
    """`macl_loss` of views (2, B, D), and the temperature () of the step."""
    counts = counts_of(views, gather)
    with full_precision(views):
        u = unit_rows(views) if normalize else at_least_float32(views)
        temperature = base * (1 + slope * (_alignment(u.detach(), counts) - offset))  # ()
        d = _decoupled(u, temperature, counts, chunk_size)  # (2, B), p = sigmoid(-d)
        x = d.detach().clamp_min(-40)  # from there on -log p / (1 - p) is 1
        losses = d + (-logsigmoid(-x) / x.sigmoid() - d.detach())
        return reduce_samples(losses, reduction, counts), temperature


def _decoupled(u: Tensor, temperature: Tensor, counts: list[int], chunk_size: int | None) -> Tensor:
    """Log of the negatives' sum over the positive, (2, B), exact where the positive is all."""
    rows = u / temperature
    columns, start = gather_views(u, counts)  # (2, N, D), each without the own sample
    sums = [row_stats(each, columns, Sums(skip=start), chunk_size)[0] for each in rows.unbind(0)]
    positive: Tensor = torch.linalg.vecdot(rows, u.flip(0))
    return torch.stack(sums).logsumexp(-1) - positive


def _alignment(u: Tensor, counts: list[int]) -> Tensor:
    """Mean cosine () of the two views of (2, B, D) rows, over the samples of all ranks."""
    total = torch.linalg.vecdot(u[0], u[1]).sum()
    return (sum_over_ranks(total) if len(counts) > 1 else total) / sum(counts)


def _check_settings(
    base: float, slope: float, offset: float, reduction: str, chunk_size: int | None
) -> None:
    check_positive("base", base)
    check_positive("slope", slope, zero=True)
    check_choice("reduction", reduction, get_args(Reduction))
    check_chunk_size(chunk_size)
    check_between("offset", offset, -1, 1)
    if slope * (1 + offset) >= 1:
        most = math.inf if offset == -1 else 1 / (1 + offset)
        raise InputError(
            f"slope must be below {most:.4g} at offset={offset!r}, or the temperature could reach "
            f"0, got {slope!r}."
        )


class MACLLoss(nn.Module):
    """`bcl.losses.macl_loss` as a module that takes both views in one tensor.

    Example:
        >>> MACLLoss(reduction="none")(torch.eye(3).expand(2, 3, 3)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        base: float = 0.1,
        slope: float = 0.5,
        offset: float = 0.0,
        *,
        reduction: Reduction = "mean",
        gather: bool = True,
        normalize: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        _check_settings(base, slope, offset, reduction, chunk_size)
        self.base, self.slope, self.offset, self.reduction = base, slope, offset, reduction
        self.gather, self.normalize, self.chunk_size = gather, normalize, chunk_size
        self._latest: Tensor | None = None

    def forward(self, views: TensorLike) -> Tensor:
        """(2, B, D) features, of any length, to () or (B,)."""
        views = as_two_views(views)
        loss, self._latest = _macl(
            views, self.base, self.slope, self.offset, self.reduction, self.gather, self.normalize,
            self.chunk_size,
        )  # fmt: skip
        return loss

    def figures(self, epoch: int, epochs: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the temperature of the latest step, for the logs."""
        return {} if self._latest is None else {"temperature": self._latest}

    def extra_repr(self) -> str:
        """Describe the loss when a model is printed."""
        return f"base={self.base}, slope={self.slope}, reduction='{self.reduction}'"
