"""Ops that move pixels or cover them: (R, 3, H, W) whole levels and float64 values (R,)."""

import math

import torch
from torch import Tensor

# Pillow's affine transform works in 16.16 fixed point.
_ONE = 65536
# Up to this side the fixed-point positions of sheared and rotated pixels fit 32 bits.
_INT32_SIDE = 4096
CUTOUT_COLOR = (125.0, 123.0, 114.0)


def shear_x(x: Tensor, tangent: Tensor) -> Tensor:
    """Shift each row in proportion to its height."""
    zero, one = torch.zeros_like(tangent), torch.ones_like(tangent)
    return _warp(x, one, tangent, zero, zero, one, zero)


def shear_y(x: Tensor, tangent: Tensor) -> Tensor:
    """Shift each column in proportion to its place."""
    zero, one = torch.zeros_like(tangent), torch.ones_like(tangent)
    return _warp(x, one, zero, zero, tangent, one, zero)


def translate_x(x: Tensor, share: Tensor) -> Tensor:
    """Move by a share of the width."""
    zero, one = torch.zeros_like(share), torch.ones_like(share)
    return _warp(x, one, zero, share * x.shape[3], zero, one, zero)


def translate_y(x: Tensor, share: Tensor) -> Tensor:
    """Move by a share of the height."""
    zero, one = torch.zeros_like(share), torch.ones_like(share)
    return _warp(x, one, zero, zero, zero, one, share * x.shape[2])


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Rotate about the center."""
    angle = degrees * (-math.pi / 180)
    cos, sin = torch.cos(angle), torch.sin(angle)
    mid_x, mid_y = x.shape[3] / 2, x.shape[2] / 2
    shift_x, shift_y = mid_x - (cos * mid_x + sin * mid_y), mid_y - (-sin * mid_x + cos * mid_y)
    return _warp(x, cos, sin, shift_x, -sin, cos, shift_y)


def _warp(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    """Pillow's affine transform with the nearest pixel, black outside the image.

    Output pixel (x, y) comes from (a x + b y + c, d x + e y + f); the six are (R,) float64.
    """
    height, width = x.shape[2:]
    # Pillow rounds to fixed point when it rotates or shears, and floors when it only translates.
    half = ((b != 0) | (d != 0)).to(b.dtype) * 0.5
    whole = torch.int32 if max(height, width) <= _INT32_SIDE else torch.int64
    xx, xy, x0, yx, yy, y0 = (
        (v * _ONE + half).floor().to(whole)[:, None, None]
        for v in (a, b, c + 0.5 * (a + b), d, e, f + 0.5 * (d + e))
    )
    row = torch.arange(height, device=x.device, dtype=whole)[:, None]
    col = torch.arange(width, device=x.device, dtype=whole)
    from_x = ((x0 + xy * row) + xx * col) >> 16  # (R, H, W)
    from_y = ((y0 + yy * row) + yx * col) >> 16
    near_x, near_y = from_x.clamp(0, width - 1), from_y.clamp(0, height - 1)
    outside = from_x.sub_(near_x).abs_() + from_y.sub_(near_y).abs_()
    inside = 1 - outside.clamp_(max=1).to(x.dtype)
    index = near_y.mul_(width).add_(near_x).to(torch.int64)
    flat = x.flatten(2)  # (R, 3, HW)
    picked = flat.gather(2, index.flatten(1)[:, None].expand_as(flat)).view_as(x)
    return picked.mul_(inside[:, None])


def cutout(x: Tensor, share: Tensor, center_x: Tensor, center_y: Tensor) -> Tensor:
    """Paint a gray square of a share of the width (R,); the centers (R,) are shares of the sides.

    As in the released code it spans one pixel more than its side; a share of 0 paints nothing.
    """
    height, width = x.shape[2:]
    side = share * width
    # The product is rounded to float32 before the rest, as it always was: stored runs depend on it.
    left = ((center_x * width).to(side.dtype) - side / 2).clamp(min=0).floor()
    top = ((center_y * height).to(side.dtype) - side / 2).clamp(min=0).floor()
    right, bottom = (left + side).clamp(max=width), (top + side).clamp(max=height)
    col, row = torch.arange(width, device=x.device), torch.arange(height, device=x.device)
    across = (col >= left[:, None]) & (col <= right[:, None]) & (share > 0)[:, None]  # (R, W)
    down = (row >= top[:, None]) & (row <= bottom[:, None])  # (R, H)
    hole = down.to(x.dtype)[:, None, :, None] * across.to(x.dtype)[:, None, None]  # (R, 1, H, W)
    color = x.new_tensor(CUTOUT_COLOR)[:, None, None]
    return (color - x).mul_(hole).add_(x)
