"""Checks of the base chain's settings."""

import math

from bcl.augment.sampling import ChainSettings
from bcl.core.errors import InputError


def check_size(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """Turn a side or (rows, columns) into (rows, columns), both at least 1."""
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pair):
        raise InputError(f"{name} must be a positive integer or two of them, got {size!r}.")
    return pair


def check_count(name: str, count: int, least: int) -> None:
    """Refuse what is not an integer of at least ``least``."""
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise InputError(f"{name} must be an integer of at least {least}, got {count!r}.")


def check_normalization(
    mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None
) -> None:
    """Refuse a mean or standard deviation alone, of another length, or one to divide by 0."""
    if (mean is None) != (std is None):
        raise InputError("mean and std go together; give both or neither.")
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        three = isinstance(values, tuple | list) and len(values) == 3
        if not three or not all(math.isfinite(v) and (name == "mean" or v > 0) for v in values):
            raise InputError(
                f"{name} must be three finite numbers, one a channel"
                f"{', above 0' if name == 'std' else ''}, got {values!r}; levels lie in [0, 1]."
            )


def check_settings(settings: ChainSettings) -> None:
    """Refuse ranges and probabilities that make no sense."""
    low, high = _pair("scale", settings.scale)
    if not 0 < low <= high <= 1:
        raise InputError(
            f"scale must satisfy 0 < low <= high <= 1 (shares of the area), got {settings.scale}; "
            "a crop of no area has no pixels."
        )
    low, high = _pair("ratio", settings.ratio)
    if not 0 < low <= high < math.inf:
        raise InputError(f"ratio must satisfy 0 < low <= high < inf, got {settings.ratio}.")
    low, high = _pair("blur_sigma", settings.blur_sigma)
    if not 0 < low <= high < math.inf:
        raise InputError(
            f"blur_sigma must satisfy 0 < low <= high < inf, got {settings.blur_sigma}."
        )
    jitter = settings.jitter
    four = isinstance(jitter, tuple | list) and len(jitter) == 4
    if not four or any(not 0 <= j < math.inf for j in jitter):
        raise InputError(
            "jitter must be four finite numbers >= 0 (brightness, contrast, saturation, hue), got "
            f"{settings.jitter}."
        )
    if settings.jitter[3] > 0.5:
        raise InputError(f"the hue's jitter must lie in [0, 0.5] turns, got {settings.jitter[3]}.")
    for name in ("flip", "jitter_probability", "grayscale_probability", "blur_probability",
                 "solarize_probability"):  # fmt: skip
        value = getattr(settings, name)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"{name} must be a number and lie in [0, 1], got {value!r}.")


def _pair(name: str, value: tuple[float, ...]) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise InputError(f"{name} must be two numbers, low and high, got {value!r}.")
    return value[0], value[1]
