"""NT-Xent: per sample, exact across ranks, memory linear in the batch."""

from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from bcl.core.checks import (
    TensorLike,
    as_features,
    as_tensor,
    check_choice,
    check_chunk_size,
    check_positive,
    check_together,
)
from bcl.core.distributed import gather_rows, rank, row_counts, world_size
from bcl.core.errors import InputError
from bcl.losses.blocks import LARGEST_SCALE, gram_cross_entropy, row_stats
from bcl.losses.dense import Scale, Sums, scaled
from bcl.losses.precision import at_least_float32, full_precision, unit_rows
from bcl.losses.temperatures import (
    CosineSchedule,
    Reciprocal,
    ScheduledTemperature,
    SimilarityTemperature,
    VaryingTemperature,
)

Reduction = Literal["mean", "sum", "none"]
Temperature = float | Tensor | Callable[[Tensor], Tensor]


def nt_xent(
    z1: TensorLike,
    z2: TensorLike,
    temperature: Temperature = 0.2,
    *,
    focal: float = 0.0,
    reduction: Reduction = "mean",
    gather: bool = True,
    normalize: bool = True,
    chunk_size: int | None = None,
) -> Tensor:
    r"""NT-Xent, the loss of SimCLR: find the other view of a sample among all views of a batch.

    With unit rows :math:`u_i` of both views, and :math:`u_i^+` the other view of :math:`u_i`,

    .. math:: \ell(u_i) = -\log p_i, \qquad
        p_i = \frac{\exp(u_i \cdot u_i^+ / \tau)}{\sum_{u \ne u_i} \exp(u_i \cdot u / \tau)}

    and the loss of a sample is the mean of :math:`\ell` over its two views (nats).

    **Across ranks.** With a process group, features are gathered and a sample is compared with
    those of all ranks. The value on each rank is the mean over its own samples; the gathered
    features get their gradient by an all-reduce in the backward pass. DDP's average of the
    parameters' gradients is then exactly the gradient of the whole batch. Batches may be of unequal
    size: ``"mean"`` then weighs a rank by its share of the samples. All ranks must call it; pass
    ``gather=False`` where only one does.

    **Memory.** A matrix of pairs that is cheap is kept; a larger one is computed a block of rows at
    a time, and again in the backward pass. Second derivatives, ``torch.func`` and ``torch.compile``
    work and need the whole matrix; forward-mode derivatives need ``chunk_size=0``.

    **Precision.** Half precision, with or without autocast, is computed in float32, which is also
    the dtype of the result. Values that are not finite propagate to the result.

    Args:
        z1: (B, D) features of one view, of any length.
        z2: (B, D) features of the other view; row i is the same sample as in ``z1``. For a method
            that stops the gradient of one branch, such as SDCLR, pass that branch detached.
        temperature: :math:`\tau > 0`, or (B,) one per sample, or a tensor () to learn it; or a
            function from the cosines of pairs to as many temperatures above 0, such as
            `bcl.SimilarityTemperature`, which counts as constant in the derivative.
        focal: :math:`\gamma` of the focal variant :math:`-(1 - p)^\gamma \log p`; 0 or at least 1.
            The long-tail papers use 2.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (one loss per sample).
        gather: compare with the samples of all ranks.
        normalize: False if the rows already have length one.
        chunk_size: rows per block; 0 for plain PyTorch; None for a choice by size.

    Returns:
        () or, with ``reduction="none"``, (B,).

    Raises:
        InputError: shapes, types, devices or numbers out of range, or fewer than two samples.

    Source: SimCLR (arXiv 2002.05709), equation 1; the focal variant as in the baselines of BCL
    (arXiv 2205.12693).

    Example:
        >>> z = torch.eye(3)
        >>> nt_xent(z, z, temperature=1.0, reduction="none")
        tensor([0.9048, 0.9048, 0.9048])
    """
    views = as_pair(z1, z2)
    _check_settings(temperature, focal, reduction, chunk_size)
    return _nt_xent(views, temperature, focal, reduction, gather, normalize, chunk_size)


def _nt_xent(
    views: Tensor,
    temperature: Temperature,
    focal: float,
    reduction: Reduction,
    gather: bool,
    normalize: bool,
    chunk_size: int | None,
    log_mass: Tensor | None = None,
) -> Tensor:
    """`nt_xent` of views (2, B, D); ``log_mass`` (2, B) as in `gram_cross_entropy`, if known."""
    counts = counts_of(views, gather)
    with full_precision(views):
        u = unit_rows(views) if normalize else at_least_float32(views)
        losses = cross_entropy(u, temperature, counts, normalize, chunk_size, log_mass)  # (2, B)
        if focal:  # the losses are -log p
            losses = (-torch.expm1(-losses)).clamp_min(0) ** focal * losses
        return reduce_samples(losses, reduction, counts)


def counts_of(views: Tensor, gather: bool) -> list[int]:
    """Count the samples of each rank, [B] where nothing is gathered; refuse one sample alone."""
    counts = row_counts(views[0]) if gather and world_size() > 1 else [views.shape[1]]
    check_samples(counts)
    return counts


def cross_entropy(
    u: Tensor,
    temperature: Temperature,
    counts: list[int],
    unit: bool = True,
    chunk_size: int | None = None,
    log_mass: Tensor | None = None,
) -> Tensor:
    """Compute -log p (2, B) of the rows of two views (2, B, D), of length one if ``unit``."""
    low: float = 0  # of a tensor or an unknown function it may be anything
    if type(temperature) is SimilarityTemperature:  # a subclass may be anything, too
        low = temperature.low
    elif not isinstance(temperature, Tensor) and not callable(temperature):
        low = temperature
    if unit and len(counts) == 1 and low * LARGEST_SCALE >= 1:
        scale = Reciprocal(temperature) if callable(temperature) else 1 / low
        return gram_cross_entropy(u.flatten(0, 1), scale, chunk_size, log_mass)
    return _row_cross_entropy(u, temperature, counts, chunk_size)


def _row_cross_entropy(
    views: Tensor, temperature: Temperature, counts: list[int], chunk_size: int | None
) -> Tensor:
    """Compare views (2, B, D) with those of all ranks, at any temperature, to -log p (2, B)."""
    rows: Tensor = views
    scale: Scale = 1.0
    if isinstance(temperature, Tensor):
        if temperature.shape not in ((), views.shape[1:2]):
            raise InputError(
                f"temperature must be a number or of shape (B,) = ({views.shape[1]},), got "
                f"{tuple(temperature.shape)}; to learn it, pass torch.tensor(0.2)."
            )
        rows = views / temperature.to(views)[..., None]  # by (B, 1) or (1,)
    elif callable(temperature):
        scale = Reciprocal(temperature)
    else:
        rows = views / temperature
    positive = scaled(torch.linalg.vecdot(rows, views.flip(0)), scale)  # (2, B)
    columns, start = gather_views(views, counts)
    columns = columns.reshape(1, -1, views.shape[-1])  # (1, 2N, D)
    partition = [
        row_stats(each, columns, Sums(scale, view * sum(counts) + start), chunk_size)[0]  # (B, 1)
        for view, each in enumerate(rows.unbind(0))
    ]
    return torch.cat(partition, 1).T - positive


def gather_views(views: Tensor, counts: list[int]) -> tuple[Tensor, int]:
    """Gather (2, B, D) from all ranks to (2, N, D), and the place of this rank's first sample."""
    if len(counts) == 1:
        return views, 0
    return gather_rows(views.transpose(0, 1), counts).transpose(0, 1), sum(counts[: rank()])


def reduce_samples(losses: Tensor, reduction: Reduction, counts: list[int]) -> Tensor:
    """Reduce this rank's losses so that the mean over the ranks is the whole batch's loss.

    Args:
        losses: (V, B) losses of this rank's samples in V views, which are averaged.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        counts: samples of each rank that was gathered, [B] where nothing was.

    Returns:
        () or (B,).

    Example:
        >>> reduce_samples(torch.tensor([[1.0, 3.0]]), "mean", [2])
        tensor(2.)
    """
    if reduction == "mean" and min(counts) == max(counts):
        return losses.mean()
    losses = losses.mean(0)
    if reduction == "none":
        return losses
    return losses.sum() * (1 if reduction == "sum" else len(counts) / sum(counts))


def as_pair(first: TensorLike, second: TensorLike) -> Tensor:
    """Return two views (B, D) of the same samples as (2, B, D); refuse others."""
    z1, z2 = as_features("z1", first, "(B, D)"), as_features("z2", second, "(B, D)")
    check_together(("z1", z1), {"z2": z2})
    if z1.shape != z2.shape:
        raise InputError(
            "z1 and z2 must both be of shape (B, D) with the samples in the same order, got "
            f"{tuple(z1.shape)} and {tuple(z2.shape)}."
        )
    with full_precision(z1):  # whose autocast refuses float64, and float16 beside bfloat16
        return torch.stack([z1, z2])


def as_two_views(given: TensorLike) -> Tensor:
    """Return features (2, B, D); refuse others."""
    views = as_features("views", given, "(2, B, D)")
    if views.shape[0] != 2:
        raise InputError(
            f"this loss takes two views, views of shape (2, B, D), got {tuple(views.shape)}; for "
            "more views use cacr.CACRLoss."
        )
    return views


def check_samples(counts: list[int]) -> None:
    """Refuse a batch, of all ranks together, without negatives."""
    if sum(counts) < 2:
        raise InputError(
            f"a batch of {sum(counts)} sample has no negatives; this loss needs at least 2. Use "
            "drop_last=True in the loader, or a larger batch."
        )


def _check_settings(
    temperature: Temperature, focal: float, reduction: str, chunk_size: int | None
) -> None:
    check_temperature(temperature)
    check_choice("reduction", reduction, get_args(Reduction))
    check_chunk_size(chunk_size)
    if not isinstance(focal, Real) or (focal != 0 and not 1 <= focal < float("inf")):
        raise InputError(
            f"focal must be 0 (off) or at least 1, got {focal!r}: below 1 its gradient is infinite "
            "where p = 1."
        )


def check_temperature(temperature: Temperature) -> None:
    """Refuse all but positive numbers and functions of the cosine."""
    if isinstance(temperature, CosineSchedule):
        raise InputError(
            "a schedule gives a temperature by the epoch; pass temperature=schedule(epoch), or "
            "give the schedule to bcl.NTXentLoss and the epoch to its call."
        )
    if isinstance(temperature, Tensor) or not callable(temperature):
        check_positive("temperature", temperature, several=True)


class NTXentLoss(ScheduledTemperature, nn.Module):
    """`bcl.nt_xent` as a module that keeps the settings; it takes two views, or one tensor of both.

    See `bcl.nt_xent` for arguments, formula and behavior across ranks. The temperature may also be
    a `bcl.CosineSchedule`; calls then need the ``epoch``.

    Example:
        >>> import torch
        >>> loss = NTXentLoss(temperature=1.0)
        >>> loss(torch.eye(3).expand(2, 3, 3))
        tensor(0.9048)
        >>> loss(torch.eye(3), torch.eye(3))
        tensor(0.9048)
    """

    def __init__(
        self,
        temperature: VaryingTemperature | float = 0.2,  # in this order, or bcl fit hides a refusal
        *,
        focal: float = 0.0,
        reduction: Reduction = "mean",
        gather: bool = True,
        normalize: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        known = 1.0 if isinstance(temperature, CosineSchedule) else temperature
        _check_settings(known, focal, reduction, chunk_size)
        self.temperature, self.focal, self.reduction = temperature, focal, reduction
        self.gather, self.normalize, self.chunk_size = gather, normalize, chunk_size

    def forward(
        self,
        views: TensorLike,
        second: Any = None,
        *,
        temperature: Temperature | None = None,
        epoch: float | None = None,
        epochs: int | None = None,
        log_mass: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            views: (2, B, D) features, of any length; or (B, D) those of the first view.
            second: (B, D) features of the other view, where ``views`` holds one; else the
                temperature.
            temperature: as in `bcl.nt_xent`, instead of the module's, for this call.
            epoch: epochs done, 0 in the first; only a schedule needs it.
            epochs: epochs of the run; only a schedule whose period is a share of it needs them.
            log_mass: see `bcl.losses.signals.nt_xent_with_signals`.

        Returns:
            () or (B,).

        Raises:
            InputError: as `bcl.nt_xent`, or another number of views.
        """
        views = as_tensor("views", views)
        if views.ndim == 2 and second is not None:
            views = as_pair(views, second)
        else:
            views, temperature = as_two_views(views), second if temperature is None else temperature
        if temperature is None:
            temperature = self.temperature_at(epoch, epochs)
        check_temperature(temperature)
        return _nt_xent(
            views, temperature, self.focal, self.reduction, self.gather, self.normalize,
            self.chunk_size, log_mass,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Describe the loss when a model is printed."""
        return f"temperature={self.temperature}, reduction='{self.reduction}', gather={self.gather}"
