"""Triton kernels that draw the parameters of views as `bcl.augment.sampling`, a view per thread."""

import triton
import triton.language as tl


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _hashed(state, key):
    """`bcl.core.random.hash64` with one more key, unsigned."""
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


@triton.jit
def _rows_of(ids, first_view, count, total, block: tl.constexpr):
    """Rows of this program, which of them exist, and their views and samples."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    mask = row < total
    view = (first_view + row // count).to(tl.int64)
    sample = tl.load(ids + row % count, mask=mask, other=0).to(tl.int64)
    return row, mask, view, sample


@triton.jit(do_not_specialize=["start", "count", "total"])
def draw_chain_kernel(
    boxes, factors, order, coins, ids, numbers,
    start, count, first_view, total, rows, cols,
    tries: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Draw the base chain's parameters: `bcl.augment.sampling.draw_chain`, a row per thread."""
    row, mask, view, sample = _rows_of(ids, first_view, count, total, block)
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
    gray = _uniform(state, stream + 10) < tl.load(numbers + 8).to(tl.float32)
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
    tl.store(coins + total + row, gray, mask=mask)
    tl.store(coins + 2 * total + row, solarized, mask=mask)


@triton.jit(do_not_specialize=["start", "count", "total"])
def draw_ops_kernel(
    ops, active, numbers_out, ids, scores, numbers,
    start, count, first_view, total, k, zeta_stream, first_stream, op_count,
    zeta: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Draw the boosted ops: `bcl.augment.sampling.draw_ops`, a row per thread."""
    row, mask, view, sample = _rows_of(ids, first_view, count, total, block)
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
