"""Crop, resize and flip with Pillow's antialiased bicubic weights."""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

from bcl.augment.ops.color import round_levels

# Images up to this side are resized together by a matrix product and a sparse sum; larger ones by
# torch's 8-bit kernel, image by image, where the calls cost less than it saves.
_SMALL_SIDE = 48


def crop_resize_flip(images: Tensor, boxes: Tensor, size: tuple[int, int], exact: bool) -> Tensor:
    """Cut boxes out of images (R, 3, H, W), resize and mirror them: (R, 3, *size) levels.

    ``boxes`` (R, 5) are top, left, height, width and whether to mirror; ``exact`` rounds after each
    direction, as Pillow does.
    """
    if max(*images.shape[2:], *size) > _SMALL_SIDE:
        return _one_by_one(images, boxes, size, exact)
    top, left, height, width, flip = boxes.unbind(1)
    across = _taps(left, width, flip, images.shape[3], size[1])
    down = _taps(top, height, torch.zeros_like(flip), images.shape[2], size[0])
    if not exact or images.shape[2] <= size[0]:  # no rounding in between, or no fewer rows
        return _columns_first(images, across, down, exact)
    out = images.new_empty(images.shape[0], 3, *size, dtype=torch.float32)
    first = rows_come_first(height, width, size)
    for mask, resize in ((first, _rows_first), (~first, _columns_first)):
        rows = mask.nonzero().squeeze(1)
        if len(rows):
            taken = (
                (place.index_select(0, rows), weight.index_select(0, rows))
                for place, weight in (across, down)
            )
            out.index_copy_(0, rows, resize(images.index_select(0, rows), *taken))
    return out


def rows_come_first(height: Tensor, width: Tensor, size: tuple[int, int]) -> Tensor:
    r"""Whether the rows of crops (R,) are resized before their columns: (R,) bool.

    The order shows because of the rounding in between. Pillow takes the rows first where the height
    shrinks by more than twice as much as the width, :math:`h - S_h > \max(0, 2 (w - S_w))`: Pillow
    13.0.0, ``src/libImaging/Resample.c``; up to Pillow 12 columns always came first.
    """
    fewer_rows, fewer_cols = height - size[0], width - size[1]
    return (fewer_rows > 0) & (fewer_rows > 2 * fewer_cols)


def to_levels(images: Tensor) -> Tensor:
    """Convert uint8, or float in [0, 1], to float32 levels 0 .. 255."""
    levels = images.to(torch.float32)
    return levels * 255 if images.is_floating_point() else levels


# --- small images, a block at a time --------------------------------------------------------------

Taps = tuple[Tensor, Tensor]  # (R, S, T) int64 source pixels and (R, S, T) float32 weights


def bicubic(x: Tensor) -> Tensor:
    r"""Keys' cubic kernel with a = -0.5 of distances in pixels, as Pillow's ``BICUBIC``.

    .. math:: k(x) = \tfrac12 t^2 (t - 1) + s^2 (1 - 2s), \qquad
        t = \max(0, 2 - |x|), \quad s = \max(0, 1 - |x|)

    Example:
        >>> bicubic(torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
        tensor([ 1.0000,  0.5625,  0.0000, -0.0625,  0.0000])
    """
    t = (2 - x.abs()).clamp_(min=0)
    s = (t - 1).clamp_(min=0)
    return (t - 1).mul_(t).mul_(t).mul_(0.5) + (1 - 2 * s).mul_(s).mul_(s)


def resize_taps(start: Tensor, length: Tensor, flip: Tensor, in_size: int, out_size: int) -> Taps:
    r"""Source pixels and weights (R, out_size, T) when ``[start, start + length)`` (R,) is resized.

    .. math:: w_{oi} \propto k\Bigl(\frac{i + 0.5 - (o + 0.5) s}{\max(s, 1)}\Bigr),
        \qquad s = \mathrm{length} / \mathrm{out\_size}

    with i counted from the start of the crop. The weights of an output pixel o sum to one, and
    pixels outside the crop have none.
    """
    taps = math.ceil(4 * max(in_size / out_size, 1))
    scale = length.to(torch.float32)[:, None] / out_size  # (R, 1)
    stretch = scale.clamp(min=1)
    place = torch.arange(out_size, device=start.device, dtype=torch.float32)  # (S,)
    place = place + flip[:, None].to(torch.float32) * (out_size - 1 - 2 * place)  # (R, S)
    center = (place + 0.5) * scale  # (R, S) in the crop
    first = (center - 2 * stretch + 0.5).floor_()  # (R, S)
    offset = torch.arange(taps, device=start.device, dtype=torch.float32)
    where = first[:, :, None] + offset  # (R, S, T)
    weight = bicubic((where + 0.5 - center[:, :, None]).div_(stretch[:, :, None]))
    last = (length[:, None, None] - 1).to(torch.float32)
    kept = where.clamp(min=0).minimum(last)
    # 1 where the tap lies in the crop, 0 where it had to be moved into it.
    weight = weight * (1 - (kept - where).abs_().clamp_(max=1))
    weight = weight / weight.sum(dim=2, keepdim=True)
    return kept.to(torch.int64) + start[:, None, None], weight


def _taps(start: Tensor, length: Tensor, flip: Tensor, in_size: int, out_size: int) -> Taps:
    """`resize_taps` by a table: computing them would be a twentieth of a view's time."""
    position, weight = _tap_table(in_size, out_size)
    row = (flip * in_size + start) * in_size + length - 1
    return position.index_select(0, row), weight.index_select(0, row)


@functools.lru_cache(maxsize=8)
def _tap_table(in_size: int, out_size: int) -> Taps:
    """The taps of every flip, start and length, in that order; 3 MB for 32 to 32 pixels."""
    flip, start, length = torch.meshgrid(
        torch.arange(2, device="cpu"),
        torch.arange(in_size, device="cpu"),
        torch.arange(1, in_size + 1, device="cpu"),
        indexing="ij",
    )
    length = length.minimum(in_size - start)  # longer ones would leave the image
    return resize_taps(start.flatten(), length.flatten(), flip.flatten(), in_size, out_size)


def _columns_first(images: Tensor, across: Taps, down: Taps, exact: bool = True) -> Tensor:
    """(R, 3, H, W) to levels (R, 3, S_h, S_w), along each row of pixels first."""
    x = to_levels(_last_first(images).contiguous())  # (R, W, 3, H)
    x = _sum_taps(x, *across)  # (R, S_w, 3, H)
    x = _sum_taps(_last_first(round_levels(x) if exact else x), *down)  # (R, S_h, S_w, 3)
    x = _last_first(x).contiguous()
    return round_levels(x) if exact else x.clamp_(0, 255)


def _rows_first(images: Tensor, across: Taps, down: Taps) -> Tensor:
    """The same with whole levels, along each column of pixels first."""
    x = _columns_first(images.transpose(2, 3), down, across)  # (R, 3, S_w, S_h)
    return x.transpose(2, 3)


def _last_first(x: Tensor) -> Tensor:
    """(R, a, b, L) to (R, L, a, b)."""
    return x.permute(0, 3, 1, 2)


def _sum_taps(x: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
    """(R, L, a, b) to (R, S, a, b), summing only the places along L that have a weight.

    Each sum runs over its taps in order, so that it does not depend on what else is in the batch;
    a matrix product may round otherwise for other sizes and addresses.
    """
    count, length, *rest = x.shape
    index = taps + length * torch.arange(count, device=x.device)[:, None, None]  # (R, S, T)
    sums = functional.embedding_bag(
        index.flatten(0, 1),
        x.contiguous().view(count * length, -1),  # torch sums strided rows in another way
        per_sample_weights=weights.flatten(0, 1),
        mode="sum",
    )
    return sums.view(count, -1, *rest)


# --- large images, one by one ---------------------------------------------------------------------


def _one_by_one(images: Tensor, boxes: Tensor, size: tuple[int, int], exact: bool) -> Tensor:
    """Torch's own antialiased bicubic, which has Pillow's kernel and an 8-bit form."""
    out = images.new_empty(images.shape[0], 3, *size, dtype=torch.float32)
    first = rows_come_first(boxes[:, 2], boxes[:, 3], size)
    if images.is_floating_point():
        images = images.to(torch.float32)  # the kernel has no 16-bit floats
    for row, image, (top, left, height, width, flip), rows_first in zip(
        out, images, boxes.tolist(), first.tolist(), strict=True
    ):
        box = image[None, :, top : top + height, left : left + width]
        if rows_first and exact:  # the kernel takes the columns first
            view = _antialiased(box.transpose(2, 3), size[::-1]).transpose(2, 3)[0]
        else:
            view = _antialiased(box, size)[0]
        row.copy_(view.flip(2) if flip else view)
    if not images.is_floating_point():
        return out
    return round_levels(out.mul_(255)) if exact else out.mul_(255).clamp_(0, 255)


def _antialiased(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return functional.interpolate(x, size=size, mode="bicubic", antialias=True)
