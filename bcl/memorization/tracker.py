"""What the model has not yet memorized: one momentum loss and one score per sample."""

import math
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from bcl.core.distributed import gather_rows, world_size
from bcl.core.errors import InputError, unknown_name
from bcl.core.triton import runs_triton

Normalization = Literal["max", "rank"]
NORMALIZATIONS: tuple[Normalization, ...] = ("max", "rank")
# Every program of the kernel compares its rows with all rows; beyond this, sorting is faster.
_KERNEL_ROWS, _KERNEL_BLOCK = 1 << 15, 64


def memorization_scores(
    momentum_loss: Tensor, seen: Tensor, normalization: Normalization = "max"
) -> Tensor:
    r"""Turn momentum losses into memorization scores in [0, 1]; a high score is not yet memorized.

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
    ordered, order = keys.sort()
    # Ties share their mean rank: each belongs to a run of equal losses, from its first to its
    # last place.
    starts = torch.ones_like(seen)
    starts[1:] = ordered[1:] != ordered[:-1]
    run = starts.cumsum(0) - 1  # (N,) which run a place belongs to
    first = starts.nonzero()[:, 0]  # (R,)
    last_of = torch.cat([first[1:] - 1, first.new_tensor([keys.numel() - 1])])
    # In float64: float32 holds no ranks beyond 2**24.
    mean_rank = ((first + last_of).double() / 2)[run]
    last = seen.sum() - 1
    score = torch.where(last > 0, mean_rank / last.clamp(min=1), 0.5).to(momentum_loss.dtype)
    return torch.where(seen, torch.empty_like(score).index_copy_(0, order, score), 0)


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
        # An update whose verdict is still to come: the verdict, when it is known, ids and losses.
        self._open: tuple[Tensor, torch.cuda.Event, Tensor, Tensor] | None = None
        for name in ("momentum_loss", "scores"):
            self.register_buffer(name, torch.zeros(num_samples, dtype=torch.float32))
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
    def update(self, ids: Tensor, losses: Tensor, *, wait: bool = True) -> None:
        """Take the per-sample losses of one step; with a process group, those of all ranks.

        Args:
            ids: (B,) int64 sample ids.
            losses: (B,) finite losses; B may differ between ranks.
            wait: False leaves it to `settle` to raise what a GPU finds in the values, so that the
                host can go on meanwhile.

        Raises:
            InputError: shapes that differ, an id outside [0, N), or a loss that is not finite
                (its ids are named). Nothing of the step has entered the tracker then, on any rank.
        """
        self.settle()
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
        if ids.numel() <= _KERNEL_ROWS and runs_triton(self.momentum_loss):
            self._update_at_once(ids, losses)
            if wait:
                self.settle()
            return
        ordered, order = ids.sort(stable=True)  # (B,)
        same = ordered[1:] == ordered[:-1]
        # One transfer answers all questions of a step: a sum in float64 of float32 losses cannot
        # overflow, so it is finite exactly if they are.
        ends = ordered[:: max(ids.numel() - 1, 1)].double()  # smallest and largest id
        total = losses.sum(dtype=torch.float64)
        answers = torch.cat([total.view(1), same.any().double().view(1), ends]).tolist()
        if not math.isfinite(answers[0]) or answers[2] < 0 or answers[-1] >= self.num_samples:
            self._refuse(ids, losses)
        if answers[1]:
            # Duplicates: the first in rank order leads its run of equal ids (the sort is stable);
            # the others are left out.
            leads = order[torch.cat([same.new_ones(1), ~same])]
            ids, losses = ids[leads], losses[leads]

        old, last = self.momentum_loss.index_select(0, ids), self.updated_in.index_select(0, ids)
        fresh = losses.lerp(old, self.momentum)
        fresh = torch.where(last < 0, losses, fresh)
        fresh = torch.where(last == self.epoch, old, fresh)
        self.momentum_loss.index_copy_(0, ids, fresh)
        self.updated_in.index_copy_(0, ids, self.epoch.expand_as(last))

    def _update_at_once(self, ids: Tensor, losses: Tensor) -> None:
        """`update` by one kernel, which takes all losses or none; `settle` tells which."""
        from bcl.memorization.kernel import update_kernel

        refused = torch.empty(1, dtype=torch.int32, device=ids.device)
        with torch.cuda.device(ids.device):
            update_kernel[(-(-ids.numel() // _KERNEL_BLOCK),)](
                refused, self.momentum_loss, self.updated_in, self.epoch,
                ids.contiguous(), losses.contiguous(), ids.numel(), self.num_samples,
                float(self.momentum), block=_KERNEL_BLOCK, enable_fp_fusion=False,
            )  # fmt: skip
            verdict = refused.to("cpu", non_blocking=True)
            known = torch.cuda.Event()  # type: ignore[no-untyped-call]
            known.record()
        self._open = (verdict, known, ids, losses)

    def settle(self) -> None:
        """Wait for the verdict on an update that did not wait, if there is one.

        Call it before the optimizer's step, which no loss that is not finite may reach.

        Raises:
            InputError: as `update`.
        """
        if self._open is None:
            return
        (verdict, known, ids, losses), self._open = self._open, None
        known.synchronize()
        if int(verdict):
            self._refuse(ids, losses)

    def _refuse(self, ids: Tensor, losses: Tensor) -> NoReturn:
        outside = (ids < 0) | (ids >= self.num_samples)
        if bool(outside.any()):
            raise InputError(
                f"sample id {int(ids[outside][0])} lies outside [0, {self.num_samples}); the "
                "tracker was made for another data set. Make it with num_samples of this one, or "
                "call grow()."
            )
        shown = sorted(set(ids[~losses.isfinite()].tolist()))
        more = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
        raise InputError(
            f"loss not finite for sample ids {shown[:10]}{more}; nothing of this step was "
            "recorded. Lower the learning rate, or look at these samples."
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MemorizationTracker":
        """Move the buffers with the model but keep float32: 16 bits would forget small steps."""

        def kept(x: Tensor) -> Tensor:
            moved = fn(x)
            return moved if moved.dtype == x.dtype else x.to(moved.device)

        return super()._apply(kept, recurse)  # type: ignore[no-untyped-call, no-any-return]

    @torch.no_grad()
    def refresh(self) -> None:
        """End an epoch: compute the scores of all samples from their momentum losses."""
        self.settle()
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
        self.settle()  # whose ids are those of the old size
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
        self._open = None  # of a step whose state is replaced
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are settled: an event belongs to its process and its device."""
        self.settle()
        return self.__dict__.copy()

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
