"""Color operations with one factor an image, on float32 levels 0 .. 255.

Selections are written as products with 0 or 1 rather than as ``torch.where``, whose CPU kernel
takes tens of times as long; the products are exact.
"""

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0, 1, 2, 3
_EXACT_SUM = 1 << 24  # whole numbers up to it are exact in float32


def per_image(x: Tensor) -> Tensor:
    """(R,) to (R, 1, 1, 1)."""
    return x[:, None, None, None]


def luminance(x: Tensor, exact: bool) -> Tensor:
    r"""Gray level of each pixel, ITU-R 601: :math:`0.299 R + 0.587 G + 0.114 B`.

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
    gray = (red * (19595 / 65536)).add_(green, alpha=38470 / 65536).add_(blue, alpha=7471 / 65536)
    return gray.add_(0.5).floor_() if exact else gray


def gray_mean(gray: Tensor, exact: bool) -> Tensor:
    """(R, 1, H, W) gray levels to their (R, 1, 1, 1) mean; a whole level when ``exact``."""
    large = exact and 255 * gray.shape[2] * gray.shape[3] > _EXACT_SUM and gray.device.type != "mps"
    # A sum that float32 rounds would depend on how many images are worked on together.
    mean = gray.mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64 if large else None)
    return mean.add_(0.5).floor_().to(gray.dtype) if exact else mean


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
    # Not torch.addcmul, which rounds once and so is not Pillow's.
    y = (x - base).mul_(per_image(factor)).add_(base).clamp_(0, 255)
    return y.floor_() if exact else y


def enhance(
    x: Tensor,
    factor: Tensor,
    to_mean: Tensor,
    to_grayscale: Tensor,
    exact: bool,
    kind: int | None = None,
) -> Tensor:
    """Brightness, contrast or saturation, whichever each image's two flags say.

    All three are a `blend`: with black, with the mean gray level, or with the gray image.

    Args:
        x: (R, 3, H, W) levels.
        factor: (R,) float32; 1 leaves an image of whole levels as it is.
        to_mean: (R,) float32, 1 for contrast, else 0.
        to_grayscale: (R,) float32, 1 for saturation, else 0.
        exact: whole levels.
        kind: `BRIGHTNESS`, `CONTRAST` or `SATURATION` if that is what all flags say.

    Returns:
        (R, 3, H, W) levels.
    """
    if kind == BRIGHTNESS:
        y = (x * per_image(factor)).clamp_(0, 255)
        return y.floor_() if exact else y
    gray = luminance(x, exact)  # (R, 1, H, W)
    if kind == SATURATION:
        return blend(gray, x, factor, exact)
    mean = gray_mean(gray, exact)  # (R, 1, 1, 1)
    if kind == CONTRAST:
        return blend(mean, x, factor, exact)
    base = gray.mul_(per_image(to_grayscale)).add_(mean.mul_(per_image(to_mean)))
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
    # Whole levels differ by one at least; where there is no chroma the hue does not matter.
    safe = chroma.clamp(min=1 if exact else 1e-4)
    hue = _hue_sixths(x, value, chroma, safe)
    turns = shift[:, None, None]
    if exact:
        hue = _turn_levels(hue, turns)
        depth = torch.div(chroma, value.clamp(min=1), out=safe).mul_(255).floor_().div_(255)
        depth = depth.mul_(value)
        value.add_(0.5)
        sixth = 255 / 6
    else:
        hue = hue.add_(6 * turns)
        hue = hue.sub_((hue / 6).floor_(), alpha=6)
        depth, sixth = chroma, 1.0
    # max(0, min(k, 4 - k, 1)) is, with h in [0, 6], 2 - u for red, whose u is the distance
    # |h - 3| cut to [1, 2]; and u - 1 for green and blue, with the distances from 2 and 4.
    bases = torch.sub(value, depth, alpha=2), value.add_(depth), value
    slope = depth.div_(sixth) if exact else depth
    del chroma, depth
    turned = torch.empty_like(x)
    for channel, (middle, sign) in enumerate(((3, 1), (2, -1), (4, -1))):
        away = (hue - middle * sixth).abs_().clamp_(sixth, 2 * sixth)
        turned[:, channel] = torch.addcmul(bases[channel], slope, away, value=sign)
    return turned.floor_() if exact else turned


def _hue_sixths(x: Tensor, value: Tensor, chroma: Tensor, safe: Tensor) -> Tensor:
    """(R, H, W) hue in sixths of a turn, -1 .. 5, as colorsys and Pillow define it.

    With c the chroma it is (g - b) / c where red is largest, else 2 + (b - r) / c where green is,
    else 4 + (r - g) / c.
    """
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]
    first, other = green - blue, red - blue
    not_red, not_green = (value - red).sign_(), (value - green).sign_()
    differ = (red - green).add_(other).mul_(not_green).sub_(other)
    differ = differ.sub_(first).mul_(not_red).add_(first)
    sector = not_green.add_(1).mul_(not_red)  # 0, 1, 2
    del first, other, not_red
    # Pillow subtracts two quotients, the larger of which is 1, from the sector's hue or from one
    # another, and whole levels depend on how that rounds.
    side = differ.sign()
    rest = (chroma - differ.abs_()).div_(safe).mul_(side)
    return side.add_(sector, alpha=2).sub_(rest)


def _turn_levels(sixth: Tensor, turns: Tensor) -> Tensor:
    """Turn a hue in sixths (R, H, W) as Pillow's HSV mode holds it, in 256 levels 0 .. 255."""
    # Pillow holds the hue as a share of a turn in single precision and multiplies by 255 in
    # double: a whole level m drops to m - 1 where m / 255 was rounded down. 256 h - m is exact,
    # and so is what is left when h is subtracted.
    # (On a GPU a division by a Python number is a product with its rounded reciprocal, which puts
    # hues on the wrong side of a level; one by a tensor is a division.)
    share = sixth.div_(torch.full_like(turns, 6.0))
    share.sub_(share.floor())
    level = (share * 255).floor_()
    level.add_((share * 256).sub_(level).sub_(share).floor_())
    # torchvision adds int(shift * 255) in unsigned bytes, so the sum wraps around.
    level.add_((turns * 255).trunc())
    return level.sub_((level * (1 / 256)).floor_(), alpha=256)
