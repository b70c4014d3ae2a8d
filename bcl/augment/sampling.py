"""Settings of the views, and their parameters as a function of seed, epoch, sample id and view."""

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from bcl.augment.params import BoostParams, ViewParams
from bcl.augment.policy import MAX_MAGNITUDE, OPS
from bcl.core.checks import check_choice, check_count
from bcl.core.errors import InputError
from bcl.core.random import hash64, uniform

# Torchvision's number of attempts at a crop that fits.
TRIES = 10
# Streams of the hash: 0-9 areas, 10-19 ratios, then one number each.
_TOP, _LEFT, _FLIP, _JITTER = 20, 21, 22, 23
_FACTORS, _ORDER, _GRAY, _BLUR, _SIGMA, _SOLARIZE = 24, 28, 32, 33, 34, 35
_STREAMS = 36
# Streams of the boosted ops: zeta, then five per op.
ZETA, FIRST_OP = 1000, 1001

Arithmetic = Literal["exact", "fast"]


@dataclass(frozen=True)
class ChainSettings:
    """Ranges and probabilities of the base chain of `bcl.ContrastiveViews`.

    Args:
        scale: smallest and largest share of the image's area in a crop.
        ratio: smallest and largest width over height of a crop.
        flip_probability: probability of a horizontal flip.
        color_jitter: strength of brightness, contrast, saturation and hue, as in torchvision's
            ``ColorJitter``.
        color_jitter_probability: probability of color jitter.
        grayscale_probability: probability of grayscale.
        blur_probability: probability of a Gaussian blur.
        blur_sigma: smallest and largest standard deviation of the blur, in pixels.
        solarize_probability: probability of inverting the levels from 128 up.

    Raises:
        InputError: a value out of its range.

    Example:
        >>> ChainSettings(scale=(0.2, 1.0), flip_probability=0.0).scale
        (0.2, 1.0)
    """

    scale: tuple[float, float] = (0.1, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    color_jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_probability: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges; lists, as configuration files have them, become tuples."""
        for name, count, highest in (
            ("scale", 2, 1.0), ("ratio", 2, math.inf), ("blur_sigma", 2, math.inf),
            ("color_jitter", 4, math.inf),
        ):  # fmt: skip
            value = numbers(name, getattr(self, name), count, 0.0, highest)
            if count == 2 and not 0 < value[0] <= value[1]:
                raise InputError(f"{name} must be (low, high) with 0 < low <= high, got {value}.")
            object.__setattr__(self, name, value)
        if self.color_jitter[3] > 0.5:
            raise InputError(f"the hue shift is at most 0.5, got color_jitter={self.color_jitter}.")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("probability") and not is_number(value, 0.0, 1.0):
                raise InputError(f"{field.name} must be a number in [0, 1], got {value!r}.")


@dataclass(frozen=True)
class ViewSettings:
    """Size (rows, columns) of views, their arithmetic, and mean and std of the channels."""

    size: tuple[int, int]
    arithmetic: Arithmetic = "exact"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        check_choice("arithmetic", self.arithmetic, ("exact", "fast"))
        object.__setattr__(self, "size", sides("size", self.size))
        if (self.mean is None) != (self.std is None):
            raise InputError("mean and std must be given together; pass both or neither.")
        if self.mean is not None:
            object.__setattr__(self, "mean", numbers("mean", self.mean, 3, -math.inf, math.inf))
            object.__setattr__(self, "std", numbers("std", self.std, 3, 1e-9, math.inf))


def sides(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """Turn a side or (rows, columns) into (rows, columns), both at least 1."""
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pair):
        raise InputError(f"{name} must be a positive integer or two of them, got {size!r}.")
    return pair


def is_number(value: object, low: float, high: float) -> bool:
    """Whether ``value`` is a finite number in [low, high]."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and low <= value <= high


def numbers(name: str, values: object, count: int, low: float, high: float) -> tuple[float, ...]:
    """Turn a list or tuple of ``count`` finite numbers in [low, high] into a tuple."""
    listed = isinstance(values, tuple | list) and len(values) == count
    if not listed or not all(is_number(value, low, high) for value in values):  # type: ignore[attr-defined]
        raise InputError(
            f"{name} must be {count} finite numbers in [{low:g}, {high:g}], got {values!r}."
        )
    return tuple(values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Strength:
    """How a score turns into ops, see `bcl.BoostedRandAugment`."""

    num_ops: int
    min_magnitude: float
    max_magnitude: float
    random_magnitude: bool

    def __post_init__(self) -> None:
        """Check the values."""
        check_count("num_ops", self.num_ops)
        if not isinstance(self.random_magnitude, bool):
            raise InputError(f"random_magnitude must be a bool, got {self.random_magnitude!r}.")
        low, high = self.min_magnitude, self.max_magnitude
        if not all(is_number(value, 0, MAX_MAGNITUDE) for value in (low, high)) or low > high:
            raise InputError(
                "magnitudes must satisfy 0 <= min_magnitude <= max_magnitude <= 30, got "
                f"{low!r} and {high!r}."
            )


def draw_chain(
    settings: ChainSettings,
    ids: Tensor,
    image_size: tuple[int, int],
    seed: int,
    epoch: int,
    views: range,
) -> ViewParams:
    """Draw the base chain's parameters, V B rows view by view, for ids (B,).

    Example:
        >>> one = draw_chain(ChainSettings(), torch.arange(4), (32, 32), 0, 3, range(2))
        >>> two = draw_chain(ChainSettings(), torch.tensor([3]), (32, 32), 0, 3, range(1, 2))
        >>> one.width[7] == two.width[0]
        tensor(True)
    """
    key, view = _keys(ids, seed, epoch, views)
    u = uniform(key[:, None], torch.arange(_STREAMS, device=key.device))  # (R, streams)
    # Factors in [max(0, 1 - j), 1 + j], hue in [-j, j]; neutral without jitter.
    neutral, reach = u.new_tensor([1.0, 1.0, 1.0, 0.0]), u.new_tensor(settings.color_jitter)
    low = torch.cat([(1 - reach[:3]).clamp(min=0), -reach[3:]])
    factors = low + (neutral + reach - low) * u[:, _FACTORS:_ORDER]  # (R, 4)
    jittered = u[:, _JITTER] < settings.color_jitter_probability
    factors = torch.where(jittered[:, None], factors, neutral)
    low_sigma, high_sigma = settings.blur_sigma
    sigma = low_sigma + (high_sigma - low_sigma) * u[:, _SIGMA]
    top, left, height, width = _boxes(u, image_size, settings)
    brightness, contrast, saturation, hue = factors.unbind(1)
    return ViewParams(
        top, left, height, width, u[:, _FLIP] < settings.flip_probability,
        brightness, contrast, saturation, hue,
        order=u[:, _ORDER:_GRAY].argsort(dim=1, stable=True),
        gray=u[:, _GRAY] < settings.grayscale_probability,
        blur=torch.where(u[:, _BLUR] < settings.blur_probability, sigma, 0.0),
        solarize=u[:, _SOLARIZE] < settings.solarize_probability,
        view=view,
    ).to(ids.device)  # fmt: skip


def draw_ops(
    strength: Strength, scores: Tensor, ids: Tensor, seed: int, epoch: int, views: range
) -> BoostParams:
    """Draw the boosted ops, V B rows view by view, for scores (B,) in [0, 1] and ids (B,)."""
    k = strength.num_ops
    key, _ = _keys(ids, seed, epoch, views)
    u = uniform(key[:, None], torch.arange(5 * k, device=key.device) + FIRST_OP)  # (R, 5 k)
    op, coin, sign, center_x, center_y = u.view(-1, k, 5).unbind(2)
    scores = share = scores.cpu()
    if strength.random_magnitude:
        share = share * uniform(hash64(seed, epoch, ids.cpu()), ZETA)  # (B,)
    magnitude = strength.min_magnitude + (strength.max_magnitude - strength.min_magnitude) * share
    return BoostParams(
        op=(op * len(OPS)).to(torch.int64),
        active=coin < scores.repeat(len(views))[:, None],
        magnitude=magnitude.repeat(len(views))[:, None].expand(-1, k),
        sign=torch.where(sign < 0.5, 1.0, -1.0),
        center_x=center_x,
        center_y=center_y,
    ).to(ids.device)


def _keys(ids: Tensor, seed: int, epoch: int, views: range) -> tuple[Tensor, Tensor]:
    """Hash and view of each of the V B rows, view by view, on the CPU."""
    view = torch.arange(views.start, views.stop, device="cpu").repeat_interleave(len(ids))
    return hash64(seed, epoch, ids.cpu().repeat(len(views)), view), view


def _boxes(u: Tensor, image_size: tuple[int, int], settings: ChainSettings) -> list[Tensor]:
    r"""Boxes of torchvision's ``RandomResizedCrop``: top, left, height, width, each (R,) int64.

    Each try takes an area share :math:`a` and a ratio :math:`r` (uniform in its logarithm),
    :math:`w = \sqrt{aHWr}, h = \sqrt{aHW/r}`, rounded; the first box that fits is taken, else the
    largest central box of an allowed ratio.
    """
    (rows, cols), u = image_size, u.to(torch.float64)
    # In float64 devices whose exp differs in the last bit agree on the rounded sides.
    low, high = settings.scale
    share = low + (high - low) * u[:, :TRIES]
    log_low, log_high = map(math.log, settings.ratio)
    ratio = torch.exp(log_low + (log_high - log_low) * u[:, TRIES:_TOP])
    width = (share * (rows * cols) * ratio).sqrt().round()  # (R, tries)
    height = (share * (rows * cols) / ratio).sqrt().round()
    fits = (width >= 1) & (width <= cols) & (height >= 1) & (height <= rows)
    first = fits.to(torch.int64).argmax(dim=1, keepdim=True)  # (R, 1), the first that fits
    found = fits.any(dim=1)
    best_height, best_width = largest_box(rows, cols, settings.ratio)
    height = torch.where(found, height.gather(1, first)[:, 0], float(best_height))
    width = torch.where(found, width.gather(1, first)[:, 0], float(best_width))
    # The largest box is central.
    top = torch.where(found, u[:, _TOP], 0.5) * (rows - height + 1)
    left = torch.where(found, u[:, _LEFT], 0.5) * (cols - width + 1)
    top, left = top.floor().minimum(rows - height), left.floor().minimum(cols - width)
    return [side.to(torch.int64) for side in (top, left, height, width)]


def largest_box(rows: int, cols: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest box whose width over height is allowed."""
    if cols / rows < ratio[0]:
        return max(1, min(rows, round(cols / ratio[0]))), cols
    if cols / rows > ratio[1]:
        return rows, max(1, min(cols, round(rows * ratio[1])))
    return rows, cols
