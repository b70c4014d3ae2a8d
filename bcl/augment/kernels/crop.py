"""Crop, resize and flip in one Triton kernel, a tile of a view per program.

It follows `bcl.augment.ops.crop` operation by operation, without fusing products and sums.
"""

import triton
import triton.language as tl

from bcl.augment.kernels.levels import cut_levels, store_rgb, whole_levels


@triton.jit
def _tap(tap, first, center, stretch, length):
    """Weight of a tap before it is normalized, and its pixel in the crop."""
    where = first + tap
    # Keys' cubic kernel with a = -0.5.
    t = tl.maximum(2.0 - tl.abs(tl.div_rn(where + 0.5 - center, stretch)), 0.0)
    s = tl.maximum(t - 1.0, 0.0)
    weight = (t - 1.0) * t * t * 0.5 + (1.0 - 2.0 * s) * s * s
    inside = (where >= 0.0) & (where < length)
    last = length - 1.0
    return tl.where(inside, weight, 0.0), tl.minimum(tl.maximum(where, 0.0), last).to(tl.int32)


@triton.jit
def _weight_sum(taps, first, center, stretch, length):
    total = tl.zeros_like(first)
    for tap in range(taps):
        weight, _ = _tap(tap, first, center, stretch, length)
        total += weight
    return total


@triton.jit
def _source(image, offset, mask, is_float: tl.constexpr):
    """Levels of one channel of the image; NaN becomes 0."""
    x = tl.load(image + offset, mask=mask, other=0).to(tl.float32)
    if is_float:
        x = x * 255.0
        x = cut_levels(tl.where(x == x, x, 0.0))
    return x


@triton.jit
def crop_kernel(
    out, images, top, left, height, width, flip,
    count, stride_b, stride_c, stride_h, stride_w, out_rows, out_cols,
    exact: tl.constexpr, is_float: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Cut a box out of an image, resize it and mirror some: a tile of one view."""
    view = tl.program_id(0)
    plane = out_rows * out_cols
    place = tl.program_id(1) * block + tl.arange(0, block)
    mask = place < plane
    box_y, box_x = tl.load(top + view).to(tl.int32), tl.load(left + view).to(tl.int32)
    box_h, box_w = tl.load(height + view).to(tl.int32), tl.load(width + view).to(tl.int32)
    mirrored = tl.load(flip + view) != 0

    y, x = place // out_cols, place % out_cols
    x = tl.where(mirrored, out_cols - 1 - x, x)
    # An argument that is 1 is a constant to Triton, which has no .to().
    scale_y = tl.div_rn(box_h.to(tl.float32), 1.0 * out_rows)
    scale_x = tl.div_rn(box_w.to(tl.float32), 1.0 * out_cols)
    center_y, center_x = (y.to(tl.float32) + 0.5) * scale_y, (x.to(tl.float32) + 0.5) * scale_x
    # The direction that is summed last is the outer loop.
    swap = False
    if exact:
        swap = (box_h > out_rows) & (box_h - out_rows > 2 * (box_w - out_cols))
    outer_center = tl.where(swap, center_x, center_y)
    inner_center = tl.where(swap, center_y, center_x)
    outer_scale, inner_scale = tl.where(swap, scale_x, scale_y), tl.where(swap, scale_y, scale_x)
    outer_length = tl.where(swap, box_w, box_h).to(tl.float32)
    inner_length = tl.where(swap, box_h, box_w).to(tl.float32)
    outer_stretch, inner_stretch = tl.maximum(outer_scale, 1.0), tl.maximum(inner_scale, 1.0)
    outer_taps = tl.ceil(4.0 * outer_stretch).to(tl.int32)
    inner_taps = tl.ceil(4.0 * inner_stretch).to(tl.int32)
    outer_first = tl.floor(outer_center - 2.0 * outer_stretch + 0.5)
    inner_first = tl.floor(inner_center - 2.0 * inner_stretch + 0.5)
    outer_sum = _weight_sum(outer_taps, outer_first, outer_center, outer_stretch, outer_length)
    inner_sum = _weight_sum(inner_taps, inner_first, inner_center, inner_stretch, inner_length)

    image = images + (view % count).to(tl.int64) * stride_b
    red, green = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    blue = tl.zeros((block,), tl.float32)
    for outer in range(outer_taps):
        weight, far = _tap(outer, outer_first, outer_center, outer_stretch, outer_length)
        weight = tl.div_rn(weight, outer_sum)
        line_r, line_g = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
        line_b = tl.zeros((block,), tl.float32)
        for inner in range(inner_taps):
            share, near = _tap(inner, inner_first, inner_center, inner_stretch, inner_length)
            share = tl.div_rn(share, inner_sum)
            row, col = box_y + tl.where(swap, near, far), box_x + tl.where(swap, far, near)
            offset = row * stride_h + col * stride_w
            line_r += share * _source(image, offset, mask, is_float)
            line_g += share * _source(image + stride_c, offset, mask, is_float)
            line_b += share * _source(image + 2 * stride_c, offset, mask, is_float)
        if exact:
            line_r, line_g = whole_levels(line_r), whole_levels(line_g)
            line_b = whole_levels(line_b)
        red += weight * line_r
        green += weight * line_g
        blue += weight * line_b
    if exact:
        red, green, blue = whole_levels(red), whole_levels(green), whole_levels(blue)
    else:
        red, green, blue = cut_levels(red), cut_levels(green), cut_levels(blue)
    store_rgb(out + view.to(tl.int64) * 3 * plane, place, plane, mask, red, green, blue)
