"""Colour operations with one factor a picture, on float32 levels 0 .. 255."""

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0, 1, 2, 3


def per_picture(x: Tensor) -> Tensor:
    """(R,) to (R, 1, 1, 1)."""
    return x[:, None, None, None]


def luminance(x: Tensor, exact: bool) -> Tensor:
    r"""Grey level of each pixel, ITU-R 601: :math:`0.299 R + 0.587 G + 0.114 B`.

    Args:
        x: (R, 3, H, W) levels.
        exact: Pillow's integer weights over 65536, rounded; every product and sum is a whole
            number below 2**24, so float32 is exact.

    Returns:
        (R, 1, H, W) levels.

    Example:
        >>> luminance(torch.tensor([255.0, 0, 0]).view(1, 3, 1, 1), exact=True).item()
        76.0
    """
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    if exact:
        grey = (red * 19595).add_(green * 38470).add_(blue * 7471).add_(32768)
        return grey.mul_(2.0**-16).floor_()
    return (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def grey_mean(grey: Tensor, exact: bool) -> Tensor:
    """(R, 1, H, W) grey levels to their (R, 1, 1, 1) mean; whole levels when ``exact``."""
    mean = grey.mean(dim=(2, 3), keepdim=True)
    return (mean + 0.5).floor() if exact else mean


def blend(base: Tensor, x: Tensor, factor: Tensor, exact: bool) -> Tensor:
    r"""Pillow's enhancement: :math:`b + f (x - b)` cut to [0, 255], towards zero when ``exact``.

    Args:
        base: what factor 0 gives, broadcast to ``x``.
        x: (R, C, H, W) levels.
        factor: (R, 1, 1, 1).
        exact: whole levels, truncated.

    Returns:
        (R, C, H, W) levels.
    """
    y = (x - base).mul_(factor).add_(base).clamp_(0, 255)
    return y.floor_() if exact else y


def shift_hue(x: Tensor, shift: Tensor, exact: bool) -> Tensor:
    r"""Turn the hue in HSV space.

    With :math:`n = 5, 3, 1` for R, G, B and :math:`k = (n + 6h) \bmod 6`, a channel is
    :math:`v - v s \max(0, \min(k, 4 - k, 1))`.

    Args:
        x: (R, 3, H, W) levels.
        shift: (R,) turns in [-0.5, 0.5].
        exact: hue and saturation in 256 levels as in Pillow's HSV mode.

    Returns:
        (R, 3, H, W) levels. A shift of zero changes nothing in float, and rounds when ``exact``.
    """
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]  # (R, H, W)
    value = x.amax(dim=1)
    chroma = value - x.amin(dim=1)
    safe = torch.where(chroma == 0, 1.0, chroma)
    to_red, to_green, to_blue = ((value - y) / safe for y in (red, green, blue))
    sector = torch.where(
        value == red,
        to_blue - to_green,
        torch.where(value == green, to_red - to_blue + 2, to_green - to_red + 4),
    )
    turns = shift[:, None, None]
    if exact:
        # Pillow turns sectors into turns in double precision, keeps them in single, and scales
        # them in double; pixels whose hue is a whole level of 255 depend on it.
        hue = ((sector.to(torch.float64) / 6 + 1) % 1).to(torch.float32)
        hue = (hue.to(torch.float64) * 255).floor().to(torch.float32)
        # torchvision adds int(shift * 255) in unsigned bytes, so the sum wraps around.
        hue = (hue + (turns * 255).trunc()) % 256
        saturation = (chroma / torch.where(value == 0, 1.0, value) * 255).floor()
        sixth = hue * 6 / 255
        depth = saturation / 255
    else:
        sixth = sector + 6 * turns
        depth = chroma
    channels = []
    for n in (5, 3, 1):
        k = (sixth + n) % 6
        ramp = torch.minimum(k, 4 - k).clamp_(0, 1)
        if exact:
            channels.append((value * (1 - depth * ramp) + 0.5).floor())
        else:
            channels.append(value - depth * ramp)
    return torch.stack(channels, dim=1)
