"""Apply the base chain: crop, flip, colour jitter, grey, blur, solarize."""

import torch
from torch import Tensor

from bcl.augment.colour import (
    CONTRAST,
    HUE,
    SATURATION,
    blend,
    grey_mean,
    luminance,
    per_picture,
    shift_hue,
)
from bcl.augment.params import ViewParams
from bcl.augment.resize import crop_resize_flip, round_levels
from bcl.augment.rows import change_rows


def apply_chain(x: Tensor, params: ViewParams, size: tuple[int, int], exact: bool) -> Tensor:
    """Make one view of each picture.

    Args:
        x: (R, 3, H, W) float32 levels 0 .. 255.
        params: of R rows.
        size: rows and columns of the views.
        exact: Pillow's 8-bit arithmetic after every step; else float without rounding.

    Returns:
        (R, 3, *size) float32 levels; whole ones when ``exact``.
    """
    p = params
    x = crop_resize_flip(x, p.top, p.left, p.height, p.width, p.flip, size, exact)
    x = jitter(x, p, exact)
    x = change_rows(x, p.grey, lambda y: luminance(y, exact).expand_as(y))
    x = change_rows(x, p.blur > 0, lambda y, sigma: gaussian_blur(y, sigma, exact), p.blur)
    return change_rows(x, p.solarize, lambda y: torch.where(y >= 128, 255 - y, y))


def jitter(x: Tensor, params: ViewParams, exact: bool) -> Tensor:
    """Brightness, contrast, saturation and hue, in each picture's own order.

    Brightness, contrast and saturation are one blend whose base is black, the mean grey level or
    the grey picture; a factor of 1 leaves a picture as it is.

    Args:
        x: (R, 3, H, W) float32 levels.
        params: of R rows.
        exact: whole levels after every step.

    Returns:
        (R, 3, H, W) float32 levels.
    """
    factors = torch.stack([params.brightness, params.contrast, params.saturation], dim=1)
    factors = torch.cat([factors, torch.ones_like(factors[:, :1])], dim=1)  # hue: no blend
    for step in range(4):
        op = params.order[:, step]  # (R,)
        factor = per_picture(factors.gather(1, op[:, None])[:, 0])
        which = per_picture(op)
        grey = luminance(x, exact)
        base = torch.where(which == CONTRAST, grey_mean(grey, exact), 0.0)
        base = torch.where(which == SATURATION, grey, base)
        x = blend(base, x, factor, exact)
        turn = (op == HUE) & (params.hue != 0)
        x = change_rows(x, turn, lambda y, hue: shift_hue(y, hue, exact), params.hue)
    return x


def gaussian_blur(x: Tensor, sigma: Tensor, exact: bool) -> Tensor:
    r"""Blur with a Gaussian of each picture's own width; edges are mirrored.

    .. math:: w_{oi} \propto \exp\Bigl(-\frac{(o - i)^2}{2\sigma^2}\Bigr), \qquad
        |o - i| \le \lceil 4 \max \sigma \rceil

    as two matrix products, like the resize.

    Args:
        x: (R, C, H, W) levels.
        sigma: (R,) pixels.
        exact: whole levels at the end.

    Returns:
        (R, C, H, W) levels.
    """
    across, down = _blur_weights(sigma, x.shape[3]), _blur_weights(sigma, x.shape[2])
    x = down[:, None] @ (x @ across.transpose(1, 2)[:, None])
    return round_levels(x) if exact else x.clamp_(0, 255)


def _blur_weights(sigma: Tensor, size: int) -> Tensor:
    """(R, size, size) weights; what falls off an edge is given to its mirror image."""
    place = torch.arange(size, device=sigma.device, dtype=torch.float32)
    width = sigma.clamp(min=1e-3)[:, None, None]

    def weight(distance: Tensor) -> Tensor:
        return torch.exp(-0.5 * (distance / width) ** 2)

    there = place[None, :, None]
    total = weight(there - place)
    if size > 1:
        # Mirrored about the first and the last pixel, which themselves are not repeated.
        left, right = weight(there + place), weight(there - (2 * (size - 1) - place))
        total = (
            total + torch.where(place > 0, left, 0.0) + torch.where(place < size - 1, right, 0.0)
        )
    return total / total.sum(dim=2, keepdim=True)
