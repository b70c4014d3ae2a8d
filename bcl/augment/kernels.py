"""Triton kernels that draw and make views on a GPU.

They follow `bcl.augment.sampling`, `resize`, `jitter`, `chain` and `families` operation by
operation, without contracting products and sums, so that both give the same views. A program makes
one view, and only what this view needs (crops: a tile of one; draws: a view a thread). Levels are
float32, planes lie one behind the other: (R, 3, rows, columns).
"""

import triton
import triton.language as tl

# Rows of the op table (bcl.augment.policy); kernels read constants only in this form.
SHEAR_X, SHEAR_Y = tl.constexpr(0), tl.constexpr(1)
TRANSLATE_X, TRANSLATE_Y, ROTATE = tl.constexpr(2), tl.constexpr(3), tl.constexpr(4)
AUTO_CONTRAST, INVERT, EQUALIZE = tl.constexpr(5), tl.constexpr(6), tl.constexpr(7)
SOLARIZE, POSTERIZE, CONTRAST = tl.constexpr(8), tl.constexpr(9), tl.constexpr(10)
COLOR, BRIGHTNESS, SHARPNESS = tl.constexpr(11), tl.constexpr(12), tl.constexpr(13)
CUTOUT = tl.constexpr(14)


@triton.jit
def _cut(x):
    return tl.minimum(tl.maximum(x, 0.0), 255.0)


@triton.jit
def _whole(x):
    return tl.floor(_cut(x) + 0.5)


@triton.jit
def _load(x, offset, plane, mask):
    """Load three channels."""
    red = tl.load(x + offset, mask=mask, other=0.0)
    green = tl.load(x + plane + offset, mask=mask, other=0.0)
    blue = tl.load(x + 2 * plane + offset, mask=mask, other=0.0)
    return red, green, blue


@triton.jit
def _store(x, offset, plane, mask, red, green, blue):
    tl.store(x + offset, red, mask=mask)
    tl.store(x + plane + offset, green, mask=mask)
    tl.store(x + 2 * plane + offset, blue, mask=mask)


# --- crop, resize, flip ---------------------------------------------------------------------------


@triton.jit
def _tap(tap, first, centre, stretch, length):
    """Weight of a tap before it is normalised, and its pixel in the crop."""
    where = first + tap
    # Keys' cubic kernel with a = -0.5.
    t = tl.maximum(2.0 - tl.abs(tl.div_rn(where + 0.5 - centre, stretch)), 0.0)
    s = tl.maximum(t - 1.0, 0.0)
    weight = (t - 1.0) * t * t * 0.5 + (1.0 - 2.0 * s) * s * s
    inside = (where >= 0.0) & (where < length)
    last = length - 1.0
    return tl.where(inside, weight, 0.0), tl.minimum(tl.maximum(where, 0.0), last).to(tl.int32)


@triton.jit
def _weight_sum(taps, first, centre, stretch, length):
    total = tl.zeros_like(first)
    for tap in range(taps):
        weight, _ = _tap(tap, first, centre, stretch, length)
        total += weight
    return total


@triton.jit
def _source(image, offset, mask, is_float: tl.constexpr):
    """Levels of one channel of the picture; what is no number is 0."""
    x = tl.load(image + offset, mask=mask, other=0).to(tl.float32)
    if is_float:
        x = x * 255.0
        x = _cut(tl.where(x == x, x, 0.0))
    return x


@triton.jit
def crop_kernel(
    out, images, top, left, height, width, flip,
    count, rows, cols, stride_b, stride_c, stride_h, stride_w, out_rows, out_cols,
    row_taps, col_taps,
    exact: tl.constexpr, is_float: tl.constexpr, rows_first: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Cut a box out of a picture, resize it and mirror some: a tile of one view."""
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
    centre_y, centre_x = (y.to(tl.float32) + 0.5) * scale_y, (x.to(tl.float32) + 0.5) * scale_x
    # The direction that is summed last is the outer loop.
    swap = False
    if rows_first:
        swap = (box_h > out_rows) & (box_h - out_rows > 2 * (box_w - out_cols))
    outer_taps = tl.where(swap, col_taps, row_taps)
    inner_taps = tl.where(swap, row_taps, col_taps)
    outer_centre = tl.where(swap, centre_x, centre_y)
    inner_centre = tl.where(swap, centre_y, centre_x)
    outer_scale, inner_scale = tl.where(swap, scale_x, scale_y), tl.where(swap, scale_y, scale_x)
    outer_length = tl.where(swap, box_w, box_h).to(tl.float32)
    inner_length = tl.where(swap, box_h, box_w).to(tl.float32)
    outer_stretch, inner_stretch = tl.maximum(outer_scale, 1.0), tl.maximum(inner_scale, 1.0)
    outer_first = tl.floor(outer_centre - 2.0 * outer_stretch + 0.5)
    inner_first = tl.floor(inner_centre - 2.0 * inner_stretch + 0.5)
    outer_sum = _weight_sum(outer_taps, outer_first, outer_centre, outer_stretch, outer_length)
    inner_sum = _weight_sum(inner_taps, inner_first, inner_centre, inner_stretch, inner_length)

    image = images + (view % count).to(tl.int64) * stride_b
    red, green = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    blue = tl.zeros((block,), tl.float32)
    for outer in range(outer_taps):
        weight, far = _tap(outer, outer_first, outer_centre, outer_stretch, outer_length)
        weight = tl.div_rn(weight, outer_sum)
        line_r, line_g = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
        line_b = tl.zeros((block,), tl.float32)
        for inner in range(inner_taps):
            share, near = _tap(inner, inner_first, inner_centre, inner_stretch, inner_length)
            share = tl.div_rn(share, inner_sum)
            # A stored box that leaves the picture must not read beyond it.
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
        red, green, blue = _cut(red), _cut(green), _cut(blue)
    _store(out + view.to(tl.int64) * 3 * plane, place, plane, mask, red, green, blue)


# --- colour ---------------------------------------------------------------------------------------


@triton.jit
def _grey(red, green, blue, exact: tl.constexpr):
    grey = red * (19595 / 65536) + green * (38470 / 65536) + blue * (7471 / 65536)
    if exact:
        grey = tl.floor(grey + 0.5)
    return grey


@triton.jit
def _grey_mean(x, plane, exact: tl.constexpr, block: tl.constexpr):
    """Mean grey level of a view; of whole levels the sum is exact."""
    total = tl.zeros((block,), tl.int32 if exact else tl.float32)
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        red, green, blue = _load(x, place, plane, place < plane)
        total += _grey(red, green, blue, exact).to(total.dtype)
    mean = tl.sum(total, axis=0).to(tl.float64) / plane
    if exact:
        mean = tl.floor(mean + 0.5)
    return mean.to(tl.float32)


@triton.jit
def _blend(base, x, factor, exact: tl.constexpr):
    y = _cut((x - base) * factor + base)
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
    """Turn the hue: `bcl.augment.colour.shift_hue` of one pixel."""
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
        _store(to, place, plane, mask, red, green, blue)


@triton.jit
def colour_kernel(
    views, spare, brightness, contrast, saturation, hue, order, grey, blur, solarize,
    rows, cols,
    exact: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Jitter, grey, blur and solarize one view in place; ``spare`` is as large as ``views``."""
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
                    _store(x, place, plane, mask, red, green, blue)
        else:
            kind = tl.where(op == 0, 0, tl.where(op == 1, 1, 2))
            factor = tl.load(brightness + view)
            factor = tl.where(kind == 1, tl.load(contrast + view), factor)
            factor = tl.where(kind == 2, tl.load(saturation + view), factor)
            if factor != 1.0:
                mean = 0.0
                if kind == 1:
                    mean = _grey_mean(x, plane, exact, block)
                for start in range(0, plane, block):
                    place = start + tl.arange(0, block)
                    mask = place < plane
                    red, green, blue = _load(x, place, plane, mask)
                    base = tl.where(kind == 2, _grey(red, green, blue, exact), mean)
                    red, green = (
                        _blend(base, red, factor, exact),
                        _blend(base, green, factor, exact),
                    )
                    _store(x, place, plane, mask, red, green, _blend(base, blue, factor, exact))
        tl.debug_barrier()
    if tl.load(grey + view) != 0:
        for start in range(0, plane, block):
            place = start + tl.arange(0, block)
            mask = place < plane
            red, green, blue = _load(x, place, plane, mask)
            red = _grey(red, green, blue, exact)
            _store(x, place, plane, mask, red, red, red)
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
            red, green = _inverted(red, 128.0), _inverted(green, 128.0)
            _store(x, place, plane, mask, red, green, _inverted(blue, 128.0))


# --- boosted ops ----------------------------------------------------------------------------------


@triton.jit
def _inverted(x, threshold):
    return tl.where(x >= threshold, 255.0 - x, x)


@triton.jit
def _levels(x, offset, mask, whole: tl.constexpr):
    y = tl.load(x + offset, mask=mask, other=0.0)
    if not whole:
        y = _cut(tl.floor(y + 0.5))
    return y


@triton.jit
def _stretch(to, x, plane, share, whole: tl.constexpr, block: tl.constexpr):
    """AutoContrast of one channel."""
    low, high = tl.full((block,), 255.0, tl.float32), tl.zeros((block,), tl.float32)
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        level = _levels(x, place, mask, whole)
        low = tl.minimum(low, tl.where(mask, level, 255.0))
        high = tl.maximum(high, level)
    least, most = tl.min(low, axis=0).to(tl.float64), tl.max(high, axis=0).to(tl.float64)
    # In Pillow's order: the product may fall just under a whole number.
    scale = 255.0 / tl.maximum(most - least, 1.0)
    offset = -least * scale
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        level = _levels(x, place, mask, whole)
        full = tl.floor(level.to(tl.float64) * scale + offset).to(tl.float32)
        full = tl.where(most > least, _cut(full), level)
        tl.store(to + place, tl.floor(level + share * (full - level) + 0.5), mask=mask)


@triton.jit
def _equalize(to, x, counts, plane, share, whole: tl.constexpr, block: tl.constexpr):
    """Equalize one channel; ``counts`` are 256 integers, 0 before."""
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        # An op before this one, of a stored magnitude beyond 30, must not write beyond the bins.
        level = _cut(_levels(x, place, mask, whole)).to(tl.int32)
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
        level = _cut(_levels(x, place, mask, whole))
        full = tl.load(counts + level.to(tl.int32), mask=mask, other=0).to(tl.float32)
        tl.store(to + place, tl.floor(level + share * (full - level) + 0.5), mask=mask)


@triton.jit
def _warp(to, x, op, value, rows, cols, plane, whole: tl.constexpr, block: tl.constexpr):
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
            level = _levels(x + channel * plane, offset, inside, whole)
            tl.store(to + channel * plane + place, tl.where(inside, level, 0.0), mask=mask)


@triton.jit
def _sharpen(to, x, factor, rows, cols, plane, whole: tl.constexpr, block: tl.constexpr):
    """Blend one channel with its 3 x 3 smoothed form, whose border is the original's."""
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        mask = place < plane
        row, col = place // cols, place % cols
        within = mask & (row > 0) & (row < rows - 1) & (col > 0) & (col < cols - 1)
        level = _levels(x, place, mask, whole)
        total = 4.0 * level
        for down in range(-1, 2):
            for across in range(-1, 2):
                total += _levels(x, place + down * cols + across, within, whole)
        smooth = tl.floor(tl.div_rn(total, 13.0 + tl.zeros_like(total)) + 0.5)
        smooth = tl.where(within, smooth, level)
        tl.store(to + place, _blend(smooth, level, factor, True), mask=mask)


@triton.jit
def boost_kernel(
    to, views, counts, ops, active, magnitudes, signs, centres_x, centres_y, ranges,
    stride_op, stride_active, stride_magnitude, stride_sign, stride_x, stride_y,
    rows, cols,
    monotone: tl.constexpr, whole: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write one view with its op applied, or as it is where the op is not active."""
    view = tl.program_id(0)
    plane = rows * cols
    x = views + view.to(tl.int64) * 3 * plane
    to = to + view.to(tl.int64) * 3 * plane
    # Stored ops that are none must not read beyond the table.
    op = tl.minimum(tl.maximum(tl.load(ops + view * stride_op), 0), 14).to(tl.int32)
    sign = tl.load(signs + view * stride_sign).to(tl.float64)
    magnitude = tl.load(magnitudes + view * stride_magnitude)
    magnitude = tl.where(magnitude == magnitude, magnitude, 0.0).to(tl.float64)
    low, high = tl.load(ranges + 2 * op), tl.load(ranges + 2 * op + 1)
    value = magnitude / 30.0 * (high - low) + low
    if tl.load(active + view * stride_active) == 0:
        for start in range(0, 3 * plane, block):
            place = start + tl.arange(0, block)
            mask = place < 3 * plane
            tl.store(to + place, tl.load(x + place, mask=mask), mask=mask)
    elif op <= ROTATE:
        _warp(to, x, op, sign * value, rows, cols, plane, whole, block)
    elif (op == AUTO_CONTRAST) | (op == EQUALIZE):
        share = tl.where(monotone, value, 1.0).to(tl.float32)
        for channel in range(3):
            if op == EQUALIZE:
                bins = counts + (view.to(tl.int64) * 3 + channel) * 256
                _equalize(
                    to + channel * plane, x + channel * plane, bins, plane, share, whole, block
                )
            else:
                _stretch(to + channel * plane, x + channel * plane, plane, share, whole, block)
    elif op == SHARPNESS:
        factor = tl.where(monotone, 1.0 + sign * value, value).to(tl.float32)
        for channel in range(3):
            _sharpen(
                to + channel * plane, x + channel * plane, factor, rows, cols, plane, whole, block
            )
    elif (op >= CONTRAST) & (op <= BRIGHTNESS):
        factor = tl.where(monotone, 1.0 + sign * value, value).to(tl.float32)
        mean = 0.0
        if op == CONTRAST:
            mean = _level_mean(x, plane, whole, block)
        for start in range(0, plane, block):
            place = start + tl.arange(0, block)
            mask = place < plane
            red, green, blue = _levels_of(x, place, plane, mask, whole)
            base = tl.where(op == COLOR, _grey(red, green, blue, True), mean)
            red, green = _blend(base, red, factor, True), _blend(base, green, factor, True)
            _store(to, place, plane, mask, red, green, _blend(base, blue, factor, True))
    else:
        threshold = tl.ceil(value).to(tl.float32)
        if not monotone:
            threshold = tl.where(op == INVERT, 0.0, threshold)
        if monotone:
            step = tl.exp2(value).to(tl.float32)
        else:
            step = tl.exp2((8.0 - tl.floor(value)).to(tl.float32))
        side = value * cols
        left = tl.floor(tl.maximum(tl.load(centres_x + view * stride_x) * cols - side / 2, 0.0))
        top = tl.floor(tl.maximum(tl.load(centres_y + view * stride_y) * rows - side / 2, 0.0))
        # A square of no size is not painted at all.
        right = tl.where(value > 0.0, tl.minimum(left + side, cols * 1.0), -1.0)
        bottom = tl.minimum(top + side, rows * 1.0)
        for channel in range(3):
            colour = tl.where(channel == 0, 125.0, tl.where(channel == 1, 123.0, 114.0))
            for start in range(0, plane, block):
                place = start + tl.arange(0, block)
                mask = place < plane
                level = _levels(x + channel * plane, place, mask, whole)
                if op == POSTERIZE:
                    level = tl.ceil(tl.floor(tl.div_rn(level, step + tl.zeros_like(level))) * step)
                elif op == CUTOUT:
                    row, col = place // cols, place % cols
                    across = (col >= left) & (col <= right)
                    level = tl.where(across & (row >= top) & (row <= bottom), colour, level)
                else:
                    level = _inverted(level, threshold)
                tl.store(to + channel * plane + place, level, mask=mask)


@triton.jit
def _levels_of(x, place, plane, mask, whole: tl.constexpr):
    red = _levels(x, place, mask, whole)
    green = _levels(x + plane, place, mask, whole)
    return red, green, _levels(x + 2 * plane, place, mask, whole)


@triton.jit
def _level_mean(x, plane, whole: tl.constexpr, block: tl.constexpr):
    total = tl.zeros((block,), tl.int32)
    for start in range(0, plane, block):
        place = start + tl.arange(0, block)
        red, green, blue = _levels_of(x, place, plane, place < plane, whole)
        total += _grey(red, green, blue, True).to(tl.int32)
    mean = tl.sum(total, axis=0).to(tl.float64) / plane
    return tl.floor(mean + 0.5).to(tl.float32)


# --- what is handed out ---------------------------------------------------------------------------


@triton.jit
def finish_kernel(
    views, bad_pictures, magnitudes, stride_row, stride_op, numbers, count, k, plane,
    pictures_checked: tl.constexpr, scores_checked: tl.constexpr, normalised: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """Levels to [0, 1], then mean and standard deviation; views of bad values to NaN, in place."""
    view = tl.program_id(0)
    place = tl.program_id(1) * block + tl.arange(0, block)
    mask = place < 3 * plane
    bad = 0.0
    if pictures_checked:
        bad += tl.load(bad_pictures + view % count).to(tl.float32)
    if scores_checked:
        for j in range(k):
            magnitude = tl.load(magnitudes + view * stride_row + j * stride_op)
            bad += (magnitude != magnitude).to(tl.float32)
    x = views + view.to(tl.int64) * 3 * plane + place
    y = tl.load(x, mask=mask, other=0.0)
    y = tl.div_rn(y, 255.0 + tl.zeros_like(y))
    if normalised:
        channel = place // plane
        mean = tl.load(numbers + channel, mask=mask, other=0.0).to(tl.float32)
        std = tl.load(numbers + 3 + channel, mask=mask, other=1.0).to(tl.float32)
        y = tl.div_rn(y - mean, std)
    tl.store(x, tl.where(bad > 0.0, float("nan"), y), mask=mask)


# --- drawing --------------------------------------------------------------------------------------


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _hashed(state, key):
    """`bcl.random.hash64` with one key more, unsigned."""
    return _mix((state ^ key.to(tl.uint64, bitcast=True)) + 0x9E3779B97F4A7C15)


@triton.jit
def _uniform(state, stream):
    bits = _hashed(state, stream + tl.zeros_like(state).to(tl.int64)) >> 40
    return bits.to(tl.int64).to(tl.float32) * (1.0 / 16777216.0)


@triton.jit
def _rounded(x):
    """Round half to even."""
    y = tl.floor(x + 0.5)
    odd = y - 2.0 * tl.floor(y / 2.0)
    return tl.where((y - x == 0.5) & (odd != 0.0), y - 1.0, y)


@triton.jit(do_not_specialize=["start", "count", "total"])
def draw_kernel(
    boxes, factors, order, coins, ids, numbers,
    start, count, first_view, total, rows, cols,
    tries: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Draw the base chain's parameters: `bcl.augment.sampling.sample_chain`, a row a thread."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    mask = row < total
    view = (first_view + row // count).to(tl.int64)
    sample = tl.load(ids + row % count, mask=mask, other=0).to(tl.int64)
    state = start.to(tl.int64).to(tl.uint64, bitcast=True) + tl.zeros((block,), tl.uint64)
    state = _hashed(_hashed(state, sample), view)
    state = _hashed(tl.zeros((block,), tl.uint64), state.to(tl.int64, bitcast=True))

    low, span = tl.load(numbers), tl.load(numbers + 1)
    log_low, log_span = tl.load(numbers + 2), tl.load(numbers + 3)
    area = tl.load(numbers + 21)
    found = tl.zeros((block,), tl.int32)
    height = tl.load(numbers + 4) + tl.zeros((block,), tl.float64)
    width = tl.load(numbers + 5) + tl.zeros((block,), tl.float64)
    for attempt in range(tries):
        share = low + span * _uniform(state, attempt).to(tl.float64)
        ratio = tl.exp(log_low + log_span * _uniform(state, tries + attempt).to(tl.float64))
        wide = _rounded(tl.sqrt(share * area * ratio))
        high = _rounded(tl.sqrt(share * area / ratio))
        fits = (wide >= 1.0) & (wide <= cols) & (high >= 1.0) & (high <= rows)
        take = fits & (found == 0)
        height, width = tl.where(take, high, height), tl.where(take, wide, width)
        found = tl.where(fits, 1, found)
    down, right = rows - height, cols - width
    y, x = _uniform(state, 2 * tries).to(tl.float64), _uniform(state, 2 * tries + 1).to(tl.float64)
    # The largest box stands in the middle.
    top = tl.minimum(tl.floor(tl.where(found == 1, y, 0.5) * (down + 1.0)), down)
    left = tl.minimum(tl.floor(tl.where(found == 1, x, 0.5) * (right + 1.0)), right)
    tl.store(boxes + row, top.to(tl.int64), mask=mask)
    tl.store(boxes + total + row, left.to(tl.int64), mask=mask)
    tl.store(boxes + 2 * total + row, height.to(tl.int64), mask=mask)
    tl.store(boxes + 3 * total + row, width.to(tl.int64), mask=mask)
    tl.store(boxes + 4 * total + row, view, mask=mask)

    stream = 2 * tries + 2
    flip = _uniform(state, stream) < tl.load(numbers + 6).to(tl.float32)
    jittered = _uniform(state, stream + 1) < tl.load(numbers + 7).to(tl.float32)
    grey = _uniform(state, stream + 10) < tl.load(numbers + 8).to(tl.float32)
    blurred = _uniform(state, stream + 11) < tl.load(numbers + 9).to(tl.float32)
    solarized = _uniform(state, stream + 13) < tl.load(numbers + 10).to(tl.float32)
    for j in range(4):
        least, most = tl.load(numbers + 13 + j), tl.load(numbers + 17 + j)
        factor = least.to(tl.float32) + (most.to(tl.float32) - least.to(tl.float32)) * _uniform(
            state, stream + 2 + j
        )
        factor = tl.where(jittered, factor, tl.where(j == 3, 0.0, 1.0))
        tl.store(factors + j * total + row, factor, mask=mask)
        mine = _uniform(state, stream + 6 + j)
        rank = tl.zeros((block,), tl.int64)
        for i in range(4):
            other = _uniform(state, stream + 6 + i)
            rank += ((other < mine) | ((other == mine) & (i < j))).to(tl.int64)
        tl.store(order + 4 * row + rank, tl.zeros((block,), tl.int64) + j, mask=mask)
    sigma = tl.load(numbers + 11).to(tl.float32) + tl.load(numbers + 12).to(tl.float32) * _uniform(
        state, stream + 12
    )
    tl.store(factors + 4 * total + row, tl.where(blurred, sigma, 0.0), mask=mask)
    tl.store(coins + row, flip, mask=mask)
    tl.store(coins + total + row, grey, mask=mask)
    tl.store(coins + 2 * total + row, solarized, mask=mask)


@triton.jit(do_not_specialize=["start", "count", "total"])
def draw_ops_kernel(
    ops, active, numbers_out, ids, scores, numbers,
    start, count, first_view, total, k, zeta_stream, first_stream, op_count,
    zeta: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Draw the boosted ops: `BoostedRandAugment.draw`, a row a thread."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    mask = row < total
    view = (first_view + row // count).to(tl.int64)
    sample = tl.load(ids + row % count, mask=mask, other=0).to(tl.int64)
    score = tl.load(scores + row % count, mask=mask, other=0.0).to(tl.float32)
    score = tl.where((score >= 0.0) & (score <= 1.0), score, float("nan"))
    nothing = tl.zeros((block,), tl.uint64)
    shared = _hashed(start.to(tl.int64).to(tl.uint64, bitcast=True) + nothing, sample)
    share = score
    if zeta:
        share = share * _uniform(_hashed(nothing, shared.to(tl.int64, bitcast=True)), zeta_stream)
    magnitude = tl.load(numbers).to(tl.float32) + tl.load(numbers + 1).to(tl.float32) * share
    state = _hashed(nothing, _hashed(shared, view).to(tl.int64, bitcast=True))
    for j in range(k):
        stream = first_stream + 5 * j
        op = (_uniform(state, stream) * op_count).to(tl.int64)
        tl.store(ops + j * total + row, op, mask=mask)
        tl.store(active + j * total + row, _uniform(state, stream + 1) < score, mask=mask)
        sign = tl.where(_uniform(state, stream + 2) < 0.5, 1.0, -1.0)
        out = numbers_out + 4 * j * total + row
        tl.store(out, magnitude, mask=mask)
        tl.store(out + total, sign, mask=mask)
        tl.store(out + 2 * total, _uniform(state, stream + 3), mask=mask)
        tl.store(out + 3 * total, _uniform(state, stream + 4), mask=mask)
