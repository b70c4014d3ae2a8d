"""Memorization scores: what the model has not yet memorized, from 0 to 1."""

from typing import Literal

import torch
from torch import Tensor

from bcl.core.checks import TensorLike, as_tensor, check_choice

Normalization = Literal["max", "rank", "quantile"]
NORMALIZATIONS: tuple[Normalization, ...] = ("max", "rank", "quantile")
CLIPPED = 0.01  # share at either end that ``"quantile"`` clips


def memorization_scores(
    momentum_loss: TensorLike, seen: TensorLike, normalization: Normalization = "max"
) -> Tensor:
    r"""Turn momentum losses into scores in [0, 1]; a high score means not yet memorized.

    .. math:: M_i = \tfrac12 \Bigl(\frac{L_i - \bar L}{\max_j |L_j - \bar L|} + 1\Bigr)

    over the samples that were seen. The released code also divides by the standard deviation,
    which cancels. One outlier squeezes all other scores towards 0.5, the mean of the scores. In two
    variants it does not: ``"quantile"`` first clips the losses to their 1 % and 99 % quantiles, so
    that as many outliers as that do nothing; with ``"rank"``, :math:`M_i` is the rank of
    :math:`L_i` over :math:`n - 1`, ties share their mean rank, and no number of outliers squeezes
    the others. The mean stays 0.5. Equal losses give 0.5.

    Args:
        momentum_loss: (N,) momentum losses.
        seen: (N,) bool, the samples that have a loss; the others score 0.
        normalization: ``"max"`` (the paper), ``"rank"`` or ``"quantile"``.

    Returns:
        (N,) scores of the dtype of ``momentum_loss``.

    Source: BCL (arXiv 2205.12693), equation 3.

    Example:
        >>> losses = torch.tensor([1.0, 2.0, 3.0, 9.0])
        >>> memorization_scores(losses, torch.tensor([True, True, True, False]))
        tensor([0.0000, 0.5000, 1.0000, 0.0000])
    """
    check_choice("normalization", normalization, NORMALIZATIONS)
    momentum_loss, seen = as_tensor("momentum_loss", momentum_loss), as_tensor("seen", seen)
    if normalization == "rank":
        return _rank_scores(momentum_loss, seen)
    if normalization == "quantile":
        momentum_loss = _clipped(momentum_loss, seen)
    count = seen.sum().clamp(min=1)  # ()
    mean = torch.where(seen, momentum_loss, 0).sum() / count  # ()
    deviation = torch.where(seen, momentum_loss - mean, 0)  # (N,)
    largest = deviation.abs().max()  # ()
    # Equal losses differ by rounding; a ratio of rounding errors would be a random score.
    rounding = torch.finfo(momentum_loss.dtype).eps * mean.abs()
    ratio = torch.where(largest > rounding, deviation / largest, 0)
    return torch.where(seen, (0.5 * (ratio + 1)).clamp(0, 1), 0)


def _clipped(momentum_loss: Tensor, seen: Tensor) -> Tensor:
    """Losses within the quantiles of those that were seen."""
    ordered = torch.where(seen, momentum_loss, torch.inf).sort().values
    last = (seen.sum() - 1).clamp(min=0)  # ()
    # At least one value at either end, as long as two are left between.
    margin = torch.minimum((last * CLIPPED).ceil().long(), (last - 1).clamp(min=0) // 2)
    return momentum_loss.clamp(ordered[margin], ordered[last - margin])


def _rank_scores(momentum_loss: Tensor, seen: Tensor) -> Tensor:
    """Ranks over n - 1; tied losses share their mean rank."""
    keys = torch.where(seen, momentum_loss, torch.inf)  # (N,) unseen samples sort last
    ordered, order = keys.sort()
    starts = torch.ones_like(seen)  # whether a run of equal losses begins here
    starts[1:] = ordered[1:] != ordered[:-1]
    run = starts.cumsum(0) - 1  # (N,)
    first = starts.nonzero()[:, 0]  # (R,)
    last = torch.cat([first[1:] - 1, first.new_tensor([keys.numel() - 1])])  # (R,)
    mean_rank = ((first + last).double() / 2)[run]  # float32 holds no ranks beyond 2**24
    highest = seen.sum() - 1
    score = torch.where(highest > 0, mean_rank / highest.clamp(min=1), 0.5).to(momentum_loss.dtype)
    return torch.where(seen, torch.empty_like(score).index_copy_(0, order, score), 0)
