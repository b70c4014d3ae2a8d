"""Ops that mix neighboring pixels of (R, C, H, W) levels."""

import torch
from torch import Tensor

from bcl.augment.ops.blocks import block_rows
from bcl.augment.ops.color import blend, round_levels


def gaussian_blur(x: Tensor, sigma: Tensor, exact: bool) -> Tensor:
    r"""Blur (R, C, H, W) levels with Gaussians of widths ``sigma`` (R,); edges are mirrored.

    .. math:: w_{oi} \propto \exp\Bigl(-\frac{(o - i)^2}{2\sigma^2}\Bigr)

    in both directions, as two matrix products.
    """
    across, down = _blur_matrix(sigma, x.shape[3]), _blur_matrix(sigma, x.shape[2])
    # How a product in float32 rounds depends on the batch, in which small images come.
    kind = torch.float64 if exact and block_rows(x) > 1 else x.dtype
    across, down = across.to(kind), down.to(kind)
    y = down[:, None] @ (x.to(kind) @ across.transpose(1, 2)[:, None])
    return round_levels(y).to(x.dtype) if exact else y.clamp_(0, 255)


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """(R, size, size) weights; what falls off an edge goes to its mirror image."""
    place = torch.arange(size, device=sigma.device, dtype=torch.float32)
    # A pixel has one mirror image behind each edge; the edge's own pixel has none.
    images = torch.stack([place, -place, 2 * (size - 1) - place])  # (3, size)
    counts = torch.stack([torch.ones_like(place), place > 0, place < size - 1])  # (3, size)
    distance = place[:, None] - images[:, None]  # (3, out, in)
    exponent = -0.5 * (distance / sigma.clamp(min=1e-3)[:, None, None, None]) ** 2
    weight = (exponent.exp() * counts[:, None]).sum(dim=1)  # (R, out, in)
    return weight / weight.sum(dim=2, keepdim=True)


def sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the 3 x 3 smoothed image, which keeps the border, as Pillow's Sharpness does."""
    smooth = x.clone()
    height, width = x.shape[2:]
    if height > 2 and width > 2:
        lines = x[:, :, :, :-2] + x[:, :, :, 1:-1]
        lines = lines.add_(x[:, :, :, 2:])  # (R, C, H, W - 2)
        total = lines[:, :, :-2] + lines[:, :, 1:-1]
        total = total.add_(lines[:, :, 2:]).add_(x[:, :, 1:-1, 1:-1], alpha=4)
        # Rounded division by 13 of an integer; 13 is odd, so there are no halves.
        smooth[:, :, 1:-1, 1:-1] = total.div_(13).add_(0.5).floor_()
    return blend(smooth, x, factor, exact=True)
