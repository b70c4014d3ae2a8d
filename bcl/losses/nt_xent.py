"""NT-Xent as a function: per sample, exact across ranks, memory linear in the batch."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bcl.core.checks import (
    check_choice,
    check_chunk_size,
    check_features,
    check_positive,
    check_together,
    faults,
    refuse_faults,
)
from bcl.core.distributed import gather_rows, rank, row_counts, sum_over_ranks, world_size
from bcl.core.errors import InputError
from bcl.losses.blocks import at_least_float32, full_precision, unit_rows
from bcl.losses.logsumexp import gram_logsumexp, row_logsumexp

Reduction = Literal["mean", "sum", "none"]
Negatives = Literal["all", "keys"]


def reduce_samples(losses: Tensor, reduction: Reduction, total: int, ranks: int = 1) -> Tensor:
    """Reduce this rank's per-sample losses so that the ranks' mean is the whole batch's loss.

    Args:
        losses: (B,) losses of this rank's samples.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        total: samples on all ranks that were gathered, B where nothing was.
        ranks: how many were gathered, 1 where nothing was.

    Returns:
        () or (B,). With equal batches on all ranks, ``"mean"`` is the mean of this rank's losses;
        with unequal ones it weighs them so that the mean over the ranks stays exact.

    Example:
        >>> reduce_samples(torch.tensor([1.0, 3.0]), "mean", 2)
        tensor(2.)
    """
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if total == ranks * losses.shape[0]:
        return losses.mean()
    return losses.sum() * (ranks / total)


def nt_xent(
    z1: Tensor,
    z2: Tensor,
    temperature: float | Tensor = 0.2,
    *,
    reduction: Reduction = "mean",
    symmetric: bool = True,
    negatives: Negatives = "all",
    focal: float = 0.0,
    normalize: bool = True,
    gather: bool = True,
    chunk_size: int | None = None,
    validate: bool = False,
) -> Tensor:
    r"""NT-Xent, the loss of SimCLR: find the other view of a sample among all views of a batch.

    With unit rows :math:`u_i` of both views, and :math:`u_i^+` the other view of :math:`u_i`,

    .. math:: \ell(u_i) = -\log p_i, \qquad
        p_i = \frac{\exp(u_i \cdot u_i^+ / \tau)}{\sum_{u \ne u_i} \exp(u_i \cdot u / \tau)}

    and a sample's loss is the mean of :math:`\ell` over its two views (nats).

    **Across ranks.** With a process group, features are gathered and a sample is compared with
    those of all ranks. The value on each rank is the mean over its own samples; the gathered
    features get their gradient by an all-reduce in the backward pass, so that the average that DDP
    takes of the parameters' gradients is exactly the whole batch's gradient. Batches may be of
    unequal size: ``"mean"`` then weighs a rank by its share of the samples. All ranks must call it;
    pass ``gather=False`` where only one does.

    **Memory.** Above some 256 rows the matrix of pairs is worked on a block of rows at a time and
    recomputed in the backward pass. Second derivatives are right but need the whole matrix.
    ``torch.compile``, ``torch.func.grad`` and ``vmap`` (as a loop) work; forward-mode derivatives
    need ``chunk_size=0``.

    **Precision.** Half precision, with or without autocast, is computed in float32, which is also
    the dtype of the result.

    Args:
        z1: (B, D) features of one view (the queries), of any length.
        z2: (B, D) features of the other view (the keys); row i is the same sample as in ``z1``.
        temperature: :math:`\tau > 0`, or (B,) one for each sample, or a tensor () to learn it.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (one loss a sample).
        symmetric: False counts the rows of ``z1`` alone, for asymmetric methods; ``z2`` is then
            where their positives lie. For a method such as SDCLR that stops the gradient of one
            branch, pass that branch detached.
        negatives: ``"all"`` (both views of the other samples, as SimCLR) or ``"keys"`` (only those
            of the other view, as MoCo v3 and CLIP).
        focal: :math:`\gamma` of the focal variant :math:`-(1 - p)^\gamma \log p`; 0 or at least 1.
            The long-tail papers use 2.
        normalize: False takes rows of length one as they are.
        gather: compare with the samples of all ranks.
        chunk_size: rows of a block; 0 for the dense form; None for a choice by size.
        validate: look for NaN, infinity and (with ``normalize=False``) rows not of length one.

    Returns:
        () or, with ``reduction="none"``, (B,).

    Raises:
        InputError: shapes, types, devices or numbers out of range, fewer than two samples, or
            (with ``validate``) values that are not finite.

    Source: SimCLR (arXiv 2002.05709), equation 1; the focal variant as in the baselines of BCL
    (arXiv 2205.12693).

    Example:
        >>> z = torch.eye(3)
        >>> nt_xent(z, z, temperature=1.0, reduction="none")
        tensor([0.9048, 0.9048, 0.9048])
    """
    check_features("z1", z1, "(B, D)")
    check_features("z2", z2, "(B, D)")
    check_together(("z1", z1), {"z2": z2})
    if z1.shape != z2.shape:
        raise InputError(
            "z1 and z2 must both be of shape (B, D) with the samples in the same order, got "
            f"{tuple(z1.shape)} and {tuple(z2.shape)}."
        )
    return nt_xent_views(
        torch.stack([z1, z2]),
        temperature,
        reduction=reduction,
        symmetric=symmetric,
        negatives=negatives,
        focal=focal,
        normalize=normalize,
        gather=gather,
        chunk_size=chunk_size,
        validate=validate,
    )


def nt_xent_views(
    views: Tensor,
    temperature: float | Tensor = 0.2,
    *,
    reduction: Reduction = "mean",
    symmetric: bool = True,
    negatives: Negatives = "all",
    focal: float = 0.0,
    normalize: bool = True,
    gather: bool = True,
    chunk_size: int | None = None,
    validate: bool = False,
) -> Tensor:
    """`nt_xent` of views in one tensor.

    Args:
        views: (2, B, D).
        temperature: as in `nt_xent`, and so are all that follow.
        reduction: as there.
        symmetric: as there.
        negatives: as there.
        focal: as there.
        normalize: as there.
        gather: as there.
        chunk_size: as there.
        validate: as there.

    Returns:
        () or (B,).

    Raises:
        InputError: as there.

    Example:
        >>> nt_xent_views(torch.eye(3).expand(2, 3, 3), temperature=1.0)
        tensor(0.9048)
    """
    _check(views, temperature, reduction, negatives, focal, chunk_size)
    spread = gather and world_size() > 1
    if validate:
        count = faults(views, unit=not normalize)
        refuse_faults(sum_over_ranks(count) if spread else count)
    counts = row_counts(views[0]) if spread else [views.shape[1]]
    total, start = sum(counts), sum(counts[: rank()]) if spread else 0
    if total < 2:
        raise InputError(
            f"a batch of {total} sample has no negatives; NT-Xent needs at least 2. Use "
            "drop_last=True in the loader, or a larger batch."
        )
    with full_precision(views):
        z = unit_rows(views) if normalize else at_least_float32(views)  # (2, B, D)
        if isinstance(temperature, Tensor):
            temperature = temperature.to(z.device, z.dtype)
        # Whole views by unbind: the gradient of z[0] would be a tensor of all views, mostly zero.
        sides = z.unbind(0)
        positive = (sides[0] * sides[1]).sum(-1) / temperature  # (B,)
        per_sample = isinstance(temperature, Tensor) and temperature.ndim == 1
        if symmetric and negatives == "all" and not spread and not per_sample:
            rows = (z / temperature**0.5).flatten(0, 1)  # (2B, D)
            partition = gram_logsumexp(rows, chunk_size).view(2, -1)  # (2, B)
        else:
            every = gather_rows(z.transpose(0, 1), counts).transpose(0, 1) if spread else z
            scale = (
                temperature[:, None]
                if isinstance(temperature, Tensor) and per_sample
                else temperature
            )
            directions = 2 if symmetric else 1
            partition = torch.stack(
                [
                    _partition(sides[v] / scale, every, v, start, negatives, chunk_size)
                    for v in range(directions)
                ]
            )  # (2 or 1, B)
        losses = partition - positive
        if focal:
            losses = (-torch.expm1(-losses)).clamp_min(0) ** focal * losses  # 1 - p = -expm1(-loss)
        return reduce_samples(losses.mean(0), reduction, total, len(counts))


def _partition(
    rows: Tensor, every: Tensor, view: int, start: int, negatives: Negatives, chunk_size: int | None
) -> Tensor:
    """Log of the denominators of one view's rows.

    Args:
        rows: (B, D) over the temperature.
        every: (2, N, D) of all ranks.
        view: which of the two the rows are.
        start: place of the first row among the N samples.
        negatives: as in `nt_xent`.
        chunk_size: as in `nt_xent`.

    Returns:
        (B,).
    """
    if negatives == "keys":
        return row_logsumexp(rows, every[1 - view], None, chunk_size)
    own = view * every.shape[1] + start  # a row is no negative of itself
    return row_logsumexp(rows, every.reshape(-1, every.shape[-1]), own, chunk_size)


def _check(
    views: Tensor,
    temperature: float | Tensor,
    reduction: str,
    negatives: str,
    focal: float,
    chunk_size: int | None,
) -> None:
    check_features("views", views, "(2, B, D)")
    if views.shape[0] != 2:
        raise InputError(
            f"NT-Xent takes two views, views of shape (2, B, D), got {tuple(views.shape)}; for "
            "more views use cacr.CACRLoss."
        )
    check_settings(temperature, reduction, negatives, focal, chunk_size)
    if isinstance(temperature, Tensor) and temperature.shape not in ((), views.shape[1:2]):
        raise InputError(
            f"temperature must be a number or of shape (B,) = ({views.shape[1]},), got "
            f"{tuple(temperature.shape)}; a temperature to learn is torch.tensor(0.2)."
        )


def check_settings(
    temperature: float | Tensor,
    reduction: str,
    negatives: str,
    focal: float,
    chunk_size: int | None,
) -> None:
    """Refuse settings of `nt_xent` that are wrong for any features.

    Raises:
        InputError: a name or number out of range.
    """
    check_choice("reduction", reduction, get_args(Reduction))
    check_choice("negatives", negatives, get_args(Negatives))
    check_chunk_size(chunk_size)
    check_positive("temperature", temperature)
    if focal != 0 and not 1 <= focal < float("inf"):
        raise InputError(
            f"focal must be 0 (off) or at least 1, got {focal!r}: below 1 its gradient is infinite "
            "where p = 1."
        )


class NTXentLoss(nn.Module):
    """NT-Xent as a module; the formula and its behavior across ranks are those of `bcl.nt_xent`.

    Args:
        temperature: above 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (one loss a sample).
        gather: compare with the samples of all ranks of the process group, if there is one.
        chunk_size: rows of a block; 0 for the dense form; None for a choice by size.
        symmetric: False counts the rows of ``views[0]`` alone.
        negatives: ``"all"`` or ``"keys"``.
        focal: exponent of the focal variant; 0 or at least 1.
        normalize: False takes rows of length one as they are.
        validate: look for values that are not finite at every call.

    Raises:
        InputError: an argument out of its range.

    Example:
        >>> import torch
        >>> loss = NTXentLoss(temperature=1.0)
        >>> loss(torch.eye(3).expand(2, 3, 3))
        tensor(0.9048)
        >>> loss(torch.eye(3).expand(2, 3, 3), reduction="none").shape
        torch.Size([3])
    """

    def __init__(
        self,
        temperature: float = 0.2,
        reduction: Reduction = "mean",
        gather: bool = True,
        chunk_size: int | None = None,
        *,
        symmetric: bool = True,
        negatives: Negatives = "all",
        focal: float = 0.0,
        normalize: bool = True,
        validate: bool = False,
    ) -> None:
        super().__init__()
        check_settings(temperature, reduction, negatives, focal, chunk_size)
        self.temperature = temperature
        self.reduction: Reduction = reduction
        self.gather = gather
        self.chunk_size = chunk_size
        self.symmetric = symmetric
        self.negatives: Negatives = negatives
        self.focal = focal
        self.normalize = normalize
        self.validate = validate

    def forward(
        self,
        views: Tensor,
        temperature: float | Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            views: (2, B, D) features, not normalized.
            temperature: a number, () or (B,), instead of the module's for this call (schedules).
            reduction: instead of the module's for this call.

        Returns:
            () or (B,).
        """
        return nt_xent_views(
            views,
            self.temperature if temperature is None else temperature,
            reduction=reduction or self.reduction,
            symmetric=self.symmetric,
            negatives=self.negatives,
            focal=self.focal,
            normalize=self.normalize,
            gather=self.gather,
            chunk_size=self.chunk_size,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Describe the loss in a model's print-out."""
        return f"temperature={self.temperature}, reduction='{self.reduction}', gather={self.gather}"
