"""Color ops on float32 levels 0 .. 255, with one factor per image; they change ``x`` in place.

With ``exact`` every step rounds to whole levels as Pillow does. Selections are products with 0 or
1 where ``torch.where`` would be far slower on a CPU; the products are exact.
"""

import torch
from torch import Tensor

from bcl.augment.ops.blocks import change_rows

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_EXACT_SUM = 1 << 24  # integers up to here are exact in float32


def per_image(x: Tensor) -> Tensor:
    """(R,) as float32 (R, 1, 1, 1)."""
    return x.to(torch.float32)[:, None, None, None]


def round_levels(x: Tensor) -> Tensor:
    """Round to whole levels 0 .. 255 in place."""
    return x.clamp_(0, 255).add_(0.5).floor_()


def luminance(x: Tensor, exact: bool) -> Tensor:
    """Gray level :math:`0.299 R + 0.587 G + 0.114 B` (R, 1, H, W) of (R, 3, H, W), ITU-R 601."""
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    gray = (red * (19595 / 65536)).add_(green, alpha=38470 / 65536).add_(blue, alpha=7471 / 65536)
    return gray.add_(0.5).floor_() if exact else gray


def gray_mean(gray: Tensor, exact: bool) -> Tensor:
    """(R, 1, H, W) gray levels to their (R, 1, 1, 1) mean; a whole level when ``exact``."""
    # A sum that float32 rounds would depend on how many images share a block.
    large = exact and 255 * gray.shape[2] * gray.shape[3] > _EXACT_SUM
    mean = gray.mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64 if large else None)
    return mean.add_(0.5).floor_().to(gray.dtype) if exact else mean


def blend(base: Tensor, x: Tensor, factor: Tensor, exact: bool) -> Tensor:
    """Pillow's enhancement :math:`b + f (x - b)` with factors (R,), cut to [0, 255]."""
    # torch.addcmul would round once where Pillow rounds twice.
    y = x.sub_(base).mul_(per_image(factor)).add_(base).clamp_(0, 255)
    return y.floor_() if exact else y


def brightness(x: Tensor, factor: Tensor, exact: bool = True) -> Tensor:
    """Blend with black."""
    y = x.mul_(per_image(factor)).clamp_(0, 255)
    return y.floor_() if exact else y


def contrast(x: Tensor, factor: Tensor, exact: bool = True) -> Tensor:
    """Blend with the mean gray level."""
    return blend(gray_mean(luminance(x, exact), exact), x, factor, exact)


def saturation(x: Tensor, factor: Tensor, exact: bool = True) -> Tensor:
    """Blend with the grayscale image."""
    return blend(luminance(x, exact), x, factor, exact)


def grayscale(x: Tensor, exact: bool = True) -> Tensor:
    """Replace each channel by the gray level."""
    return x.copy_(luminance(x, exact).expand_as(x))


def shift_hue(x: Tensor, shift: Tensor, exact: bool = True) -> Tensor:
    r"""Turn the hue of (R, 3, H, W) levels by ``shift`` (R,) turns in HSV space.

    With the value v (largest channel), the chroma c (largest minus smallest), the hue h in sixths
    of a turn and :math:`k = (n + h) \bmod 6` for :math:`n = 5, 3, 1`, the channels R, G, B are
    :math:`v - c \max(0, \min(k, 4 - k, 1))`.
    """
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]  # (R, H, W)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Whole levels differ by at least one; without chroma the hue does not matter.
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
    # For h in [0, 6], max(0, min(k, 4 - k, 1)) is 2 - u for red, where u is the distance |h - 3|
    # cut to [1, 2], and u - 1 for green and blue, with the distances from 2 and 4.
    bases = torch.sub(value, depth, alpha=2), value.add_(depth), value
    slope = depth.div_(sixth) if exact else depth
    for channel, (middle, sign) in enumerate(((3, 1), (2, -1), (4, -1))):
        away = (hue - middle * sixth).abs_().clamp_(sixth, 2 * sixth)
        x[:, channel] = torch.addcmul(bases[channel], slope, away, value=sign)
    return x.floor_() if exact else x.clamp_(0, 255)  # rounding may leave the range


def _hue_sixths(x: Tensor, value: Tensor, chroma: Tensor, safe: Tensor) -> Tensor:
    """(R, H, W) hue in sixths of a turn, -1 .. 5, as colorsys and Pillow define it.

    With chroma c it is (g - b) / c where red is largest, else 2 + (b - r) / c where green is, else
    4 + (r - g) / c.
    """
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]
    first, other = green - blue, red - blue
    not_red, not_green = (value - red).sign_(), (value - green).sign_()
    differ = (red - green).add_(other).mul_(not_green).sub_(other)
    differ = differ.sub_(first).mul_(not_red).add_(first)
    sector = not_green.add_(1).mul_(not_red)  # 0, 1, 2
    # Pillow subtracts two quotients, the larger of which is 1; whole levels depend on how the
    # difference rounds.
    side = differ.sign()
    rest = (chroma - differ.abs_()).div_(safe).mul_(side)
    return side.add_(sector, alpha=2).sub_(rest)


def _turn_levels(sixth: Tensor, turns: Tensor) -> Tensor:
    """Turn a hue in sixths (R, H, W) as Pillow's HSV mode stores it, in 256 levels."""
    # Pillow keeps the hue as a share of a turn in single precision and multiplies by 255 in
    # double: a whole level m drops to m - 1 where m / 255 was rounded down. 256 h - m is exact,
    # and so is the rest after subtracting h.
    share = sixth.div_(6)
    share.sub_(share.floor())
    level = (share * 255).floor_()
    level.add_((share * 256).sub_(level).sub_(share).floor_())
    # torchvision adds int(shift * 255) in unsigned bytes, so the sum wraps around.
    level.add_((turns * 255).trunc())
    return level.sub_((level * (1 / 256)).floor_(), alpha=256)


def jitter(x: Tensor, factors: Tensor, order: Tensor, exact: bool) -> Tensor:
    """Brightness, contrast, saturation and hue of (R, 3, H, W) levels, in each image's own order.

    ``factors`` (R, 4) are three factors and the turns of the hue, ``order`` (R, 4) the ops by step.
    """
    factors = factors.gather(1, order)  # (R, 4) by step
    if bool((order == order[0]).all()) and bool((factors[order == HUE] != 0).all()):
        for op, factor in zip(order[0].tolist(), factors.unbind(1), strict=True):
            (brightness, contrast, saturation, shift_hue)[op](x, factor, exact)
        return x
    for op, factor in zip(order.unbind(1), factors.unbind(1), strict=True):
        hue = (op == HUE) & (factor != 0)
        factor = torch.where((op == HUE) & ~hue, 1.0, factor)  # no turn: brightness by 1
        if bool(hue.all()):
            shift_hue(x, factor, exact)
        elif bool(hue.any()):
            change_rows(x, hue, lambda y, turns: shift_hue(y, turns, exact), factor)
            change_rows(x, ~hue, lambda y, f, op: _blend_mixed(y, f, op, exact), factor, op)
        else:
            _blend_mixed(x, factor, op, exact)
    return x


def _blend_mixed(x: Tensor, factor: Tensor, op: Tensor, exact: bool) -> Tensor:
    """Brightness, contrast or saturation, by the ``op`` (R,) of each image."""
    gray = luminance(x, exact)
    mean = gray_mean(gray, exact).mul_(per_image(op == CONTRAST))
    return blend(gray.mul_(per_image(op == SATURATION)).add_(mean), x, factor, exact)
