"""The families that the fifteen ops fall into; each takes its parameters per image.

Images are float32 tensors of whole levels 0 .. 255; every function returns such a tensor.
"""

import math

import torch
from torch import Tensor

from bcl.augment.ops.color import blend, per_image
from bcl.augment.ops.constants import constant
from bcl.augment.policy import ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y

# Pillow's affine transform works in 16.16 fixed point.
_ONE = 65536
# Up to this side the fixed-point positions of sheared and rotated pixels fit 32 bits.
_INT32_SIDE = 4096
_CUTOUT_COLOR = (125.0, 123.0, 114.0)


def affine_matrix(op: Tensor, value: Tensor, height: int, width: int) -> Tensor:
    """Pillow's six affine coefficients (output to input) of the geometric ops.

    Args:
        op: (R,) int64; ops that are not geometric give the identity.
        value: (R,) float64, signed: tangent, share of the side, or degrees.
        height: rows of the image.
        width: columns.

    Returns:
        (6, R) float64.
    """
    turns, shears_x, shears_y = op == ROTATE, op == SHEAR_X, op == SHEAR_Y
    moves_x, moves_y = op == TRANSLATE_X, op == TRANSLATE_Y
    angle = turns * value * (-math.pi / 180)
    cos, sin = torch.cos(angle), torch.sin(angle)
    mid_x, mid_y = width / 2, height / 2
    # Rotation is about the middle; for the other ops cos is 1 and sin is 0.
    shift_x = mid_x - (cos * mid_x + sin * mid_y) + moves_x * value * width
    shift_y = mid_y - (-sin * mid_x + cos * mid_y) + moves_y * value * height
    return torch.stack(
        [cos, sin + shears_x * value, shift_x, -sin + shears_y * value, cos, shift_y]
    )


def warp(x: Tensor, op: Tensor, value: Tensor) -> Tensor:
    """Shear, translate or rotate with the nearest pixel, black outside the image.

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
    half = ((b != 0) | (d != 0)).to(b.dtype) * 0.5
    whole = torch.int32 if max(height, width) <= _INT32_SIDE else torch.int64
    fixed = [
        (v * _ONE + half).floor().to(whole)[:, None, None]
        for v in (a, b, c + 0.5 * (a + b), d, e, f + 0.5 * (d + e))
    ]
    xx, xy, x0, yx, yy, y0 = fixed
    row = torch.arange(height, device=x.device, dtype=whole)[:, None]
    col = torch.arange(width, device=x.device, dtype=whole)
    from_x = ((x0 + xy * row) + xx * col) >> 16  # (R, H, W)
    from_y = ((y0 + yy * row) + yx * col) >> 16
    near_x, near_y = from_x.clamp(0, width - 1), from_y.clamp(0, height - 1)
    outside = from_x.sub_(near_x).abs_() + from_y.sub_(near_y).abs_()
    inside = 1 - outside.clamp_(max=1).to(x.dtype)
    index = near_y.mul_(width).add_(near_x).to(torch.int64)
    flat = x.flatten(2)  # (R, C, HW)
    picked = flat.gather(2, index.flatten(1)[:, None].expand_as(flat)).view_as(x)
    return picked.mul_(inside[:, None])


def channel_histogram(x: Tensor) -> Tensor:
    """Count the levels of each channel.

    Args:
        x: (R, C, H, W) whole levels.

    Returns:
        (R, C, 256) float32 counts.
    """
    index = x.flatten(2).to(torch.int64)
    counts = x.new_zeros(*x.shape[:2], 256)
    counts.scatter_add_(2, index, torch.ones_like(x.flatten(2)))
    return counts


def _equalized(counts: Tensor) -> Tensor:
    """Pillow's equalization table from (R, C, 256) counts."""
    level = torch.arange(256, device=counts.device, dtype=counts.dtype)
    filled = counts > 0
    last = (filled * level).amax(dim=2, keepdim=True).to(torch.int64)
    step = ((counts.sum(2, keepdim=True) - counts.gather(2, last)) / 255).floor()
    # In integers: sums of floats along an axis are refused by CUDA's deterministic mode.
    before = counts.to(torch.int32).cumsum(2).to(counts.dtype) - counts
    table = (((step / 2).floor() + before) / step.clamp(min=1)).floor().clamp(max=255)
    usable = ((filled.sum(2, keepdim=True) > 1) & (step > 0)).to(counts.dtype)
    return level + usable * (table - level)


def _stretched(x: Tensor) -> Tensor:
    """Pillow's AutoContrast table of (R, C, H, W) levels: (R, C, 256)."""
    level = torch.arange(256, device=x.device, dtype=torch.float64)
    flat = x.flatten(2)
    low = flat.amin(dim=2, keepdim=True).to(torch.float64)  # (R, C, 1)
    high = flat.amax(dim=2, keepdim=True).to(torch.float64)
    # The order of the operations is Pillow's: the product may fall just under a whole number.
    # (255 / tensor would be computed as a reciprocal times 255, which rounds twice.)
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1)
    # Truncation and flooring agree, since what is negative becomes 0 either way.
    table = (level * scale + -low * scale).floor().clamp(0, 255)
    usable = (high > low).to(torch.float64)
    return (level + usable * (table - level)).to(torch.float32)


def stretch(x: Tensor, equalize: Tensor, share: Tensor) -> Tensor:
    """AutoContrast or Equalize, by a table of what each level of a channel becomes.

    Args:
        x: (R, 3, H, W) whole levels.
        equalize: (R,) bool, Equalize; else AutoContrast.
        share: (R,) float32 in [0, 1], how much of the way from the image to the op's result.

    Returns:
        (R, 3, H, W) whole levels.
    """
    level = torch.arange(256, device=x.device, dtype=x.dtype)
    which = equalize[:, None, None].to(x.dtype)
    first, second = _stretched(x), _equalized(channel_histogram(x))
    table = first + which * (second - first)
    table = (level + share[:, None, None] * (table - level)).add_(0.5).floor_()
    return table.gather(2, x.flatten(2).to(torch.int64)).view_as(x)


def invert_from(x: Tensor, threshold: Tensor) -> Tensor:
    """Invert and Solarize: levels from the threshold (R,) up become 255 less the level."""
    high = (x - per_image(threshold)).ge_(0)
    return high.mul_(255 - 2 * x).add_(x)


def posterize(x: Tensor, step: Tensor) -> Tensor:
    """Keep only levels that are ``step`` (R,) apart: the next lower one, made whole."""
    # Upwards: cut off, steps that are not whole would darken more than the next larger whole one.
    step = per_image(step)
    return (x / step).floor_().mul_(step).ceil_()


def sharpen(x: Tensor, factor: Tensor) -> Tensor:
    """Pillow's Sharpness: blend with the 3 x 3 smoothed image, whose border is the original's."""
    smooth = x.clone()
    height, width = x.shape[2:]
    if height > 2 and width > 2:
        lines = x[:, :, :, :-2] + x[:, :, :, 1:-1]
        lines = lines.add_(x[:, :, :, 2:])  # (R, C, H, W - 2)
        total = lines[:, :, :-2] + lines[:, :, 1:-1]
        total = total.add_(lines[:, :, 2:]).add_(x[:, :, 1:-1, 1:-1], alpha=4)
        # Rounded division by 13 of a whole number; 13 is odd, so there are no halves.
        smooth[:, :, 1:-1, 1:-1] = total.div_(13).add_(0.5).floor_()
        del lines, total
    return blend(smooth, x, factor, exact=True)


def cutout(x: Tensor, share: Tensor, center_x: Tensor, center_y: Tensor) -> Tensor:
    """Paint a gray square, as the released code does: it spans one pixel more than its side.

    Args:
        x: (R, 3, H, W) levels.
        share: (R,) float64, side of the square as a share of the width.
        center_x: (R,) float64 in pixels.
        center_y: (R,) float64 in pixels.

    Returns:
        (R, 3, H, W) levels.
    """
    height, width = x.shape[2:]
    side = share * width
    left = (center_x - side / 2).clamp(min=0).floor()
    top = (center_y - side / 2).clamp(min=0).floor()
    right, bottom = (left + side).clamp(max=width), (top + side).clamp(max=height)
    col, row = torch.arange(width, device=x.device), torch.arange(height, device=x.device)
    across = (col >= left[:, None]) & (col <= right[:, None]) & (share > 0)[:, None]  # (R, W)
    down = (row >= top[:, None]) & (row <= bottom[:, None])  # (R, H)
    hole = down.to(x.dtype)[:, None, :, None] * across.to(x.dtype)[:, None, None]  # (R, 1, H, W)
    color = constant(_CUTOUT_COLOR, x)[:, None, None]
    return (color - x).mul_(hole).add_(x)
