"""Checks of the base chain's settings."""

from bcl.augment.sampling import ChainSettings
from bcl.errors import InputError


def check_size(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """Turn a side or (rows, columns) into (rows, columns), both at least 1."""
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pair):
        raise InputError(f"{name} must be a positive integer or two of them, got {size!r}.")
    return pair


def check_settings(settings: ChainSettings) -> None:
    """Refuse ranges and probabilities that make no sense."""
    low, high = _pair("scale", settings.scale)
    if not 0 < low <= high <= 1:
        raise InputError(
            f"scale must satisfy 0 < low <= high <= 1 (shares of the area), got {settings.scale}; "
            "a crop of no area has no pixels."
        )
    low, high = _pair("ratio", settings.ratio)
    if not 0 < low <= high:
        raise InputError(f"ratio must satisfy 0 < low <= high, got {settings.ratio}.")
    low, high = _pair("blur_sigma", settings.blur_sigma)
    if not 0 < low <= high:
        raise InputError(f"blur_sigma must satisfy 0 < low <= high, got {settings.blur_sigma}.")
    if len(settings.jitter) != 4 or any(not j >= 0 for j in settings.jitter):
        raise InputError(
            "jitter must be four numbers >= 0 (brightness, contrast, saturation, hue), got "
            f"{settings.jitter}."
        )
    if settings.jitter[3] > 0.5:
        raise InputError(f"the hue's jitter must lie in [0, 0.5] turns, got {settings.jitter[3]}.")
    for name in ("flip", "jitter_probability", "grey_probability", "blur_probability",
                 "solarize_probability"):  # fmt: skip
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise InputError(f"{name} must lie in [0, 1], got {value!r}.")


def _pair(name: str, value: tuple[float, ...]) -> tuple[float, float]:
    if len(value) != 2:
        raise InputError(f"{name} must be two numbers, low and high, got {value!r}.")
    return value[0], value[1]
