"""A momentum loss and a memorization score for every training sample."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from bcl.core.checks import TensorLike, as_tensor, check_choice, check_count
from bcl.core.distributed import gather_rows, world_size
from bcl.core.errors import InputError
from bcl.core.triton import runs_triton
from bcl.memorization.scores import NORMALIZATIONS, Normalization, memorization_scores

# Each program of the kernel compares its rows with all rows; beyond this, sorting is faster.
_KERNEL_ROWS, _KERNEL_BLOCK = 1 << 15, 64


class _Verdict(NamedTuple):
    """How many losses of an update the device refused; on the host once ``known`` is reached."""

    refused: Tensor
    known: torch.cuda.Event
    ids: Tensor
    losses: Tensor


class MemorizationTracker(nn.Module):
    r"""Momentum loss and memorization score of every training sample, the same on every rank.

    .. math:: L^m_{i,0} = L_{i,0}, \qquad L^m_{i,t} = \beta L^m_{i,t-1} + (1 - \beta) L_{i,t}

    with one update per sample and epoch. `update` takes the losses of a step; `refresh` ends the
    epoch and turns the momentum losses into scores (`memorization_scores`). A sample that a
    sampler repeats within an epoch counts once, with its first loss. The state is 12 bytes per
    sample in buffers, which are saved, loaded and moved with the model.

    Args:
        num_samples: N, the number of training samples; ids run from 0 to N - 1.
        momentum: :math:`\beta` in [0, 1).
        normalization: ``"max"`` (the paper), ``"rank"`` or ``"quantile"`` (robust to outliers).

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
        check_count("num_samples", num_samples)
        check_choice("normalization", normalization, NORMALIZATIONS)
        if not 0 <= momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {momentum!r}; the paper uses 0.97.")
        self.momentum = momentum
        self.normalization: Normalization = normalization
        self._verdict: _Verdict | None = None  # of an update that did not wait for it
        self.register_buffer("momentum_loss", torch.zeros(num_samples, dtype=torch.float32))
        self.register_buffer("scores", torch.zeros(num_samples, dtype=torch.float32))
        # The epoch of a sample's last update, -1 before the first: it says whether the sample was
        # ever seen, and whether it already counted in the current epoch.
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
    def update(self, ids: TensorLike, losses: TensorLike, *, wait: bool = True) -> None:
        """Take the per-sample losses of one step; with a process group, those of all ranks.

        Args:
            ids: (B,) int64 sample ids.
            losses: (B,) finite losses; B may differ between ranks.
            wait: whether to wait until a GPU has checked the values; without it, `flush` raises.

        Raises:
            InputError: shapes that differ, an id outside [0, N), or a loss that is not finite;
                nothing of the step is then recorded, on any rank.
        """
        ids, losses = as_tensor("ids", ids), as_tensor("losses", losses)
        if ids.ndim != 1 or ids.shape != losses.shape:
            raise InputError(
                f"ids and losses must both be of shape (B,), got {tuple(ids.shape)} and "
                f"{tuple(losses.shape)}; use a loss with reduction='none'."
            )
        update_together([self], ids, losses[None], wait=wait)

    def _take(self, ids: Tensor, losses: Tensor) -> None:
        """Update with the values of all ranks; a GPU reports later what it refused."""
        if ids.numel() > _KERNEL_ROWS or not runs_triton(self.momentum_loss):
            self._update(ids, losses)
        else:
            self._verdict = self._launch(ids, losses)

    def _update(self, ids: Tensor, losses: Tensor) -> None:
        """Update in plain PyTorch, with one transfer to the host."""
        ordered, order = ids.sort(stable=True)  # (B,)
        same = ordered[1:] == ordered[:-1]  # (B - 1,)
        # A sum in float64 of float32 losses cannot overflow: it is finite if and only if they are.
        total = losses.sum(dtype=torch.float64)
        found = torch.stack([total, same.any().double(), ordered[0].double(), ordered[-1].double()])
        sum_of_losses, repeated, lowest, highest = found.tolist()
        if not math.isfinite(sum_of_losses) or lowest < 0 or highest >= self.num_samples:
            self._refuse(ids, losses)
        if repeated:
            # The sort is stable, so the first loss of an id leads its run of equal ids.
            leads = order[torch.cat([same.new_ones(1), ~same])]
            ids, losses = ids[leads], losses[leads]
        old, last = self.momentum_loss.index_select(0, ids), self.updated_in.index_select(0, ids)
        new = torch.where(last < 0, losses, losses.lerp(old, self.momentum))
        new = torch.where(last == self.epoch, old, new)
        self.momentum_loss.index_copy_(0, ids, new)
        self.updated_in.index_copy_(0, ids, self.epoch.expand_as(last))

    def _launch(self, ids: Tensor, losses: Tensor) -> _Verdict:
        """Update by one kernel, which takes all losses or none, without waiting for it."""
        from bcl.memorization.kernel import update_kernel

        refused = torch.empty(1, dtype=torch.int32, device=ids.device)
        with torch.cuda.device(ids.device):
            update_kernel[(-(-ids.numel() // _KERNEL_BLOCK),)](
                refused, self.momentum_loss, self.updated_in, self.epoch,
                ids.contiguous(), losses.contiguous(), ids.numel(), self.num_samples,
                float(self.momentum), block=_KERNEL_BLOCK, enable_fp_fusion=False,
            )  # fmt: skip
            refused = refused.to("cpu", non_blocking=True)
            known = torch.cuda.Event()  # type: ignore[no-untyped-call]
            known.record()
        return _Verdict(refused, known, ids, losses)

    def flush(self) -> None:
        """Wait for the check of an update that did not wait; raise what `update` would.

        Call it before the optimizer's step, so that no step follows from a loss that is not finite.
        """
        if self._verdict is None:
            return
        verdict, self._verdict = self._verdict, None
        verdict.known.synchronize()
        if int(verdict.refused):
            self._refuse(verdict.ids, verdict.losses)

    def _refuse(self, ids: Tensor, losses: Tensor) -> NoReturn:
        """Raise for an id out of range, or else for losses that are not finite."""
        outside = ids[(ids < 0) | (ids >= self.num_samples)].tolist()
        if outside:
            raise InputError(
                f"sample id {outside[0]} lies outside [0, {self.num_samples}); the tracker was "
                "built for another training set. Build it with this one's num_samples."
            )
        bad = sorted(set(ids[~losses.isfinite()].tolist()))
        more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise InputError(
            f"loss not finite for sample ids {bad[:10]}{more}; nothing of this step was "
            "recorded. Lower the learning rate, or look at these samples."
        )

    @torch.no_grad()
    def refresh(self) -> None:
        """End an epoch: compute the scores of all samples from their momentum losses."""
        self.flush()
        self.scores.copy_(memorization_scores(self.momentum_loss, self.seen, self.normalization))
        self.epoch += 1

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MemorizationTracker":
        """Move the buffers with the model but keep float32: 16 bits would lose small steps."""

        def keep_type(x: Tensor) -> Tensor:
            moved = fn(x)
            return moved if moved.dtype == x.dtype else x.to(moved.device)

        return super()._apply(keep_type, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(f"{prefix}momentum_loss")
        if saved is not None and saved.numel() != self.num_samples:
            raise InputError(
                f"the saved tracker has {saved.numel()} samples, this training set "
                f"{self.num_samples}; load it with the data it was trained on."
            )
        self._verdict = None  # of a step whose state is replaced
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Flush before a copy or a pickle: an event belongs to its process and device."""
        self.flush()
        return self.__dict__.copy()

    def extra_repr(self) -> str:
        """Describe the tracker in the model's print-out."""
        return (
            f"num_samples={self.num_samples}, momentum={self.momentum}, "
            f"normalization='{self.normalization}'"
        )


@torch.no_grad()
def update_together(
    trackers: Sequence[MemorizationTracker], ids: Tensor, values: Tensor, *, wait: bool = True
) -> None:
    """Update trackers of the same samples, a row of values each: all of them, or none.

    The ranks exchange all rows at once.

    Args:
        trackers: T of them, on one device.
        ids: (B,) int64 sample ids.
        values: (T, B) finite values; B may differ between ranks.
        wait: as in `MemorizationTracker.update`.

    Raises:
        InputError: as `MemorizationTracker.update`; nothing of the step is then recorded.

    Example:
        >>> trackers = [MemorizationTracker(3), MemorizationTracker(3)]
        >>> update_together(trackers, torch.tensor([2]), torch.tensor([[1.0], [5.0]]))
        >>> [tracker.momentum_loss.tolist() for tracker in trackers]
        [[0.0, 0.0, 1.0], [0.0, 0.0, 5.0]]
    """
    assert values.shape == (len(trackers), len(ids)), "a row of values per tracker"
    for tracker in trackers:
        tracker.flush()
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(f"ids must be integers, got {ids.dtype}.")
    device = trackers[0].momentum_loss.device
    values = values.detach().to(device, torch.float32)
    ids, values = _gather(ids.to(device, torch.int64), values)
    if ids.numel() == 0:
        return
    if len(trackers) > 1:  # a value that is not finite makes its sample's others NaN
        values = values + values.sum(0, dtype=torch.float64).mul_(0).float()
    for tracker, row in zip(trackers, values, strict=True):
        tracker._take(ids, row)
    if wait:
        for tracker in trackers:
            tracker.flush()


def _gather(ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate (B,) and (T, B) of all ranks in rank order; batches may differ in size."""
    if world_size() == 1:
        return ids, values
    # float64 holds ids up to 2**53 and float32 values exactly, so one collective carries all.
    table = gather_rows(torch.cat([ids.double()[None], values.double()]).T.contiguous())  # (N, .)
    return table[:, 0].to(torch.int64), table[:, 1:].T.to(torch.float32)


def trackers_of(method: Any) -> dict[str, MemorizationTracker]:
    """A method's trackers by signal, the one that steers first; of a method with one, that."""
    tracker = getattr(method, "tracker", None)
    if tracker is None:
        return {}
    return getattr(method, "trackers", None) or {"loss": tracker}


def learned_trackers(method: Any) -> dict[str, MemorizationTracker]:
    """What a method's loss has learned for each sample, by name, in trackers to read from.

    A part of the loss that has something defines ``learned()``: (N,) values and whether a sample
    was seen, by name.
    """
    found: dict[str, MemorizationTracker] = {}
    loss: Any = getattr(method, "loss", None)
    for part in () if loss is None else loss.modules():
        for name, (values, seen) in getattr(part, "learned", dict)().items():
            found[name] = MemorizationTracker(len(values))
            found[name].momentum_loss.copy_(values)
            found[name].updated_in.copy_(seen.int() - 1)
    return found
