"""Temperatures that change: with the epoch, or with the similarity of a pair."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.checks import TensorLike, as_tensor, check_between, check_positive
from bcl.core.errors import InputError
from bcl.losses.context import in_epochs, need_epoch
from bcl.losses.precision import plain_only


class VaryingTemperature(nn.Module):
    """A temperature that is not one number."""


class CosineSchedule(VaryingTemperature):
    r"""A temperature that swings between two values, by the epoch.

    .. math:: \tau(e) = \tau_{\text{low}} + \tfrac12 (\tau_{\text{high}} - \tau_{\text{low}})
        \bigl(1 + \cos(2 \pi e / T)\bigr)

    A high temperature groups similar images, a low one tells single images apart; a swing does
    both in turn. It is a function of the epoch, so that a resumed run needs no state.

    Args:
        low: the lowest temperature, above 0.
        high: the highest, at least ``low``; epoch 0 has it.
        period: T in epochs, at least 1; below 1 a share of the run, which then gives ``epochs``.

    Raises:
        InputError: ``low`` above ``high``, or a period that is not above 0.

    Source: TS (arXiv 2303.13664), with low 0.1, high 1 and a period of 400 of 2,000 epochs. The
    released code counts epochs from 1, so that it is one epoch ahead of a run that counts from 0.

    Example:
        >>> schedule = CosineSchedule(0.1, 1.0, period=400)
        >>> [round(schedule(epoch), 3) for epoch in (0, 100, 200)]
        [1.0, 0.55, 0.1]
    """

    def __init__(self, low: float, high: float, period: float) -> None:
        super().__init__()
        _check_range(low, high)
        check_positive("period", period, step="give epochs, or below 1 a share of the run")
        self.low, self.high, self.period = low, high, period

    def forward(self, epoch: float | None, epochs: int | None = None) -> float:
        """Temperature after ``epoch`` epochs, of ``epochs`` if the period is a share of these."""
        epoch = need_epoch("the schedule of the temperature", epoch)
        turns = epoch / in_epochs("period", self.period, epochs)
        return self.low + (self.high - self.low) * (1 + math.cos(2 * math.pi * turns)) / 2

    def extra_repr(self) -> str:
        """Describe the schedule when a model is printed."""
        return f"{self.low}, {self.high}, period={self.period}"


class SimilarityTemperature(VaryingTemperature):
    r"""A temperature of each pair: low for unrelated ones, high for similar and opposite ones.

    With the cosine s of a pair,

    .. math:: \tau(s) = \tau_{\text{low}} + \tfrac12 (\tau_{\text{high}} - \tau_{\text{low}})
        \bigl(1 + \cos(\pi (1 + s))\bigr)

    so that it is low at s = 0 and high at s = -1 and 1. With an ``offset`` o it has a plateau:
    high for s ≥ o, and :math:`\cos(\pi (s - o) / w)` in place of the cosine below. The losses treat
    it as a constant in their derivative.

    Args:
        low: the lowest temperature, above 0.
        high: the highest, at least ``low``.
        offset: o, the cosine from which on the temperature is high; None for no plateau.
        width: w, how far below the offset the temperature is low.

    Raises:
        InputError: ``low`` above ``high``, or a width that is not above 0.

    Source: DySTreSS (arXiv 2308.01140), with (0.07, 0.2) on small images, (0.1, 0.2) on ImageNet,
    and (0.1, 0.2, 0.4, 0.7) for the plateau. The released code's default is none of its functions
    and leaves the temperature constant at ``high``.

    Example:
        >>> SimilarityTemperature(0.1, 0.2)(torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
        tensor([0.2000, 0.1500, 0.1000, 0.1500, 0.2000])
    """

    def __init__(
        self, low: float, high: float, offset: float | None = None, width: float = 0.7
    ) -> None:
        super().__init__()
        _check_range(low, high)
        check_positive("width", width)
        if offset is not None:
            check_between("offset", offset, -1, 1)
        self.low, self.high, self.offset, self.width = low, high, offset, width

    def forward(self, cosine: TensorLike) -> Tensor:
        """Cosines of any shape to temperatures."""
        cosine = as_tensor("cosine", cosine)
        offset, width = (-1.0, 1.0) if self.offset is None else (self.offset, self.width)
        swing = torch.cos((cosine - offset) * (math.pi / width))
        temperature = swing * ((self.high - self.low) / 2) + (self.high + self.low) / 2
        if self.offset is None:
            return temperature
        return torch.where(cosine < offset, temperature, self.high)

    def extra_repr(self) -> str:
        """Describe the function when a model is printed."""
        plateau = "" if self.offset is None else f", offset={self.offset}, width={self.width}"
        return f"{self.low}, {self.high}{plateau}"


class Reciprocal:
    """The scale of a pair: one over the temperature of its cosine, constant in derivatives."""

    def __init__(self, temperature: Callable[[Tensor], Tensor]) -> None:
        self.temperature = temperature

    def __call__(self, cosine: Tensor) -> Tensor:
        """Cosines of any shape to scales."""
        known = type(self.temperature) is SimilarityTemperature  # which needs no check
        temperature: Tensor = (self.temperature if known else self._checked)(cosine)
        return temperature.detach().to(cosine).reciprocal()

    def _checked(self, cosine: Tensor) -> Tensor:
        cosine = cosine.clamp(-1, 1)  # rounding leaves them
        temperature = self.temperature(cosine)
        _check_function(temperature, cosine)
        return temperature


def _check_function(temperature: Any, cosine: Tensor) -> None:
    """Refuse what a function made of cosines, but not NaN, which may come from NaN."""
    if not isinstance(temperature, Tensor) or temperature.shape != cosine.shape:
        shape = tuple(getattr(temperature, "shape", ()))
        raise InputError(
            f"the function of the temperature must return one for each cosine, of shape "
            f"{tuple(cosine.shape)}, got {type(temperature).__name__} of {shape}; for a constant "
            "pass a number."
        )
    if temperature.device.type != "cpu" or plain_only() or not temperature.numel():
        return  # a GPU would have to wait
    if temperature.detach().amin() <= 0:
        wrong = temperature <= 0
        raise InputError(
            "the function of the temperature must be above 0 at every cosine, got "
            f"{float(temperature[wrong][0]):.6g} at {float(cosine[wrong][0]):.6g}; bound it, as "
            "with temperature.clamp(min=0.01)."
        )


def _check_range(low: float, high: float) -> None:
    for name, value in (("low", low), ("high", high)):
        check_positive(name, value, step="give a temperature, such as 0.1")
    if low > high:
        raise InputError(f"low must be at most high, got low={low!r} and high={high!r}; swap them.")


class ScheduledTemperature:
    """Of a loss whose ``temperature`` may be a schedule."""

    temperature: Any

    def temperature_at(self, epoch: float | None = None, epochs: int | None = None) -> Any:
        """Return the temperature, of a schedule that of an epoch."""
        if isinstance(self.temperature, CosineSchedule):
            return self.temperature.forward(epoch, epochs)
        return self.temperature

    def figures(self, epoch: int, epochs: int) -> dict[str, float]:
        """Return the temperature of a schedule, for the logs."""
        if not isinstance(self.temperature, CosineSchedule):
            return {}
        return {"temperature": self.temperature.forward(epoch, epochs)}
