"""What the model has not yet memorised: one momentum loss and one score per sample."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from bcl.distributed import gather_rows, world_size
from bcl.errors import InputError, unknown_name

Normalization = Literal["max", "rank"]
NORMALIZATIONS: tuple[Normalization, ...] = ("max", "rank")


def memorization_scores(
    momentum_loss: Tensor, seen: Tensor, normalization: Normalization = "max"
) -> Tensor:
    r"""Turn momentum losses into memorization scores in [0, 1]; a high score is not yet memorised.

    .. math:: M_i = \tfrac12 \Bigl(\frac{L_i - \bar L}{\max_j |L_j - \bar L|} + 1\Bigr)

    over the samples that were seen. The released code also divides by the standard deviation,
    which cancels. With ``"rank"``, :math:`M_i` is the rank of :math:`L_i` over
    :math:`n - 1` (ties share their mean rank), which no outlier can squeeze. Equal losses give 0.5.

    Args:
        momentum_loss: (N,) momentum losses.
        seen: (N,) bool, the samples that have a loss; the others score 0.
        normalization: ``"max"`` (the paper) or ``"rank"``.

    Returns:
        (N,) scores of the dtype of ``momentum_loss``.

    Raises:
        InputError: unknown ``normalization``.

    Source: BCL (arXiv 2205.12693), equation 3.

    Example:
        >>> losses = torch.tensor([1.0, 2.0, 3.0, 9.0])
        >>> memorization_scores(losses, torch.tensor([True, True, True, False]))
        tensor([0.0000, 0.5000, 1.0000, 0.0000])
    """
    if normalization not in NORMALIZATIONS:
        raise unknown_name("normalization", normalization, NORMALIZATIONS)
    if normalization == "rank":
        return _rank_scores(momentum_loss, seen)
    count = seen.sum().clamp(min=1)  # ()
    mean = torch.where(seen, momentum_loss, 0).sum() / count  # ()
    deviation = torch.where(seen, momentum_loss - mean, 0)  # (N,)
    largest = deviation.abs().max()  # ()
    # Equal losses differ by rounding alone; a ratio of roundings would be a random score.
    rounding = torch.finfo(momentum_loss.dtype).eps * mean.abs()
    ratio = torch.where(largest > rounding, deviation / largest, 0)
    return torch.where(seen, (0.5 * (ratio + 1)).clamp(0, 1), 0)


def _rank_scores(momentum_loss: Tensor, seen: Tensor) -> Tensor:
    # Unseen samples sort behind all seen ones, so they take no rank among them.
    keys = torch.where(seen, momentum_loss, torch.inf)  # (N,)
    ordered, _ = keys.sort()
    below = torch.searchsorted(ordered, keys, right=False)  # (N,) losses smaller than one's own
    up_to = torch.searchsorted(ordered, keys, right=True)  # (N,) losses not larger
    mean_rank = (below + up_to - 1).to(momentum_loss.dtype) / 2
    last = seen.sum() - 1
    score = torch.where(last > 0, mean_rank / last.clamp(min=1), 0.5)
    return torch.where(seen, score, 0)


class MemorizationTracker(nn.Module):
    r"""Momentum loss and memorization score of every training sample, the same on every rank.

    .. math:: L^m_{i,0} = L_{i,0}, \qquad L^m_{i,t} = \beta L^m_{i,t-1} + (1 - \beta) L_{i,t}

    with one update a sample and epoch: `update` takes the losses of a step, `refresh` ends the
    epoch and turns the momentum losses into scores (`memorization_scores`). A sample that a
    sampler repeats within an epoch counts once, with its first loss. State is buffers, so it is
    saved, loaded and moved with the model; 12 bytes a sample.

    Args:
        num_samples: N, the number of training samples; ids run from 0 to N - 1.
        momentum: :math:`\beta` in [0, 1).
        normalization: ``"max"`` (the paper) or ``"rank"`` (robust to outliers).

    Raises:
        InputError: an argument out of its range.

    Source: BCL (arXiv 2205.12693), equations 2 and 3.

    Example:
        >>> tracker = MemorizationTracker(3)
        >>> tracker.update(torch.tensor([0, 2]), torch.tensor([1.0, 3.0]))
        >>> tracker.refresh()
        >>> tracker.scores, tracker.seen
        (tensor([0., 0., 1.]), tensor([ True, False,  True]))
    """

    momentum_loss: Tensor
    scores: Tensor
    updated_in: Tensor
    epoch: Tensor

    def __init__(
        self, num_samples: int, momentum: float = 0.97, normalization: Normalization = "max"
    ) -> None:
        super().__init__()
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise InputError(f"num_samples must be a positive integer, got {num_samples!r}.")
        if not 0 <= momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {momentum!r}; the paper uses 0.97.")
        if normalization not in NORMALIZATIONS:
            raise unknown_name("normalization", normalization, NORMALIZATIONS)
        self.momentum = momentum
        self.normalization: Normalization = normalization
        self.register_buffer("momentum_loss", torch.zeros(num_samples))
        self.register_buffer("scores", torch.zeros(num_samples))
        # The epoch of a sample's last update tells both whether it was ever seen (>= 0) and
        # whether it was already counted in the running epoch.
        self.register_buffer("updated_in", torch.full((num_samples,), -1, dtype=torch.int32))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int32))

    @property
    def num_samples(self) -> int:
        """N, the number of samples tracked."""
        return self.momentum_loss.numel()

    @property
    def seen(self) -> Tensor:
        """(N,) bool: the samples that have had a loss."""
        return self.updated_in >= 0

    @torch.no_grad()
    def update(self, ids: Tensor, losses: Tensor) -> None:
        """Take the per-sample losses of one step; with a process group, those of all ranks.

        Args:
            ids: (B,) int64 sample ids.
            losses: (B,) finite losses; B may differ between ranks.

        Raises:
            InputError: shapes that differ, an id outside [0, N), or a loss that is not finite
                (its ids are named). Nothing of the step has entered the tracker then, on any rank.
        """
        if ids.ndim != 1 or ids.shape != losses.shape:
            raise InputError(
                f"ids and losses must both be of shape (B,), got {tuple(ids.shape)} and "
                f"{tuple(losses.shape)}; use a loss with reduction='none'."
            )
        if ids.is_floating_point() or ids.dtype == torch.bool:
            raise InputError(f"ids must be integers, got {ids.dtype}.")
        ids = ids.to(self.momentum_loss.device, torch.int64)
        losses = losses.detach().to(self.momentum_loss.device, torch.float32)
        ids, losses = _gather(ids, losses)
        if ids.numel() == 0:
            return
        self._check(ids, losses)

        # Duplicates: sort by id (stable, so the first in rank order leads its run) and give every
        # member of a run the leader's loss; writing equal values in any order is deterministic.
        ids, order = ids.sort(stable=True)  # (B,)
        losses = losses[order]
        leads = torch.ones_like(ids, dtype=torch.bool)
        leads[1:] = ids[1:] != ids[:-1]
        position = torch.arange(ids.numel(), device=ids.device)
        leader = torch.where(leads, position, 0).cummax(0).values  # (B,)
        losses = losses[leader]

        old, last = self.momentum_loss[ids], self.updated_in[ids]
        new = torch.where(last < 0, losses, self.momentum * old + (1 - self.momentum) * losses)
        new = torch.where(last == self.epoch, old, new)
        self.momentum_loss.index_copy_(0, ids, new)
        self.updated_in.index_copy_(0, ids, self.epoch.expand_as(last).contiguous())

    def _check(self, ids: Tensor, losses: Tensor) -> None:
        bad = ~losses.isfinite()
        outside = (ids < 0) | (ids >= self.num_samples)
        if not bool((bad | outside).any()):  # the one host synchronisation of a step
            return
        if bool(outside.any()):
            raise InputError(
                f"sample id {int(ids[outside][0])} lies outside [0, {self.num_samples}); the "
                "tracker was made for another data set. Make it with num_samples of this one, or "
                "call grow()."
            )
        shown = sorted(set(ids[bad].tolist()))
        more = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
        raise InputError(
            f"loss not finite for sample ids {shown[:10]}{more}; nothing of this step was "
            "recorded. Lower the learning rate, or look at these samples."
        )

    @torch.no_grad()
    def refresh(self) -> None:
        """End an epoch: compute the scores of all samples from their momentum losses."""
        self.scores.copy_(memorization_scores(self.momentum_loss, self.seen, self.normalization))
        self.epoch += 1

    @torch.no_grad()
    def grow(self, num_samples: int) -> None:
        """Make room for new samples behind the old ones, which keep their ids and memory.

        Args:
            num_samples: the new N, not smaller than the old.

        Raises:
            InputError: ``num_samples`` is smaller: ids would lose their meaning.
        """
        more = num_samples - self.num_samples
        if more < 0:
            raise InputError(
                f"a tracker of {self.num_samples} samples cannot shrink to {num_samples}: the ids "
                "of the samples that are left would mean others. Make a new tracker."
            )
        self.momentum_loss = torch.cat([self.momentum_loss, self.momentum_loss.new_zeros(more)])
        self.scores = torch.cat([self.scores, self.scores.new_zeros(more)])
        self.updated_in = torch.cat([self.updated_in, self.updated_in.new_full((more,), -1)])

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(f"{prefix}momentum_loss")
        if saved is not None and saved.numel() != self.num_samples:
            raise InputError(
                f"the saved tracker has {saved.numel()} samples, this data set "
                f"{self.num_samples}; load it with the data it was trained on, or make a tracker "
                f"of {saved.numel()} samples, load, and grow() it."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Describe the tracker in the model's print-out."""
        return (
            f"num_samples={self.num_samples}, momentum={self.momentum}, "
            f"normalization='{self.normalization}'"
        )


def _gather(ids: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate the ranks' rows in rank order; batches may be of unequal size."""
    if world_size() == 1:
        return ids, losses
    # float64 holds ids up to 2**53 and float32 losses exactly, so that one collective does.
    table = gather_rows(torch.stack([ids.double(), losses.double()], 1))  # (N, 2)
    return table[:, 0].to(torch.int64), table[:, 1].to(torch.float32)
