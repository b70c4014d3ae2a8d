"""The five families that the fifteen ops fall into; each takes its parameters per picture.

Pictures are float32 tensors of whole levels 0 .. 255; every function returns such a tensor.
"""

import math

import torch
from torch import Tensor

from bcl.augment.colour import blend, grey_mean, luminance, per_picture
from bcl.augment.policy import (
    AUTO_CONTRAST,
    BRIGHTNESS,
    CONTRAST,
    EQUALIZE,
    INVERT,
    POSTERIZE,
    ROTATE,
    SHEAR_X,
    SHEAR_Y,
    SOLARIZE,
    TRANSLATE_X,
    TRANSLATE_Y,
)

# Pillow's affine transform works in 16.16 fixed point.
_ONE = 65536
_CUTOUT_COLOUR = (125.0, 123.0, 114.0)


def affine_matrix(op: Tensor, value: Tensor, height: int, width: int) -> Tensor:
    """Pillow's six affine coefficients (output to input) of the geometric ops.

    Args:
        op: (R,) int64; ops that are not geometric give the identity.
        value: (R,) float64, signed: tangent, share of the side, or degrees.
        height: rows of the picture.
        width: columns.

    Returns:
        (6, R) float64.
    """
    zero, one = torch.zeros_like(value), torch.ones_like(value)
    angle = torch.where(op == ROTATE, -value * (math.pi / 180), zero)
    cos, sin = torch.cos(angle), torch.sin(angle)
    across = torch.where(op == SHEAR_X, value, sin)
    down = torch.where(op == SHEAR_Y, value, -sin)
    mid_x, mid_y = width / 2, height / 2
    turn_x = mid_x - (cos * mid_x + sin * mid_y)
    turn_y = mid_y - (-sin * mid_x + cos * mid_y)
    shift_x = torch.where(op == ROTATE, turn_x, torch.where(op == TRANSLATE_X, value * width, zero))
    shift_y = torch.where(
        op == ROTATE, turn_y, torch.where(op == TRANSLATE_Y, value * height, zero)
    )
    return torch.stack([cos * one, across, shift_x, down, cos, shift_y])


def warp(x: Tensor, op: Tensor, value: Tensor) -> Tensor:
    """Shear, translate or rotate with the nearest pixel, black outside the picture.

    Args:
        x: (R, C, H, W) levels.
        op: (R,) int64.
        value: (R,) float64, signed.

    Returns:
        (R, C, H, W) levels, the same pixels that Pillow picks.
    """
    height, width = x.shape[2:]
    a, b, c, d, e, f = affine_matrix(op, value, height, width)  # each (R,)
    # Pillow rounds to fixed point when rotating or shearing, and floors when only translating.
    half = torch.where((b == 0) & (d == 0), 0.0, 0.5)
    fixed = [
        (v * _ONE + half).floor().to(torch.int64)
        for v in (a, b, c + 0.5 * (a + b), d, e, f + 0.5 * (d + e))
    ]
    xx, xy, x0, yx, yy, y0 = (v[:, None, None] for v in fixed)
    row = torch.arange(height, device=x.device)[:, None]
    col = torch.arange(width, device=x.device)
    from_x = (x0 + xx * col + xy * row) >> 16  # (R, H, W)
    from_y = (y0 + yx * col + yy * row) >> 16
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    index = from_y.clamp(0, height - 1) * width + from_x.clamp(0, width - 1)
    flat = x.flatten(2)  # (R, C, HW)
    picked = flat.gather(2, index.flatten(1)[:, None].expand_as(flat)).view_as(x)
    return torch.where(inside[:, None], picked, 0.0)


def channel_histogram(x: Tensor) -> Tensor:
    """Count the levels of each channel.

    Args:
        x: (R, C, H, W) whole levels.

    Returns:
        (R, C, 256) float32 counts.
    """
    index = x.flatten(2).to(torch.int64)
    counts = torch.zeros(*x.shape[:2], 256, device=x.device)
    counts.scatter_add_(2, index, torch.ones_like(x.flatten(2)))
    return counts


def _equalized(counts: Tensor) -> Tensor:
    """Pillow's equalisation table from (R, C, 256) counts."""
    level = torch.arange(256, device=counts.device)
    filled = counts > 0
    last = torch.where(filled, level, 0).amax(dim=2, keepdim=True)
    step = ((counts.sum(2, keepdim=True) - counts.gather(2, last)) / 255).floor()
    before = counts.cumsum(2) - counts
    table = (((step / 2).floor() + before) / step.clamp(min=1)).floor().clamp(max=255)
    return torch.where((filled.sum(2, keepdim=True) > 1) & (step > 0), table, level)


def lookup_table(x: Tensor, op: Tensor, value: Tensor, monotone: bool) -> Tensor:
    """Table of what each level becomes, for the ops that look at one channel's level alone.

    Args:
        x: (R, 3, H, W) whole levels, whose histograms, extremes and means the tables need.
        op: (R,) int64; ops of other families give the identity.
        value: (R,) float64; for the enhancements the factor.
        monotone: AutoContrast, Invert and Equalize have a strength.

    Returns:
        (R, 3, 256) float32 whole levels.
    """
    level = torch.arange(256, device=x.device, dtype=torch.float64)  # (256,)
    which, value = op[:, None, None], value[:, None, None]  # (R, 1, 1)

    low = x.amin(dim=(2, 3))[:, :, None].to(torch.float64)  # (R, 3, 1)
    high = x.amax(dim=(2, 3))[:, :, None].to(torch.float64)
    # The order of the operations is Pillow's: the product may fall just under a whole number.
    # (255 / tensor would be computed as a reciprocal times 255, which rounds twice.)
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1)
    stretched = (level * scale + -low * scale).trunc().clamp(0, 255)
    stretched = torch.where(high > low, stretched, level)
    equalized = _equalized(channel_histogram(x)).to(torch.float64)

    target = torch.where(which == AUTO_CONTRAST, stretched, level)
    target = torch.where(which == EQUALIZE, equalized, target)
    if monotone:
        target = (level + value * (target - level) + 0.5).floor()
        threshold = value
        bits = torch.exp2(value)  # the step between the levels that are left
        posterized = ((level / bits).floor() * bits).floor()
    else:
        threshold = torch.where(which == INVERT, 0.0, value)
        bits = torch.exp2(8 - value.floor())
        posterized = (level / bits).floor() * bits
    inverted = torch.where(level < threshold, level, 255 - level)
    target = torch.where((which == INVERT) | (which == SOLARIZE), inverted, target)
    target = torch.where(which == POSTERIZE, posterized, target)

    mean = grey_mean(luminance(x, exact=True), exact=True)[:, 0]  # (R, 1, 1)
    base = torch.where(which == CONTRAST, mean, 0.0)
    level32 = level.to(torch.float32)
    factor = value.to(torch.float32)
    enhanced = (base + factor * (level32 - base)).clamp(0, 255).floor()
    table = target.to(torch.float32).expand(-1, 3, -1)
    return torch.where((which == CONTRAST) | (which == BRIGHTNESS), enhanced, table)


def apply_lookup(x: Tensor, table: Tensor) -> Tensor:
    """Replace each level by its entry in the channel's table."""
    return table.gather(2, x.flatten(2).to(torch.int64)).view_as(x)


def recolour(x: Tensor, factor: Tensor) -> Tensor:
    """Pillow's Color: blend with the grey picture."""
    return blend(luminance(x, exact=True), x, per_picture(factor), exact=True)


def sharpen(x: Tensor, factor: Tensor) -> Tensor:
    """Pillow's Sharpness: blend with the 3 x 3 smoothed picture, whose border is the original's."""
    smooth = x.clone()
    height, width = x.shape[2:]
    if height > 2 and width > 2:
        lines = x[:, :, :, :-2] + x[:, :, :, 1:-1] + x[:, :, :, 2:]  # (R, C, H, W - 2)
        total = lines[:, :, :-2] + lines[:, :, 1:-1] + lines[:, :, 2:]
        total = total + 4 * x[:, :, 1:-1, 1:-1]
        # Rounded division by 13 of a whole number; 13 is odd, so there are no halves.
        smooth[:, :, 1:-1, 1:-1] = (total / 13 + 0.5).floor()
    return blend(smooth, x, per_picture(factor), exact=True)


def cutout(x: Tensor, share: Tensor, centre_x: Tensor, centre_y: Tensor) -> Tensor:
    """Paint a grey square, as the released code does: it spans one pixel more than its side.

    Args:
        x: (R, 3, H, W) levels.
        share: (R,) float64, side of the square as a share of the width.
        centre_x: (R,) float64 in pixels.
        centre_y: (R,) float64 in pixels.

    Returns:
        (R, 3, H, W) levels.
    """
    height, width = x.shape[2:]
    side = share * width
    left = (centre_x - side / 2).clamp(min=0).floor()
    top = (centre_y - side / 2).clamp(min=0).floor()
    right, bottom = (left + side).clamp(max=width), (top + side).clamp(max=height)
    col = torch.arange(width, device=x.device)
    row = torch.arange(height, device=x.device)[:, None]
    bounds = (v[:, None, None] for v in (left, right, top, bottom, share))
    left, right, top, bottom, share = bounds
    hole = (col >= left) & (col <= right) & (row >= top) & (row <= bottom) & (share > 0)
    colour = x.new_tensor(_CUTOUT_COLOUR)[:, None, None]
    return torch.where(hole[:, None], colour, x)
