"""Apply the base chain: crop, flip, colour jitter, grey, blur, solarize."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bcl.augment.colour import luminance, per_picture
from bcl.augment.jitter import JitterPlan, apply_jitter
from bcl.augment.params import Params, ViewParams
from bcl.augment.resize import CropPlan, crop_resize_flip, round_levels
from bcl.augment.rows import block_rows, change_rows, empty_rows

Jitter = Callable[[Tensor, JitterPlan, bool, int | None], Tensor]


@dataclass(frozen=True)
class ChainPlan(Params):
    """What follows from the parameters of R views for each step of the chain."""

    crop: CropPlan
    jitter: JitterPlan
    grey: Tensor
    blur: Tensor
    solarize: Tensor

    @classmethod
    def of(cls, params: ViewParams, images: Tensor, size: tuple[int, int]) -> "ChainPlan":
        """Plan the chain for pictures of this size."""
        rows, cols = images.shape[2:]
        crop = CropPlan.of(params, (rows, cols), size)
        return cls(crop, JitterPlan.of(params), params.grey, params.blur, params.solarize)


def apply_chain(
    images: Tensor,
    plan: ChainPlan,
    size: tuple[int, int],
    exact: bool,
    place: int | None = None,
    jitter_with: Jitter = apply_jitter,
) -> Tensor:
    """Make one view of each picture.

    Args:
        images: (R, 3, H, W) uint8, or float in [0, 1].
        plan: of R rows.
        size: rows and columns of the views.
        exact: Pillow's 8-bit arithmetic after every step; else float without rounding.
        place: as for `apply_jitter`.
        jitter_with: `apply_jitter`, or a compiled form of it.

    Returns:
        (R, 3, *size) float32 levels 0 .. 255; whole ones when ``exact``.
    """
    x = crop_resize_flip(images, plan.crop, size, exact)
    x = jitter_with(x, plan.jitter, exact, place)
    x = change_rows(x, plan.grey, lambda y: luminance(y, exact).expand_as(y))
    x = change_rows(x, plan.blur > 0, lambda y, sigma: gaussian_blur(y, sigma, exact), plan.blur)
    return change_rows(x, plan.solarize, solarize)


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
    return apply_chain(images.repeat(views, 1, 1, 1), plan, size, exact, None, jitter_with)


def chain_in_blocks(
    images: Tensor, params: ViewParams, size: tuple[int, int], exact: bool, jitter_with: Jitter
) -> Tensor:
    """The same on a CPU, in blocks that stay in its cache.

    Rows whose hue is turned at the same place among the jitter's steps share their blocks, so
    that the hue, the dearest step, is computed once for each row and without masks.
    """
    plan = ChainPlan.of(params, images, size)
    order = plan.jitter.place.argsort(stable=True)  # (R,)
    plan = plan.rows(order)
    out = empty_rows(order.shape[0], size)
    flat = out.flatten(1)
    start = 0
    for place, stop in _runs(plan.jitter.place.tolist(), block_rows(flat.shape[1])):
        chosen = order[start:stop]
        pictures = images.index_select(0, chosen % images.shape[0])
        part = plan.rows(slice(start, stop))
        views = apply_chain(pictures, part, size, exact, place, jitter_with)
        flat.index_copy_(0, chosen, views.flatten(1))
        start = stop
    return out


def _runs(places: list[int], longest: int) -> Iterator[tuple[int, int]]:
    """(place, stop) of runs of equal places, none longer than ``longest``."""
    start = 0
    for stop in range(1, len(places) + 1):
        full = stop - start == longest
        if full or stop == len(places) or places[stop] != places[start]:
            yield places[start], stop
            start = stop


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
