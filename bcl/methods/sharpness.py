"""Sharpness-aware steps, which pass their batch twice."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bcl.core.checks import check_choice, check_positive
from bcl.core.errors import InputError
from bcl.losses.sharpness import sam_ascent, signal_weights
from bcl.memorization.signals import SIGNALS, Signal
from bcl.memorization.tracker import MemorizationTracker
from bcl.methods.modes import eval_mode, norms_kept


@dataclass(frozen=True)
class SharpnessSettings:
    """Sharpness-aware steps (SAM), weighted by a signal of the tail (rwSAM).

    A step passes its batch twice. The first gradient, of the loss with `bcl.signal_weights`, moves
    the weights to where that loss is highest nearby (`bcl.sam_ascent`); the second, of the plain
    loss there, is that of the step. The memory and the batch norms see the first pass, at the
    weights themselves; what a loss or a queue keeps, and the loss logged, are of the second.

    Args:
        rho: how far the weights move.
        adaptive: whether each weight moves by its size, as released.
        signal: that of the weights, which the memory records; None for plain SAM.
        exponent: of the weights; 0 for plain SAM.

    Example:
        >>> SharpnessSettings(rho=2.0, signal="sparseness").exponent
        0.5
    """

    rho: float = 7.0
    adaptive: bool = True
    signal: Signal | None = None
    exponent: float = 0.5

    def __post_init__(self) -> None:
        check_positive("sharpness.rho", self.rho)
        check_positive("sharpness.exponent", self.exponent, zero=True)
        if self.signal is not None:
            check_choice("sharpness.signal", self.signal, SIGNALS)

    def check_recorded(self, signals: tuple[Signal, ...]) -> None:
        """Refuse a signal that the memory does not record."""
        if self.signal not in (None, *signals):
            raise InputError(
                f"optimizer.sharpness.signal='{self.signal}' is not recorded; add it to "
                "memory.watch."
            )

    def weights(self, trackers: Mapping[Any, MemorizationTracker], ids: Tensor) -> Tensor:
        """(B,) weights of samples in the first pass, by the signal that the memory has of them."""
        if self.signal is None:
            return torch.ones(len(ids), device=ids.device)
        tracker = trackers[self.signal]
        weights = signal_weights(tracker.momentum_loss, self.exponent, tracker.seen)[ids]
        return torch.where(ids < 0, 1.0, weights)


class Pass(NamedTuple):
    """What a pass of a batch is for.

    Args:
        records: the memory takes its losses.
        trains: its gradient is that of the step; its loss is logged, and a queue takes its keys.
    """

    records: bool = True
    trains: bool = True


WHOLE = Pass()  # of a step with one
ASCENT, DESCENT = Pass(trains=False), Pass(records=False)


def pass_twice(method: Any, sharpness: SharpnessSettings, closure: Callable[[], Any]) -> Any:
    """Run a step's closure at a method's weights, and then where the loss nearby is highest."""
    with _passing(method, ASCENT), eval_mode(method.loss):
        closure()
    moved = sam_ascent(method.parameters(), sharpness.rho, sharpness.adaptive)
    with moved, _passing(method, DESCENT), norms_kept(method):
        return closure()


@contextmanager
def _passing(method: Any, current: Pass) -> Iterator[None]:
    """Tell a method what the pass is for: Lightning's closure takes no arguments."""
    method.current_pass = current
    try:
        yield
    finally:
        method.current_pass = WHOLE
