"""Crop, resize and flip with Pillow's antialiased bicubic weights."""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bcl.augment.ops.blocks import waits_for_nothing
from bcl.augment.params import Params, ViewParams

# Images up to this side are resized on a CPU by one matrix product and one sparse sum over the
# whole block; larger ones by torch's 8-bit kernel, image by image, whose calls then cost less
# than what they save.
_SMALL_SIDE = 48
# Whose order of resizing rows and columns is followed.
ORDERS = ("pillow-13", "pillow-12")


def bicubic(x: Tensor) -> Tensor:
    r"""Keys' cubic kernel with a = -0.5, as Pillow's ``BICUBIC``.

    .. math:: k(x) = \tfrac12 t^2 (t - 1) + s^2 (1 - 2s), \qquad
        t = \max(0, 2 - |x|), \quad s = \max(0, 1 - |x|)

    which is :math:`1.5|x|^3 - 2.5x^2 + 1` within one pixel, :math:`-0.5|x|^3 + 2.5x^2 - 4|x| + 2`
    up to two, and 0 beyond.

    Args:
        x: distances in source pixels, any shape.

    Returns:
        Weights of the shape of ``x``.

    Example:
        >>> bicubic(torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
        tensor([ 1.0000,  0.5625,  0.0000, -0.0625,  0.0000])
    """
    t = (2 - x.abs()).clamp_(min=0)
    s = (t - 1).clamp_(min=0)
    return (t - 1).mul_(t).mul_(t).mul_(0.5) + (1 - 2 * s).mul_(s).mul_(s)


def resize_taps(
    start: Tensor, length: Tensor, in_size: int, out_size: int, flip: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Source pixels and their weights when ``[start, start + length)`` of a line is resized.

    .. math:: w_{oi} \propto k\Bigl(\frac{i + 0.5 - (o + 0.5) s}{\max(s, 1)}\Bigr),
        \qquad s = \mathrm{length} / \mathrm{out\_size}

    with i counted from the start of the crop; the weights of an output pixel o sum to one, and
    pixels outside the crop have none, as when Pillow resizes an image that was cropped before.

    Args:
        start: (R,) int64 first pixel.
        length: (R,) int64 pixels of the crop.
        in_size: pixels of the line.
        out_size: pixels after resizing.
        flip: (R,) bool, mirror the result.

    Returns:
        (R, out_size, T) int64 positions in the line and (R, out_size, T) float32 weights, where
        T = ceil(4 max(in_size / out_size, 1)).

    Example:
        >>> position, weight = resize_taps(torch.tensor([1]), torch.tensor([2]), 4, 4)
        >>> position[0, 0].tolist(), [abs(round(w, 4)) for w in weight[0, 0].tolist()]
        ([1, 1, 1, 2], [0.0, 0.0, 1.0882, 0.0882])
    """
    device = start.device
    taps = math.ceil(4 * max(in_size / out_size, 1))
    scale = length.to(torch.float32)[:, None] / out_size  # (R, 1)
    stretch = scale.clamp(min=1)
    place = torch.arange(out_size, device=device, dtype=torch.float32)  # (S,)
    if flip is not None:
        mirrored = flip[:, None].to(torch.float32)
        place = place + mirrored * (out_size - 1 - 2 * place)  # (R, S)
    center = (place + 0.5) * scale  # (R, S) in the crop
    first = (center - 2 * stretch + 0.5).floor_()  # (R, S)
    offset = torch.arange(taps, device=device, dtype=torch.float32)
    where = first[:, :, None] + offset  # (R, S, T)
    weight = bicubic((where + 0.5 - center[:, :, None]).div_(stretch[:, :, None]))
    last = (length[:, None, None] - 1).to(torch.float32)
    kept = where.clamp(min=0).minimum(last)
    # 1 where the tap lies in the crop, 0 where it had to be moved into it.
    weight = weight * (1 - (kept - where).abs_().clamp_(max=1))
    weight = weight / weight.sum(dim=2, keepdim=True)
    return kept.to(torch.int64) + start[:, None, None], weight


def resize_matrix(position: Tensor, weight: Tensor, in_size: int) -> Tensor:
    """(R, S, T) taps as (R, S, in_size) matrices."""
    matrix = weight.new_zeros(*position.shape[:2], in_size)
    return matrix.scatter_add_(2, position, weight)


def round_levels(x: Tensor) -> Tensor:
    """Round to whole levels 0 .. 255 in place."""
    return x.clamp_(0, 255).add_(0.5).floor_()


def to_levels(images: Tensor) -> Tensor:
    """Uint8, or float in [0, 1], as float32 levels 0 .. 255; what is no number is 0."""
    if not images.is_floating_point():
        return images.to(torch.float32)
    # Only values that nobody looked at are changed here, and their views become NaN at the end.
    return (images.to(torch.float32) * 255).nan_to_num_(0.0).clamp_(0, 255)


@dataclass(frozen=True)
class CropPlan(Params):
    """Boxes of R views and, for images resized by sums, the pixels that make up each view.

    Attributes:
        box: (R, 6) int64 top, left, height, width, flip, and whether rows are resized first.
        across: (R, S_w, T) int64 source columns of each column, or (R, 0, 0).
        across_weight: (R, S_w, T) float32.
        down: (R, S_h, T) int64 source rows of each row.
        down_weight: (R, S_h, T) float32.
    """

    box: Tensor
    across: Tensor
    across_weight: Tensor
    down: Tensor
    down_weight: Tensor

    @classmethod
    def of(
        cls,
        params: ViewParams,
        image_size: tuple[int, int],
        size: tuple[int, int],
        order: str = "pillow-13",
    ) -> "CropPlan":
        """Plan the crops that ``params`` describe, of images of this size to views of that."""
        p = params
        first = rows_come_first(p.height, p.width, size, order)
        box = torch.stack([p.top, p.left, p.height, p.width, p.flip.to(p.top), first.to(p.top)], 1)
        if singly(p.top, image_size, size):
            none = box.new_empty(box.shape[0], 0, 0)
            return cls(box, none, none, none, none)
        if waits_for_nothing(p.top):
            across = resize_taps(p.left, p.width, image_size[1], size[1], p.flip)
            down = resize_taps(p.top, p.height, image_size[0], size[0])
        else:
            across = _looked_up(p.left, p.width, image_size[1], size[1], p.flip)
            down = _looked_up(p.top, p.height, image_size[0], size[0], torch.zeros_like(p.flip))
        return cls(box, *across, *down)


def _looked_up(
    start: Tensor, length: Tensor, in_size: int, out_size: int, flip: Tensor
) -> tuple[Tensor, Tensor]:
    """`resize_taps` out of a table, which for small images is a twentieth of a view's time."""
    position, weight = _tap_table(in_size, out_size)
    row = (flip.to(torch.int64) * in_size + start) * in_size + length - 1
    return position.index_select(0, row), weight.index_select(0, row)


@functools.lru_cache(maxsize=8)
def _tap_table(in_size: int, out_size: int) -> tuple[Tensor, Tensor]:
    """The taps of every flip, start and length, in that order; 3 MB for 32 to 32 pixels."""
    flip, start, length = torch.meshgrid(
        torch.arange(2, device="cpu"),
        torch.arange(in_size, device="cpu"),
        torch.arange(1, in_size + 1, device="cpu"),
        indexing="ij",
    )
    length = length.minimum(in_size - start)  # longer ones leave the image and are never asked
    flags = flip.flatten().to(torch.bool)
    return resize_taps(start.flatten(), length.flatten(), in_size, out_size, flags)


def rows_come_first(
    height: Tensor, width: Tensor, size: tuple[int, int], order: str = "pillow-13"
) -> Tensor:
    r"""Whether the rows of a crop are resized before its columns.

    It shows in the rounding between the two. Up to version 12 Pillow took the columns first; from
    13 on it takes the rows first where the height shrinks by more than twice what the width does:

    .. math:: h - S_h > 0 \quad\text{and}\quad h - S_h > 2 (w - S_w)

    Args:
        height: (R,) int64 h, rows of the crop.
        width: (R,) int64 w, columns of the crop.
        size: rows S_h and columns S_w of the view.
        order: one of `ORDERS`.

    Returns:
        (R,) bool.

    Source: Pillow 13.0.0, ``src/libImaging/Resample.c``.

    Example:
        >>> rows_come_first(torch.tensor([40, 40, 30]), torch.tensor([34, 36, 8]), (32, 32))
        tensor([ True, False, False])
    """
    if order == "pillow-12":
        return torch.zeros_like(height, dtype=torch.bool)
    fewer_rows, fewer_cols = height - size[0], width - size[1]
    return (fewer_rows > 0) & (fewer_rows > 2 * fewer_cols)


def singly(x: Tensor, image_size: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether images are resized one by one: on a CPU, where they are large."""
    return not waits_for_nothing(x) and max(*image_size, *size) > _SMALL_SIDE


def crop_resize_flip(images: Tensor, plan: CropPlan, size: tuple[int, int], exact: bool) -> Tensor:
    """Cut one box out of each image, resize it, and mirror some.

    Args:
        images: (R, 3, H, W) uint8, or float in [0, 1].
        plan: of R rows.
        size: rows and columns of the result.
        exact: round to whole levels after each direction, as Pillow does.

    Returns:
        (R, 3, *size) float32 levels within [0, 255].
    """
    rows, cols = images.shape[2:]
    if singly(images, (rows, cols), size):
        return _image_by_image(images, plan.box, size, exact)
    if not exact or rows <= size[0]:  # nothing is rounded in between, or no rows shrink
        return _columns_first(images, plan, size, exact)
    first = plan.box[:, 5].to(torch.bool)
    if waits_for_nothing(images):
        tall = _rows_first(images, plan, size)
        return torch.where(first[:, None, None, None], tall, _columns_first(images, plan, size))
    out = torch.empty(images.shape[0], 3, *size, device=images.device, dtype=torch.float32)
    for which, resize in ((first, _rows_first), (~first, _columns_first)):
        chosen = which.nonzero().squeeze(1)
        if chosen.numel():
            out.index_copy_(0, chosen, resize(images[chosen], plan.rows(chosen), size))
    return out


def _columns_first(
    images: Tensor, plan: CropPlan, size: tuple[int, int], exact: bool = True
) -> Tensor:
    """(R, 3, H, W) to levels (R, 3, *size), each row of pixels first."""
    rows, cols = images.shape[2:]
    across = resize_matrix(plan.across, plan.across_weight, cols)  # (R, S_w, W)
    x = torch.bmm(to_levels(images).flatten(1, 2), across.transpose(1, 2))  # (R, 3 H, S_w)
    if exact:
        x = round_levels(x)
    add_up = _multiply_rows if waits_for_nothing(images) else _sum_rows
    x = add_up(x.view(-1, 3, rows, size[1]), plan.down, plan.down_weight)  # (R, 3, S_h, S_w)
    return round_levels(x) if exact else x.clamp_(0, 255)


def _rows_first(images: Tensor, plan: CropPlan, size: tuple[int, int]) -> Tensor:
    """The same with whole levels, each column of pixels first."""
    add_up = _multiply_rows if waits_for_nothing(images) else _sum_rows
    x = round_levels(add_up(to_levels(images), plan.down, plan.down_weight))  # (R, 3, S_h, W)
    across = resize_matrix(plan.across, plan.across_weight, images.shape[3])  # (R, S_w, W)
    x = torch.bmm(x.flatten(1, 2), across.transpose(1, 2))
    return round_levels(x).view(-1, 3, *size)


def _multiply_rows(x: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
    """(R, 3, H, S_w) to (R, 3, S_h, S_w) by a matrix product."""
    return resize_matrix(taps, weights, x.shape[2])[:, None] @ x


def _sum_rows(x: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
    """The same, summing only the rows that have a weight."""
    count, channels, height, width = x.shape
    line = torch.arange(count * channels, device=x.device) * height  # (3 R,) first rows
    index = line.view(count, channels, 1, 1) + taps[:, None]  # (R, 3, S, T)
    many = weights[:, None].expand(-1, channels, -1, -1)
    bags = functional.embedding_bag(
        index.flatten(0, 2),
        x.reshape(-1, width),
        per_sample_weights=many.flatten(0, 2),
        mode="sum",
    )
    return bags.view(count, channels, -1, width)


def _image_by_image(images: Tensor, boxes: Tensor, size: tuple[int, int], exact: bool) -> Tensor:
    """Torch's own antialiased bicubic, which has Pillow's kernel and an 8-bit form."""
    out = torch.empty(images.shape[0], 3, *size, device=images.device, dtype=torch.float32)
    if images.is_floating_point():
        images = images.to(torch.float32).nan_to_num(0.0)  # the kernel has no 16-bit floats
    for row, image, (top, left, height, width, flip, rows_first) in zip(
        out, images, boxes.tolist(), strict=True
    ):
        box = image[None, :, top : top + height, left : left + width]
        if rows_first and exact:  # the kernel takes the columns first
            view = _antialiased(box.transpose(2, 3), size[::-1]).transpose(2, 3)[0]
        else:
            view = _antialiased(box, size)[0]
        row.copy_(view.flip(2) if flip else view)
    if images.is_floating_point():
        out *= 255
        return round_levels(out) if exact else out.clamp_(0, 255)
    return out


def _antialiased(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return functional.interpolate(x, size=size, mode="bicubic", antialias=True)
