"""Triton kernels that crop, color and finish views on a GPU, one program a view.

They follow `bcl.augment.ops.crop`, `jitter` and `chain` operation by operation, without contracting
products and sums, so that both give the same views; a program does only what its view needs (of a
crop it makes a tile). Levels are float32, planes lie one behind the other: (R, 3, rows, columns).
`boost_kernel` and `draw_kernels` beside this file do the same for the ops and the draws.
"""

import triton
import triton.language as tl


@triton.jit
def cut_levels(x):
    """Cut to 0 .. 255."""
    return tl.minimum(tl.maximum(x, 0.0), 255.0)


@triton.jit
def _whole(x):
    return tl.floor(cut_levels(x) + 0.5)


@triton.jit
def _load(x, offset, plane, mask):
    """Load three channels."""
    red = tl.load(x + offset, mask=mask, other=0.0)
    green = tl.load(x + plane + offset, mask=mask, other=0.0)
    blue = tl.load(x + 2 * plane + offset, mask=mask, other=0.0)
    return red, green, blue


@triton.jit
def store_rgb(x, offset, plane, mask, red, green, blue):
    """Store three channels."""
    tl.store(x + offset, red, mask=mask)
    tl.store(x + plane + offset, green, mask=mask)
    tl.store(x + 2 * plane + offset, blue, mask=mask)


@triton.jit
def inverted(x, threshold):
    """Invert the levels from the threshold up."""
    return tl.where(x >= threshold, 255.0 - x, x)


# --- crop, resize, flip ---------------------------------------------------------------------------


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
    """Levels of one channel of the image; what is no number is 0."""
    x = tl.load(image + offset, mask=mask, other=0).to(tl.float32)
    if is_float:
        x = x * 255.0
        x = cut_levels(tl.where(x == x, x, 0.0))
    return x


@triton.jit
def crop_kernel(
    out, images, top, left, height, width, flip,
    count, rows, cols, stride_b, stride_c, stride_h, stride_w, out_rows, out_cols,
    row_taps, col_taps,
    exact: tl.constexpr, is_float: tl.constexpr, rows_first: tl.constexpr, block: tl.constexpr,
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
    if rows_first:
        swap = (box_h > out_rows) & (box_h - out_rows > 2 * (box_w - out_cols))
    outer_taps = tl.where(swap, col_taps, row_taps)
    inner_taps = tl.where(swap, row_taps, col_taps)
    outer_center = tl.where(swap, center_x, center_y)
    inner_center = tl.where(swap, center_y, center_x)
    outer_scale, inner_scale = tl.where(swap, scale_x, scale_y), tl.where(swap, scale_y, scale_x)
    outer_length = tl.where(swap, box_w, box_h).to(tl.float32)
    inner_length = tl.where(swap, box_h, box_w).to(tl.float32)
    outer_stretch, inner_stretch = tl.maximum(outer_scale, 1.0), tl.maximum(inner_scale, 1.0)
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
            # A stored box that leaves the image must not read beyond it.
            row = tl.minimum(tl.maximum(box_y + tl.where(swap, near, far), 0), rows - 1)
            col = tl.minimum(tl.maximum(box_x + tl.where(swap, far, near), 0), cols - 1)
            offset = row * stride_h + col * stride_w
            line_r += share * _source(image, offset, mask, is_float)
            line_g += share * _source(image + stride_c, offset, mask, is_float)
            line_b += share * _source(image + 2 * stride_c, offset, mask, is_float)
        if exact:
            line_r, line_g, line_b = _whole(line_r), _whole(line_g), _whole(line_b)
        red += weight * line_r
        green += weight * line_g
        blue += weight * line_b
    if exact:
        red, green, blue = _whole(red), _whole(green), _whole(blue)
    else:
        red, green, blue = cut_levels(red), cut_levels(green), cut_levels(blue)
    store_rgb(out + view.to(tl.int64) * 3 * plane, place, plane, mask, red, green, blue)


# --- color ---------------------------------------------------------------------------------------


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
        red, green, blue = _load(x, place, plane, place < plane)
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
def _channel(base, slope, hue, middle, sixth, sign, exact: tl.constexpr):
    away = tl.minimum(tl.maximum(tl.abs(hue - middle * sixth), sixth), 2.0 * sixth)
    y = base + sign * slope * away
    if exact:
        y = tl.floor(y)
    return y


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
            near_r, near_g, near_b = _load(x, near, plane, mask)
            red += weight * near_r
            green += weight * near_g
            blue += weight * near_b
            total += weight
        red, green = tl.div_rn(red, total), tl.div_rn(green, total)
        blue = tl.div_rn(blue, total)
        if exact:
            red, green, blue = _whole(red), _whole(green), _whole(blue)
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
        if op == 3:
            turns = tl.load(hue + view)
            if turns != 0.0:
                for start in range(0, plane, block):
                    place = start + tl.arange(0, block)
                    mask = place < plane
                    red, green, blue = _load(x, place, plane, mask)
                    red, green, blue = _turn_hue(red, green, blue, turns, exact)
                    store_rgb(x, place, plane, mask, red, green, blue)
        else:
            kind = tl.where(op == 0, 0, tl.where(op == 1, 1, 2))
            factor = tl.load(brightness + view)
            factor = tl.where(kind == 1, tl.load(contrast + view), factor)
            factor = tl.where(kind == 2, tl.load(saturation + view), factor)
            if factor != 1.0:
                mean = 0.0
                if kind == 1:
                    mean = _gray_mean(x, plane, exact, block)
                for start in range(0, plane, block):
                    place = start + tl.arange(0, block)
                    mask = place < plane
                    red, green, blue = _load(x, place, plane, mask)
                    base = tl.where(kind == 2, gray_of(red, green, blue, exact), mean)
                    red, green = (
                        blended(base, red, factor, exact),
                        blended(base, green, factor, exact),
                    )
                    store_rgb(x, place, plane, mask, red, green, blended(base, blue, factor, exact))
        tl.debug_barrier()
    if tl.load(gray + view) != 0:
        for start in range(0, plane, block):
            place = start + tl.arange(0, block)
            mask = place < plane
            red, green, blue = _load(x, place, plane, mask)
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
            red, green, blue = _load(x, place, plane, mask)
            red, green = inverted(red, 128.0), inverted(green, 128.0)
            store_rgb(x, place, plane, mask, red, green, inverted(blue, 128.0))


# --- what is handed out ---------------------------------------------------------------------------


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
