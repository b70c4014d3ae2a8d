"""Apply the base chain: crop, flip, colour jitter, grey, blur, solarize."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bcl.augment.colour import luminance, per_picture
from bcl.augment.jitter import JitterPlan, apply_jitter
from bcl.augment.params import Params, ViewParams
from bcl.augment.resize import CropPlan, crop_resize_flip, round_levels
from bcl.augment.rows import block_rows, change_rows

Jitter = Callable[[Tensor, JitterPlan, bool, int | None], Tensor]


@dataclass(frozen=True)
class ChainPlan(Params):
    """What follows from the parameters of R views for the crop and for the jitter."""

    crop: CropPlan
    jitter: JitterPlan

    @classmethod
    def of(cls, params: ViewParams, images: Tensor, size: tuple[int, int]) -> "ChainPlan":
        """Plan the chain for pictures of this size."""
        rows, cols = images.shape[2:]
        return cls(CropPlan.of(params, (rows, cols), size), JitterPlan.of(params))


def apply_chain(
    images: Tensor,
    params: ViewParams,
    plan: ChainPlan,
    size: tuple[int, int],
    exact: bool,
    place: int | None = None,
    jitter_with: Jitter = apply_jitter,
) -> Tensor:
    """Make one view of each picture.

    Args:
        images: (R, 3, H, W) uint8, or float in [0, 1].
        params: of R rows.
        plan: of R rows, made of the same parameters.
        size: rows and columns of the views.
        exact: Pillow's 8-bit arithmetic after every step; else float without rounding.
        place: as for `apply_jitter`.
        jitter_with: `apply_jitter`, or a compiled form of it.

    Returns:
        (R, 3, *size) float32 levels 0 .. 255; whole ones when ``exact``.
    """
    x = crop_resize_flip(images, plan.crop, size, exact)
    x = jitter_with(x, plan.jitter, exact, place)
    x = change_rows(x, params.grey, lambda y: luminance(y, exact).expand_as(y))
    blurred = params.blur > 0
    x = change_rows(x, blurred, lambda y, sigma: gaussian_blur(y, sigma, exact), params.blur)
    return change_rows(x, params.solarize, solarize)


def chain_at_once(
    images: Tensor, params: ViewParams, size: tuple[int, int], exact: bool, jitter_with: Jitter
) -> Tensor:
    """Make R = V B views of B pictures without asking the device for any value.

    Args:
        images: (B, 3, H, W) uint8, or float in [0, 1].
        params: of R rows, view-major.
        size: rows and columns of the views.
        exact: as for `apply_chain`.
        jitter_with: `apply_jitter`, or a compiled form of it.

    Returns:
        (R, 3, *size) float32 levels.
    """
    views = params.top.shape[0] // images.shape[0]
    plan = ChainPlan.of(params, images, size)
    return apply_chain(images.repeat(views, 1, 1, 1), params, plan, size, exact, None, jitter_with)


def chain_in_blocks(
    images: Tensor, params: ViewParams, size: tuple[int, int], exact: bool, jitter_with: Jitter
) -> Tensor:
    """The same on a CPU, in blocks that stay in its cache.

    Rows whose hue is turned at the same place among the jitter's steps share their blocks, so
    that the hue, the dearest step, is computed once for each row and without masks.
    """
    plan = ChainPlan.of(params, images, size)
    counts = plan.jitter.place.bincount(minlength=6).tolist()
    order = plan.jitter.place.argsort(stable=True)  # (R,)
    out = torch.empty(params.top.shape[0], 3, *size)
    flat = out.flatten(1)  # (R, 3 S_h S_w)
    block = block_rows(3 * size[0] * size[1])
    for place, rows in enumerate(torch.split(order, counts)):
        for part in torch.split(rows, block):
            if part.numel() == 0:
                continue
            views = apply_chain(
                images.index_select(0, part % images.shape[0]),
                params.rows(part),
                plan.rows(part),
                size,
                exact,
                place,
                jitter_with,
            )
            flat.index_copy_(0, part, views.flatten(1))
    return out


def solarize(x: Tensor) -> Tensor:
    """Invert the levels from 128 up, as torchvision does."""
    high = (x - 128).ge_(0)
    return high.mul_(255 - 2 * x).add_(x)


def gaussian_blur(x: Tensor, sigma: Tensor, exact: bool) -> Tensor:
    r"""Blur with a Gaussian of each picture's own width; edges are mirrored.

    .. math:: w_{oi} \propto \exp\Bigl(-\frac{(o - i)^2}{2\sigma^2}\Bigr)

    in both directions, as two matrix products.

    Args:
        x: (R, C, H, W) levels.
        sigma: (R,) pixels.
        exact: whole levels at the end.

    Returns:
        (R, C, H, W) levels.
    """
    across, down = _blur_matrix(sigma, x.shape[3]), _blur_matrix(sigma, x.shape[2])
    x = down[:, None] @ (x @ across.transpose(1, 2)[:, None])
    return round_levels(x) if exact else x.clamp_(0, 255)


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """(R, size, size) weights; what falls off an edge is given to its mirror image."""
    place = torch.arange(size, device=sigma.device, dtype=torch.float32)
    # A pixel has one image behind each edge, mirrored about the edge's pixel, which has none.
    images = torch.stack([place, -place, 2 * (size - 1) - place])  # (3, size)
    counts = torch.stack([torch.ones_like(place), place > 0, place < size - 1])  # (3, size)
    distance = place[:, None] - images[:, None]  # (3, out, in)
    exponent = -0.5 * (distance / per_picture(sigma.clamp(min=1e-3))) ** 2  # (R, 3, out, in)
    weight = (exponent.exp() * counts[:, None]).sum(dim=1)
    return weight / weight.sum(dim=2, keepdim=True)
