"""Triton kernels that color, blur and normalize views in place, a view per program.

They follow `bcl.augment.ops.color` and `blur` operation by operation, without fusing products and
sums; a program does only what its view needs.
"""

import triton
import triton.language as tl

from bcl.augment.kernels.levels import cut_levels, load_rgb, store_rgb, whole_levels
from bcl.augment.ops import color

CONTRAST, SATURATION, HUE = map(tl.constexpr, (color.CONTRAST, color.SATURATION, color.HUE))


@triton.jit
def inverted(x, threshold):
    """Invert the levels from the threshold up."""
    return tl.where(x >= threshold, 255.0 - x, x)


@triton.jit
def gray_of(red, green, blue, exact: tl.constexpr):
    """Gray level, as `bcl.augment.ops.color.luminance`."""
    gray = red * (19595 / 65536) + green * (38470 / 65536) + blue * (7471 / 65536)
    if exact:
        gray = tl.floor(gray + 0.5)
    return gray


@triton.jit
def _gray_mean(x, plane, exact: tl.constexpr, block: tl.constexpr):
    """Mean gray level of a view; of whole levels the sum is exact."""
    total = tl.zeros((block,), tl.int32 if exact else tl.float32)
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        red, green, blue = load_rgb(x, place, plane, place < plane)
        total += gray_of(red, green, blue, exact).to(total.dtype)
    mean = tl.sum(total, axis=0).to(tl.float64) / plane
    if exact:
        mean = tl.floor(mean + 0.5)
    return mean.to(tl.float32)


@triton.jit
def blended(base, x, factor, exact: tl.constexpr):
    """Pillow's enhancement, as `bcl.augment.ops.color.blend`."""
    y = cut_levels((x - base) * factor + base)
    if exact:
        y = tl.floor(y)
    return y


@triton.jit
def enhance(to, x, plane, factor, by_mean, by_gray, exact: tl.constexpr, block: tl.constexpr):
    """Brightness, contrast (``by_mean``) or saturation (``by_gray``) of one view."""
    mean = 0.0
    if by_mean:
        mean = _gray_mean(x, plane, exact, block)
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        red, green, blue = load_rgb(x, place, plane, mask)
        base = tl.where(by_gray, gray_of(red, green, blue, exact), mean)
        red, green = blended(base, red, factor, exact), blended(base, green, factor, exact)
        store_rgb(to, place, plane, mask, red, green, blended(base, blue, factor, exact))


@triton.jit
def _channel(base, slope, hue, middle, sixth, sign, exact: tl.constexpr):
    away = tl.minimum(tl.maximum(tl.abs(hue - middle * sixth), sixth), 2.0 * sixth)
    y = base + sign * slope * away
    return tl.floor(y) if exact else cut_levels(y)


@triton.jit
def _turn_hue(red, green, blue, turns, exact: tl.constexpr):
    """Turn the hue: `bcl.augment.ops.color.shift_hue` of one pixel."""
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    is_red, is_green = red == value, green == value
    differ = tl.where(is_red, green - blue, tl.where(is_green, blue - red, red - green))
    sector = tl.where(is_red, 0.0, tl.where(is_green, 2.0, 4.0))
    side = tl.where(differ > 0.0, 1.0, tl.where(differ < 0.0, -1.0, 0.0))
    if exact:
        rest = tl.div_rn(chroma - tl.abs(differ), tl.maximum(chroma, 1.0)) * side
    else:
        rest = tl.div_rn(chroma - tl.abs(differ), tl.maximum(chroma, 1e-4)) * side
    hue = side + sector - rest
    if exact:
        share = tl.div_rn(hue, 6.0 + tl.zeros_like(hue))
        share = share - tl.floor(share)
        level = tl.floor(share * 255.0)
        level += tl.floor(share * 256.0 - level - share)
        level += tl.where(turns < 0.0, tl.ceil(turns * 255.0), tl.floor(turns * 255.0))
        hue = level - tl.floor(level * (1 / 256)) * 256.0
        depth = tl.floor(tl.div_rn(chroma, tl.maximum(value, 1.0)) * 255.0)
        depth = tl.div_rn(depth, 255.0 + tl.zeros_like(depth)) * value
        value += 0.5
        slope = tl.div_rn(depth, 42.5 + tl.zeros_like(depth))
        sixth = 42.5
    else:
        hue += 6.0 * turns
        hue -= tl.floor(tl.div_rn(hue, 6.0 + tl.zeros_like(hue))) * 6.0
        depth = chroma
        slope = chroma
        sixth = 1.0
    high = value + depth
    red = _channel(value - 2.0 * depth, slope, hue, 3.0, sixth, 1.0, exact)
    green = _channel(high, slope, hue, 2.0, sixth, -1.0, exact)
    blue = _channel(high, slope, hue, 4.0, sixth, -1.0, exact)
    return red, green, blue


@triton.jit
def _blur_line(
    to, x, reach, sigma, along, limit, step, plane, exact: tl.constexpr, block: tl.constexpr
):
    """Blur in one direction, in which pixels lie ``step`` apart; edges are mirrored."""
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        here = (place // step) % along
        origin = place - here * step
        red, green = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
        blue, total = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
        for shift in range(-reach, reach + 1):
            distance = shift / sigma
            weight = tl.exp(-0.5 * distance * distance)
            there = here + shift
            beyond = tl.where(there > limit, 2 * limit - there, there)
            there = tl.where(there < 0, -there, beyond)
            once = (there >= 0) & (there <= limit)  # what is mirrored is not mirrored again
            weight = tl.where(once, weight, 0.0)
            near = origin + tl.where(once, there, 0) * step
            near_r, near_g, near_b = load_rgb(x, near, plane, mask)
            red += weight * near_r
            green += weight * near_g
            blue += weight * near_b
            total += weight
        red, green = tl.div_rn(red, total), tl.div_rn(green, total)
        blue = tl.div_rn(blue, total)
        if exact:
            red, green, blue = whole_levels(red), whole_levels(green), whole_levels(blue)
        store_rgb(to, place, plane, mask, red, green, blue)


@triton.jit
def color_kernel(
    views, spare, brightness, contrast, saturation, hue, order, gray, blur, solarize,
    rows, cols,
    exact: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Jitter, gray, blur and solarize one view in place; ``spare`` is as large as ``views``."""
    view = tl.program_id(0)
    plane = rows * cols
    x = views + view.to(tl.int64) * 3 * plane
    for step in range(4):
        op = tl.load(order + 4 * view + step)
        if op == HUE:
            turns = tl.load(hue + view)
            if turns != 0.0:
                for start in range(0, plane, block):
                    place = start + tl.arange(0, block)
                    mask = place < plane
                    red, green, blue = load_rgb(x, place, plane, mask)
                    red, green, blue = _turn_hue(red, green, blue, turns, exact)
                    store_rgb(x, place, plane, mask, red, green, blue)
        else:
            factor = tl.load(brightness + view)
            factor = tl.where(op == CONTRAST, tl.load(contrast + view), factor)
            factor = tl.where(op == SATURATION, tl.load(saturation + view), factor)
            if factor != 1.0:
                enhance(x, x, plane, factor, op == CONTRAST, op == SATURATION, exact, block)
        tl.debug_barrier()
    if tl.load(gray + view) != 0:
        for start in range(0, plane, block):
            place = start + tl.arange(0, block)
            mask = place < plane
            red, green, blue = load_rgb(x, place, plane, mask)
            red = gray_of(red, green, blue, exact)
            store_rgb(x, place, plane, mask, red, red, red)
        tl.debug_barrier()
    sigma = tl.load(blur + view)
    if sigma > 0.0:
        # Beyond six standard deviations a weight is less than float32 tells from 0.
        sigma = tl.maximum(sigma, 1e-3)
        reach = tl.ceil(6.0 * sigma).to(tl.int32)
        between = spare + view.to(tl.int64) * 3 * plane
        wide, high = tl.minimum(reach, 2 * cols), tl.minimum(reach, 2 * rows)
        _blur_line(between, x, wide, sigma, cols, cols - 1, 1, plane, False, block)
        tl.debug_barrier()
        _blur_line(x, between, high, sigma, rows, rows - 1, cols, plane, exact, block)
        tl.debug_barrier()
    if tl.load(solarize + view) != 0:
        for start in range(0, plane, block):
            place = start + tl.arange(0, block)
            mask = place < plane
            red, green, blue = load_rgb(x, place, plane, mask)
            red, green = inverted(red, 128.0), inverted(green, 128.0)
            store_rgb(x, place, plane, mask, red, green, inverted(blue, 128.0))


@triton.jit
def finish_kernel(
    views, bad_images, magnitudes, stride_row, stride_op, numbers, count, k, plane,
    images_checked: tl.constexpr, scores_checked: tl.constexpr, normalized: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """Levels to [0, 1], then mean and standard deviation; views of bad values to NaN, in place."""
    view = tl.program_id(0)
    place = tl.program_id(1) * block + tl.arange(0, block)
    mask = place < 3 * plane
    bad = 0.0
    if images_checked:
        bad += tl.load(bad_images + view % count).to(tl.float32)
    if scores_checked:
        for j in range(k):
            magnitude = tl.load(magnitudes + view * stride_row + j * stride_op)
            bad += (magnitude != magnitude).to(tl.float32)
    x = views + view.to(tl.int64) * 3 * plane + place
    y = tl.load(x, mask=mask, other=0.0)
    y = tl.div_rn(y, 255.0 + tl.zeros_like(y))
    if normalized:
        channel = place // plane
        mean = tl.load(numbers + channel, mask=mask, other=0.0).to(tl.float32)
        std = tl.load(numbers + 3 + channel, mask=mask, other=1.0).to(tl.float32)
        y = tl.div_rn(y - mean, std)
    tl.store(x, tl.where(bad > 0.0, float("nan"), y), mask=mask)
