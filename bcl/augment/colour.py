"""Colour operations with one factor a picture, on float32 levels 0 .. 255.

Selections are written as products with 0 or 1 rather than as ``torch.where``, whose CPU kernel
takes tens of times as long; the products are exact.
"""

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
        exact: rounded to whole levels; with Pillow's integer weights over 65536 every product and
            sum is then exact in float32.

    Returns:
        (R, 1, H, W) levels.

    Example:
        >>> luminance(torch.tensor([255.0, 0, 0]).view(1, 3, 1, 1), exact=True).item()
        76.0
    """
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    grey = (red * (19595 / 65536)).add_(green, alpha=38470 / 65536).add_(blue, alpha=7471 / 65536)
    return grey.add_(0.5).floor_() if exact else grey


def grey_mean(grey: Tensor, exact: bool) -> Tensor:
    """(R, 1, H, W) grey levels to their (R, 1, 1, 1) mean; a whole level when ``exact``."""
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)
    return mean.add_(0.5).floor_() if exact else mean


def blend(base: Tensor, x: Tensor, factor: Tensor, exact: bool) -> Tensor:
    r"""Pillow's enhancement: :math:`b + f (x - b)` cut to [0, 255], towards zero when ``exact``.

    Args:
        base: what factor 0 gives, broadcast to ``x``.
        x: (R, C, H, W) levels.
        factor: (R,).
        exact: whole levels, truncated.

    Returns:
        (R, C, H, W) levels.
    """
    y = (x - base).mul_(per_picture(factor)).add_(base).clamp_(0, 255)
    return y.floor_() if exact else y


def enhance(
    x: Tensor,
    factor: Tensor,
    to_mean: Tensor,
    to_grey: Tensor,
    exact: bool,
    kind: int | None = None,
) -> Tensor:
    """Brightness, contrast or saturation, whichever each picture's two flags say.

    All three are a `blend`: with black, with the mean grey level, or with the grey picture.

    Args:
        x: (R, 3, H, W) levels.
        factor: (R,) float32; 1 leaves a picture of whole levels as it is.
        to_mean: (R,) float32, 1 for contrast, else 0.
        to_grey: (R,) float32, 1 for saturation, else 0.
        exact: whole levels.
        kind: `BRIGHTNESS`, `CONTRAST` or `SATURATION` if that is what all flags say.

    Returns:
        (R, 3, H, W) levels.
    """
    if kind == BRIGHTNESS:
        y = (x * per_picture(factor)).clamp_(0, 255)
        return y.floor_() if exact else y
    grey = luminance(x, exact)  # (R, 1, H, W)
    if kind == SATURATION:
        return blend(grey, x, factor, exact)
    mean = grey_mean(grey, exact)  # (R, 1, 1, 1)
    if kind == CONTRAST:
        return blend(mean, x, factor, exact)
    base = grey.mul_(per_picture(to_grey)).add_(mean.mul_(per_picture(to_mean)))
    return blend(base, x, factor, exact)


def shift_hue(x: Tensor, shift: Tensor, exact: bool) -> Tensor:
    r"""Turn the hue in HSV space.

    With the value v (largest channel), the chroma c (largest less smallest), the hue h in sixths
    of a turn and :math:`k = (n + h) \bmod 6` for :math:`n = 5, 3, 1`, the channels R, G, B are
    :math:`v - c \max(0, \min(k, 4 - k, 1))`.

    Args:
        x: (R, 3, H, W) levels.
        shift: (R,) turns in [-0.5, 0.5].
        exact: hue and saturation in 256 levels as in Pillow's HSV mode.

    Returns:
        (R, 3, H, W) levels.

    Example:
        >>> red = torch.tensor([255.0, 0, 0]).view(1, 3, 1, 1)
        >>> shift_hue(red, torch.tensor([1 / 3]), exact=False).flatten().round()
        tensor([  0., 255.,   0.])
    """
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]  # (R, H, W)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    sixth = _hue_sixths(x, value, chroma, exact)  # -1 .. 5
    turns = shift[:, None, None]
    if exact:
        sixth = _turn_levels(sixth, turns)
        depth = (chroma / value.clamp(min=1)).mul_(255).floor_().div_(255).mul_(value)
        value = value.add_(0.5)
    else:
        sixth = sixth.add_(6 * turns)
        sixth = sixth.sub_((sixth / 6).floor_().mul_(6))
        depth = chroma
    # min(k, 4 - k, 1) is 2 less the distance of h from the channel's complement around the
    # circle, and that distance is |3 - distance of h from the channel's own hue| for h in [0, 6].
    least = torch.add(value, depth, alpha=-2)
    turned = torch.empty_like(x)
    for channel, own in enumerate((0, 2, 4)):
        near = (sixth - own).abs_().sub_(3) if own else sixth - 3
        turned[:, channel] = torch.addcmul(least, depth, near.abs_().clamp_(1, 2))
    return turned.floor_() if exact else turned


def _hue_sixths(x: Tensor, value: Tensor, chroma: Tensor, exact: bool) -> Tensor:
    """(R, H, W) hue in sixths of a turn, -1 .. 5, as colorsys and Pillow define it."""
    # Whole levels differ by one at least; where there is no chroma the hue does not matter.
    safe = chroma.clamp(min=1 if exact else 1e-4)
    away = value[:, None] - x  # (R, 3, H, W)
    other = away[:, :2].sign()  # 1 where red, and where green, is not the largest
    is_blue = other[:, 0] * other[:, 1]  # the first of equals counts
    is_green = other[:, 0] - is_blue
    is_red = 1 - other[:, 0]
    away.div_(safe[:, None])
    to_red, to_green, to_blue = away[:, 0], away[:, 1], away[:, 2]
    sector = (to_blue - to_green).mul_(is_red)
    sector.addcmul_((to_red - to_blue).add_(2), is_green)
    return sector.addcmul_((to_green - to_red).add_(4), is_blue)


def _turn_levels(sixth: Tensor, turns: Tensor) -> Tensor:
    """Turn a hue in sixths as Pillow's HSV mode holds it, in 256 levels; 0 .. 6 sixths."""
    # Pillow turns sectors into turns in double precision, keeps them in single, and scales them
    # in double; pixels whose hue is a whole level of 255 depend on it.
    wide = torch.float32 if sixth.device.type == "mps" else torch.float64
    hue = sixth.to(wide).mul_(1 / 6).add_(1).frac_().to(torch.float32)
    # torchvision adds int(shift * 255) in unsigned bytes, so the sum wraps around.
    level = hue.to(wide).mul_(255).floor_().to(torch.float32).add_((turns * 255).trunc())
    return level.sub_((level * (1 / 256)).floor_().mul_(256)).mul_(6 / 255)
