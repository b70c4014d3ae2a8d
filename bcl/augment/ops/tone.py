"""Ops that map each level of a channel to another: (R, 3, H, W) whole levels 0 .. 255."""

import torch
from torch import Tensor

from bcl.augment.ops.color import per_image


def auto_contrast(x: Tensor, share: Tensor) -> Tensor:
    """Stretch each channel to 0 .. 255, ``share`` (R,) of the way."""
    level = torch.arange(256, device=x.device, dtype=torch.float64)
    flat = x.flatten(2)
    low = flat.amin(dim=2, keepdim=True).to(torch.float64)  # (R, 3, 1)
    high = flat.amax(dim=2, keepdim=True).to(torch.float64)
    # The order of the operations is Pillow's: the product may fall just under an integer.
    # (255 / tensor would be a reciprocal times 255, which rounds twice.)
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1)
    table = (level * scale + -low * scale).floor().clamp(0, 255)  # (R, 3, 256)
    table = torch.where(high > low, table, level)
    return _look_up(x, table.to(torch.float32), share)


def equalize(x: Tensor, share: Tensor) -> Tensor:
    """Equalize each channel's histogram as Pillow does, ``share`` (R,) of the way."""
    level = torch.arange(256, device=x.device, dtype=torch.float32)
    counts = channel_histogram(x)  # (R, 3, 256)
    filled = counts > 0
    last = (filled * level).amax(dim=2, keepdim=True).to(torch.int64)
    step = ((counts.sum(2, keepdim=True) - counts.gather(2, last)) / 255).floor()
    before = counts.cumsum(2) - counts
    table = (((step / 2).floor() + before) / step.clamp(min=1)).floor().clamp(max=255)
    usable = (filled.sum(2, keepdim=True) > 1) & (step > 0)
    return _look_up(x, torch.where(usable, table, level), share)


def channel_histogram(x: Tensor) -> Tensor:
    """Count the levels of each channel of (R, 3, H, W): (R, 3, 256) float32."""
    flat = x.flatten(2)
    counts = x.new_zeros(*x.shape[:2], 256)
    return counts.scatter_add_(2, flat.to(torch.int64), torch.ones_like(flat))


def _look_up(x: Tensor, table: Tensor, share: Tensor) -> Tensor:
    """Move each level ``share`` (R,) of the way to its entry in the table (R, 3, 256)."""
    level = torch.arange(256, device=x.device, dtype=x.dtype)
    share = share.to(x.dtype)[:, None, None]
    table = (level + share * (table - level)).add_(0.5).floor_()
    return table.gather(2, x.flatten(2).to(torch.int64)).view_as(x)


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Replace levels from the threshold (R,) up by 255 minus the level."""
    high = (x - per_image(threshold.ceil())).ge_(0)
    return high.mul_(255 - 2 * x).add_(x)


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper ``bits`` (R,) of each level, which may be a fraction."""
    step = per_image(torch.exp2(8 - bits))
    # Rounded up, or fractional steps would darken more than the next larger whole step.
    return (x / step).floor_().mul_(step).ceil_()
