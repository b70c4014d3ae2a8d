"""Settings of sharpness-aware steps, which pass their batch twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bcl.core.checks import check_choice, check_positive
from bcl.core.errors import InputError
from bcl.memorization.signals import SIGNALS, Signal


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


@contextmanager
def norms_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms normalize by the batch, but do not count it."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
