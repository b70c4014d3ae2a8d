"""The learning-rate schedules of the papers."""

import math
from dataclasses import dataclass
from itertools import pairwise

from bcl.core.checks import check_count, check_positive
from bcl.core.errors import InputError
from bcl.losses.context import check_begins, in_epochs


@dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate changes over a run, step by step.

    Args:
        warmup_epochs: epochs of linear warm-up from 0.
        min_learning_rate: the learning rate at the end of the cosine.
        milestones: epochs after which the learning rate is divided by 10, instead of the cosine.
        restart: epoch at which the first cosine ends and a second one begins, as in GH; below 1 a
            share of the run, 0 for one cosine.
        restart_learning_rate: the learning rate there.

    Example:
        >>> schedule = ScheduleSettings(warmup_epochs=0, milestones=(1, 2))
        >>> [schedule.factor(step, total=6, epochs=3, base=0.5) for step in (0, 2, 4)]
        [1.0, 0.1, 0.010000000000000002]
    """

    warmup_epochs: int = 10
    min_learning_rate: float = 1e-6
    milestones: tuple[int, ...] = ()
    restart: float = 0
    restart_learning_rate: float = 0.3

    def __post_init__(self) -> None:
        check_count("warmup_epochs", self.warmup_epochs, at_least=0)
        check_positive("min_learning_rate", self.min_learning_rate, zero=True)
        check_positive("restart", self.restart, zero=True)
        check_positive("restart_learning_rate", self.restart_learning_rate)
        if self.restart and self.milestones:
            raise InputError("restart is for the cosine; set restart to 0, or no milestones.")
        for epoch in self.milestones:
            check_count("milestones", epoch)
        if any(first >= second for first, second in pairwise(self.milestones)):
            raise InputError(f"milestones must increase, got {list(self.milestones)}.")

    def factor(self, step: int, *, total: int, epochs: int, base: float) -> float:
        """Learning rate of a step, counted from 0, as a factor of ``base``, in a run of ``total``.

        The first step trains at t = 1 of the warm-up and the cosine, and the last at t = T, as in
        the released code.
        """
        check_begins("restart", self.restart, epochs)
        warmup = min(round(self.warmup_epochs * total / epochs), total)
        if not self.milestones:
            turn = round(in_epochs("restart", self.restart, epochs) * total / epochs)
            middle, minimum = self.restart_learning_rate, self.min_learning_rate
            if 0 < turn <= step:
                rate = warmup_cosine(
                    step + 1 - turn, base=middle, total=total - turn, minimum=minimum
                )
            else:
                minimum, end = (middle, turn) if turn else (minimum, total)
                rate = warmup_cosine(step + 1, base=base, total=end, warmup=warmup, minimum=minimum)
            return rate / base
        passed = sum(step >= round(epoch * total / epochs) for epoch in self.milestones)
        return (min((step + 1) / warmup, 1.0) if warmup else 1.0) * 0.1**passed


def warmup_cosine(
    step: int, *, base: float, total: int, warmup: int = 0, minimum: float = 0.0
) -> float:
    r"""Learning rate of a step: linear warm-up from 0, then half a cosine down to ``minimum``.

    .. math:: \eta_t = \eta\,t/w \ (t \le w), \qquad
        \eta_t = \eta_{\min} + \tfrac12 (\eta - \eta_{\min})
        \bigl(1 + \cos(\pi \tfrac{t - w}{T - w})\bigr)

    Args:
        step: t, counted in optimizer steps from 0.
        base: the highest learning rate.
        total: T, the number of steps of the run; later steps keep ``minimum``.
        warmup: w, the number of warm-up steps.
        minimum: the learning rate at the end.

    Source: BCL (arXiv 2205.12693), released training code.

    Example:
        >>> [warmup_cosine(t, base=1.0, total=8, warmup=4) for t in (0, 2, 4, 6, 8)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step <= warmup and warmup > 0:
        return base * step / warmup
    if step >= total:
        return minimum
    progress = (step - warmup) / (total - warmup)
    return minimum + 0.5 * (base - minimum) * (1 + math.cos(math.pi * progress))
