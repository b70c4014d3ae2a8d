"""Triton kernel of the boosted ops, a view per program, as `bcl.augment.chain.apply_ops`."""

import triton
import triton.language as tl

from bcl.augment.kernels.color import blended, enhance, inverted
from bcl.augment.kernels.levels import cut_levels
from bcl.augment.ops.geometry import CUTOUT_COLOR
from bcl.augment.policy import MAX_MAGNITUDE, OPS

# The ops in the order of the table; kernels read constants in this form only. A row more in the
# table fails here, until it has its name and its branch in `boost_kernel`.
(
    SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, AUTO_CONTRAST, INVERT, EQUALIZE, SOLARIZE,
    POSTERIZE, CONTRAST, COLOR, BRIGHTNESS, SHARPNESS, CUTOUT,
) = map(tl.constexpr, range(len(OPS)))  # fmt: skip
FULL_MAGNITUDE = tl.constexpr(MAX_MAGNITUDE)
RED, GREEN, BLUE = map(tl.constexpr, CUTOUT_COLOR)


@triton.jit
def _stretch(to, x, plane, share, block: tl.constexpr):
    """AutoContrast of one channel."""
    low, high = tl.full((block,), 255.0, tl.float32), tl.zeros((block,), tl.float32)
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        level = tl.load(x + place, mask=mask, other=0.0)
        low = tl.minimum(low, tl.where(mask, level, 255.0))
        high = tl.maximum(high, level)
    least, most = tl.min(low, axis=0).to(tl.float64), tl.max(high, axis=0).to(tl.float64)
    # In Pillow's order: the product may fall just under a whole number.
    scale = 255.0 / tl.maximum(most - least, 1.0)
    offset = -least * scale
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        level = tl.load(x + place, mask=mask, other=0.0)
        full = tl.floor(level.to(tl.float64) * scale + offset).to(tl.float32)
        full = tl.where(most > least, cut_levels(full), level)
        tl.store(to + place, tl.floor(level + share * (full - level) + 0.5), mask=mask)


@triton.jit
def _equalize(to, x, counts, plane, share, block: tl.constexpr):
    """Equalize one channel; ``counts`` are 256 integers, 0 before."""
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        level = tl.load(x + place, mask=mask, other=0.0).to(tl.int32)
        tl.atomic_add(counts + level, 1, mask=mask)
    tl.debug_barrier()
    bins = tl.arange(0, 256)
    found = tl.load(counts + bins)
    before = tl.cumsum(found, axis=0) - found
    last = tl.max(tl.where(found > 0, bins, 0), axis=0)
    step = (plane - tl.sum(tl.where(bins == last, found, 0), axis=0)) // 255
    usable = (tl.sum((found > 0).to(tl.int32), axis=0) > 1) & (step > 0)
    table = tl.minimum((step // 2 + before) // tl.maximum(step, 1), 255)
    tl.debug_barrier()
    tl.store(counts + bins, tl.where(usable, table, bins))
    tl.debug_barrier()
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        level = tl.load(x + place, mask=mask, other=0.0)
        full = tl.load(counts + level.to(tl.int32), mask=mask, other=0).to(tl.float32)
        tl.store(to + place, tl.floor(level + share * (full - level) + 0.5), mask=mask)


@triton.jit
def _warp(to, x, op, value, rows, cols, plane, block: tl.constexpr):
    """Shear, translate or rotate with the nearest pixel: Pillow's 16.16 fixed point."""
    zero = value * 0.0
    angle = tl.where(op == ROTATE, value, zero) * (-3.141592653589793 / 180)
    cos, sin = tl.cos(angle), tl.sin(angle)
    mid_x, mid_y = zero + cols * 0.5, zero + rows * 0.5
    shift_x = mid_x - (cos * mid_x + sin * mid_y) + tl.where(op == TRANSLATE_X, value, zero) * cols
    shift_y = mid_y - (-sin * mid_x + cos * mid_y) + tl.where(op == TRANSLATE_Y, value, zero) * rows
    b = sin + tl.where(op == SHEAR_X, value, zero)
    d = -sin + tl.where(op == SHEAR_Y, value, zero)
    # Pillow rounds when rotating or shearing, and floors when only translating.
    half = tl.where((b != 0.0) | (d != 0.0), 0.5, 0.0)
    xx, xy = tl.floor(cos * 65536 + half).to(tl.int64), tl.floor(b * 65536 + half).to(tl.int64)
    yx, yy = tl.floor(d * 65536 + half).to(tl.int64), tl.floor(cos * 65536 + half).to(tl.int64)
    x0 = tl.floor((shift_x + 0.5 * (cos + b)) * 65536 + half).to(tl.int64)
    y0 = tl.floor((shift_y + 0.5 * (cos + d)) * 65536 + half).to(tl.int64)
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        row, col = (place // cols).to(tl.int64), (place % cols).to(tl.int64)
        from_x = (x0 + xy * row + xx * col) >> 16
        from_y = (y0 + yy * row + yx * col) >> 16
        inside = mask & (from_x >= 0) & (from_x < cols) & (from_y >= 0) & (from_y < rows)
        offset = tl.where(inside, from_y * cols + from_x, 0)
        for channel in range(3):
            level = tl.load(x + channel * plane + offset, mask=inside, other=0.0)
            tl.store(to + channel * plane + place, level, mask=mask)


@triton.jit
def _sharpen(to, x, factor, rows, cols, plane, block: tl.constexpr):
    """Blend one channel with its 3 x 3 smoothed form, whose border is the original's."""
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        row, col = place // cols, place % cols
        within = mask & (row > 0) & (row < rows - 1) & (col > 0) & (col < cols - 1)
        level = tl.load(x + place, mask=mask, other=0.0)
        total = 4.0 * level
        for down in range(-1, 2):
            for across in range(-1, 2):
                total += tl.load(x + place + down * cols + across, mask=within, other=0.0)
        smooth = tl.floor(tl.div_rn(total, 13.0 + tl.zeros_like(total)) + 0.5)
        smooth = tl.where(within, smooth, level)
        tl.store(to + place, blended(smooth, level, factor, True), mask=mask)


@triton.jit
def boost_kernel(
    to, views, counts, ops, active, magnitudes, signs, centers_x, centers_y, ranges,
    stride_op, stride_active, stride_magnitude, stride_sign, stride_x, stride_y,
    rows, cols,
    block: tl.constexpr,
):  # fmt: skip
    """Write one view with its op applied, or as it is where the op is not active."""
    view = tl.program_id(0)
    plane = rows * cols
    x = views + view.to(tl.int64) * 3 * plane
    to = to + view.to(tl.int64) * 3 * plane
    op = tl.load(ops + view * stride_op).to(tl.int32)
    sign = tl.load(signs + view * stride_sign).to(tl.float64)
    magnitude = tl.load(magnitudes + view * stride_magnitude)
    magnitude = tl.where(magnitude == magnitude, magnitude, 0.0).to(tl.float64)
    low, span = tl.load(ranges + 4 * op), tl.load(ranges + 4 * op + 1)
    signed, floored = tl.load(ranges + 4 * op + 2), tl.load(ranges + 4 * op + 3)
    value = low + tl.where(signed > 0.0, sign, 1.0) * (magnitude / FULL_MAGNITUDE * span)
    value = tl.where(floored > 0.0, tl.floor(value), value)
    if tl.load(active + view * stride_active) == 0:
        for start in range(0, 3 * plane, block):
            place = start + tl.arange(0, block)
            mask = place < 3 * plane
            tl.store(to + place, tl.load(x + place, mask=mask), mask=mask)
    elif op <= ROTATE:  # the table begins with the ops that move pixels
        _warp(to, x, op, value, rows, cols, plane, block)
    elif (op == CONTRAST) | (op == COLOR) | (op == BRIGHTNESS):
        enhance(to, x, plane, value.to(tl.float32), op == CONTRAST, op == COLOR, True, block)
    elif (op == AUTO_CONTRAST) | (op == EQUALIZE) | (op == SHARPNESS):
        number = value.to(tl.float32)
        for channel in range(3):
            source, target = x + channel * plane, to + channel * plane
            if op == EQUALIZE:
                bins = counts + (view.to(tl.int64) * 3 + channel) * 256
                _equalize(target, source, bins, plane, number, block)
            elif op == AUTO_CONTRAST:
                _stretch(target, source, plane, number, block)
            else:
                _sharpen(target, source, number, rows, cols, plane, block)
    else:
        threshold = tl.ceil(value).to(tl.float32)
        step = tl.exp2(8.0 - value).to(tl.float32)
        side = value * cols
        left = tl.floor(tl.maximum(tl.load(centers_x + view * stride_x) * cols - side / 2, 0.0))
        top = tl.floor(tl.maximum(tl.load(centers_y + view * stride_y) * rows - side / 2, 0.0))
        # A square of no size is not painted at all.
        right = tl.where(value > 0.0, tl.minimum(left + side, cols * 1.0), -1.0)
        bottom = tl.minimum(top + side, rows * 1.0)
        for channel in range(3):
            color = tl.where(channel == 0, RED, tl.where(channel == 1, GREEN, BLUE))
            for start in range(0, plane, block):
                place = start + tl.arange(0, block)
                mask = place < plane
                level = tl.load(x + channel * plane + place, mask=mask, other=0.0)
                if op == POSTERIZE:
                    level = tl.ceil(tl.floor(tl.div_rn(level, step + tl.zeros_like(level))) * step)
                elif op == CUTOUT:
                    row, col = place // cols, place % cols
                    across = (col >= left) & (col <= right)
                    level = tl.where(across & (row >= top) & (row <= bottom), color, level)
                else:
                    level = inverted(level, threshold)
                tl.store(to + channel * plane + place, level, mask=mask)
