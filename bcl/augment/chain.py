"""Apply the base chain: crop, flip, color jitter, gray, blur, solarize."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bcl.augment.ops.blocks import (
    FEW_ROWS,
    block_rows,
    change_rows,
    empty_rows,
    keep_freed_memory,
    least_parts,
)
from bcl.augment.ops.color import luminance, per_image
from bcl.augment.ops.crop import CropPlan, crop_resize_flip, round_levels
from bcl.augment.ops.jitter import ColorOps, JitterPlan, apply_jitter
from bcl.augment.params import Params, ViewParams


@dataclass(frozen=True)
class ChainPlan(Params):
    """What follows from the parameters of R views for each step of the chain."""

    crop: CropPlan
    jitter: JitterPlan
    gray: Tensor
    blur: Tensor
    solarize: Tensor

    @classmethod
    def of(
        cls, params: ViewParams, images: Tensor, size: tuple[int, int], order: str
    ) -> "ChainPlan":
        """Plan the chain for images of this size."""
        rows, cols = images.shape[2:]
        crop = CropPlan.of(params, (rows, cols), size, order)
        return cls(crop, JitterPlan.of(params), params.gray, params.blur, params.solarize)


def apply_chain(
    images: Tensor,
    plan: ChainPlan,
    size: tuple[int, int],
    exact: bool,
    place: int | None = None,
    blends: tuple[int, ...] | None = None,
    ops: ColorOps = ColorOps(),  # noqa: B008 - immutable
) -> Tensor:
    """Make one view of each image.

    Args:
        images: (R, 3, H, W) uint8, or float in [0, 1].
        plan: of R rows.
        size: rows and columns of the views.
        exact: Pillow's 8-bit arithmetic after every step; else float without rounding.
        place: as for `apply_jitter`, like ``blends``.
        blends: likewise.
        ops: the color operations, as they are or compiled.

    Returns:
        (R, 3, *size) float32 levels 0 .. 255; whole ones when ``exact``.
    """
    x = crop_resize_flip(images, plan.crop, size, exact)
    x = apply_jitter(x, plan.jitter, exact, place, blends, ops)
    x = change_rows(x, plan.gray, lambda y: luminance(y, exact).expand_as(y))
    x = change_rows(x, plan.blur > 0, lambda y, sigma: gaussian_blur(y, sigma, exact), plan.blur)
    return change_rows(x, plan.solarize, solarize)


def chain_at_once(
    images: Tensor,
    params: ViewParams,
    rows: slice,
    size: tuple[int, int],
    exact: bool,
    order: str,
    ops: ColorOps,
) -> Tensor:
    """Make some of the V B views of B images without asking the device for any value.

    Args:
        images: (B, 3, H, W) uint8, or float in [0, 1].
        params: of V B rows, view-major.
        rows: which R of them.
        size: rows and columns of the views.
        exact: as for `apply_chain`.
        order: whose order of resizing rows and columns, one of `bcl.augment.ops.crop.ORDERS`.
        ops: the color operations, as they are or compiled.

    Returns:
        (R, 3, *size) float32 levels.
    """
    sources = torch.arange(rows.start, rows.stop, device=images.device) % images.shape[0]
    chosen = images.index_select(0, sources)
    plan = ChainPlan.of(params.rows(rows), images, size, order)
    return apply_chain(chosen, plan, size, exact, ops=ops)


def chain_in_blocks(
    images: Tensor,
    params: ViewParams,
    size: tuple[int, int],
    exact: bool,
    order: str,
    ops: ColorOps,
) -> Tensor:
    """Make all views on a CPU, in blocks that stay in its cache.

    Rows whose hue is turned at the same place among the jitter's steps share their blocks, so
    that the hue, the dearest step, is computed once for each row and without masks. Large
    images, of which few fill a block, share the order of the other steps as well.
    """
    keep_freed_memory()
    plan = ChainPlan.of(params, images, size, order)
    key = plan.jitter.place[:, None]  # (R, 1)
    levels = 3 * size[0] * size[1]
    block = min(block_rows(levels), -(-key.shape[0] // least_parts(levels, images[0].numel())))
    if block <= FEW_ROWS and ops == ColorOps():  # compiled, it would be one more graph a kind
        key = torch.cat([key, plan.jitter.blend], dim=1)  # (R, 4)
    weights = 8 ** torch.arange(key.shape[1] - 1, -1, -1, device=key.device)
    alike = (key * weights).sum(dim=1).argsort(stable=True)  # (R,)
    plan = plan.rows(alike)
    out = empty_rows(alike.shape[0], size)
    flat = out.flatten(1)
    start = 0
    for (place, *blends), stop in _runs(key[alike].tolist(), block):
        chosen = alike[start:stop]
        gathered = images.index_select(0, chosen % images.shape[0])
        part = plan.rows(slice(start, stop))
        views = apply_chain(gathered, part, size, exact, place, tuple(blends) or None, ops)
        if block <= FEW_ROWS:
            for row, view in zip(chosen.tolist(), views, strict=True):
                out[row] = view
        else:
            flat.index_copy_(0, chosen, views.flatten(1))
        start = stop
    return out


def _runs(keys: list[list[int]], longest: int) -> Iterator[tuple[list[int], int]]:
    """(key, stop) of runs of equal keys, none longer than ``longest``."""
    start = 0
    for stop in range(1, len(keys) + 1):
        full = stop - start == longest
        if full or stop == len(keys) or keys[stop] != keys[start]:
            yield keys[start], stop
            start = stop


def solarize(x: Tensor) -> Tensor:
    """Invert the levels from 128 up, as torchvision does."""
    high = (x - 128).ge_(0)
    return high.mul_(255 - 2 * x).add_(x)


def gaussian_blur(x: Tensor, sigma: Tensor, exact: bool) -> Tensor:
    r"""Blur with a Gaussian of each image's own width; edges are mirrored.

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
    exponent = -0.5 * (distance / per_image(sigma.clamp(min=1e-3))) ** 2  # (R, 3, out, in)
    weight = (exponent.exp() * counts[:, None]).sum(dim=1)
    return weight / weight.sum(dim=2, keepdim=True)
