"""Triton kernels of the losses over all pairs: a block of rows stays, the columns stream past it.

Row r of x (n, D) meets column c of each segment of y (S W, D), and d is their product. A logit is
s d. No matrix of pairs is stored, and no program adds to what another one wrote: results repeat to
the bit. `bcl.losses.fused` launches the kernels.
"""

import triton
import triton.language as tl

from bcl.losses.dense import LOG2_E as _LOG2_E

LOG2_E = tl.constexpr(_LOG2_E)
LOWEST = tl.constexpr(-(2.0**125))  # a logit without weight; finite, since inf - inf is NaN


@triton.jit
def _rows(x, row, there, k, dim):
    """Entries k of some rows, (R, K); 0 beyond the tensor."""
    place = row.to(tl.int64)[:, None] * dim + k[None, :]
    return tl.load(x + place, mask=there[:, None] & (k < dim)[None, :], other=0.0)


@triton.jit
def _products(
    a, b, half_a, half_b, i, j, has_i, has_j, dim,
    distance: tl.constexpr, width: tl.constexpr, step: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Compute d = a · b, or -|a - b|² / 2, of rows i of a and rows j of b, (I, J)."""
    d = tl.zeros((i.shape[0], j.shape[0]), tl.float32)
    for start in range(0, width, step):
        k = start + tl.arange(0, step)
        right = tl.trans(_rows(b, j, has_j, k, dim))
        d = tl.dot(_rows(a, i, has_i, k, dim), right, d, input_precision=precision)
    if distance:
        d -= tl.load(half_a + i, mask=has_i, other=0.0)[:, None]
        d -= tl.load(half_b + j, mask=has_j, other=0.0)[None, :]
    return d


@triton.jit
def _scale(d, scale, low, high, offset, turn, function: tl.constexpr):
    """Compute s: a number, or 1 / τ(d) with τ as in `bcl.SimilarityTemperature`."""
    s = scale
    if function != "none":
        temperature = tl.cos((d - offset) * turn) * ((high - low) / 2) + (high + low) / 2
        if function == "plateau":
            temperature = tl.where(d < offset, temperature, high)
        s = 1.0 / temperature
    return s


@triton.jit
def _cost(d, rate, cost: tl.constexpr):
    """Compute h(d) and its derivative."""
    h, rise = d, 1.0
    if cost == "exponential":
        h = tl.exp2(d * rate * LOG2_E)
        rise = rate * h
    return h, rise


@triton.jit
def _is_partner(r, c, rows):
    """Whether column c is the other view of row r, of two views of rows / 2 samples."""
    return c == tl.where(r < rows // 2, r + rows // 2, r - rows // 2)


@triton.jit
def stats_kernel(
    stats, x, y, half_x, half_y, rows, columns, dim,
    scale, low, high, offset, turn, rate, skip,
    function: tl.constexpr, cost: tl.constexpr, distance: tl.constexpr, precision: tl.constexpr,
    width: tl.constexpr, step: tl.constexpr, block: tl.constexpr, stream: tl.constexpr,
):  # fmt: skip
    """Write (3, S, n): the largest logit, the mass beside it, and the mean cost.

    The mass is Σ exp(logit - largest). With the cost "partner" the third is that pair's logit.
    Logits are to the base 2.
    """
    segment = tl.program_id(1)
    r = tl.program_id(0) * block + tl.arange(0, block)
    has_r = r < rows
    top = tl.full((block,), -float("inf"), tl.float32)
    mass, total = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    for start in range(0, columns, stream):
        c = start + tl.arange(0, stream)
        has_c = c < columns
        d = _products(
            x, y, half_x, half_y, r, segment * columns + c, has_r, has_c, dim,
            distance, width, step, precision,
        )  # fmt: skip
        logits = _scale(d, scale, low, high, offset, turn, function) * d * LOG2_E
        logits = tl.where(c[None, :] - r[:, None] == skip, LOWEST, logits)
        logits = tl.where(has_c[None, :], logits, -float("inf"))
        largest = tl.maximum(top, tl.max(logits, axis=1))
        shrink = tl.exp2(top - largest)
        weights = tl.exp2(logits - largest[:, None])
        mass = mass * shrink + tl.sum(weights, axis=1)
        if cost == "partner":
            partner = _is_partner(r[:, None], c[None, :], rows)
            total += tl.sum(tl.where(partner, logits, 0.0), axis=1)
        elif cost != "none":
            h, _ = _cost(d, rate, cost)
            total = total * shrink + tl.sum(weights * h, axis=1)
        top = largest
    if (cost == "linear") | (cost == "exponential"):
        total /= mass
    place, size = segment * rows + r, tl.num_programs(1) * rows
    tl.store(stats + place, top, mask=has_r)
    tl.store(stats + size + place, mass, mask=has_r)
    tl.store(stats + 2 * size + place, total, mask=has_r)


@triton.jit
def _slopes(
    d, stats, size, r, c, has_r, rows, segment,
    scale, low, high, offset, turn, rate, skip, constant,
    function: tl.constexpr, cost: tl.constexpr, across: tl.constexpr,
):  # fmt: skip
    """Derivative by d of what rows r sum over columns c, which d has along dimension ``across``.

    ``stats`` (4, S, n) are the log of a row's mass and its gradient, to which a cost adds its mean
    and its gradient.
    """
    place = stats + segment * rows + r
    log_mass = tl.expand_dims(tl.load(place, mask=has_r, other=0.0), across)
    mass_grad = tl.expand_dims(tl.load(place + size, mask=has_r, other=0.0), across)
    r, c = tl.expand_dims(r, across), tl.expand_dims(c, 1 - across)
    s = _scale(d, scale, low, high, offset, turn, function)
    weights = tl.exp2(tl.where(c - r == skip, LOWEST, s * d * LOG2_E) - log_mass)
    s = tl.where(c < constant, s, 0.0)  # constant weights
    if cost == "partner":  # cross-entropy
        slopes = (weights - tl.where(_is_partner(r, c, rows), 1.0, 0.0)) * s * mass_grad
    elif cost == "none":
        slopes = weights * s * mass_grad
    else:
        mean = tl.expand_dims(tl.load(place + 2 * size, mask=has_r, other=0.0), across)
        cost_grad = tl.expand_dims(tl.load(place + 3 * size, mask=has_r, other=0.0), across)
        h, rise = _cost(d, rate, cost)
        slopes = weights * (s * mass_grad + (s * (h - mean) + rise) * cost_grad)
    return slopes


@triton.jit
def gradient_kernel(
    grad, a, b, half_a, half_b, stats, rows, columns, segments, dim, constant,
    scale, low, high, offset, turn, rate, skip,
    of_rows: tl.constexpr, of_columns: tl.constexpr,
    function: tl.constexpr, cost: tl.constexpr, distance: tl.constexpr, precision: tl.constexpr,
    width: tl.constexpr, step: tl.constexpr, part: tl.constexpr,
    block: tl.constexpr, stream: tl.constexpr,
):  # fmt: skip
    """Write the gradient of each a: Σ slope(a, b) b over all b; of distances, slope (b - a).

    The a are the rows and the b the columns, or the other way round; or both are the same tensor,
    and pair (a, b) counts in row a and in row b. A program finds ``part`` entries of its block.
    """
    first, size = tl.program_id(1), segments * rows
    count_a, count_b, base_a, times = columns, rows, first * columns, 1
    if of_rows:
        count_a, count_b, base_a, times = rows, columns, 0, segments
    i = tl.program_id(0) * block + tl.arange(0, block)
    k = tl.program_id(2) * part + tl.arange(0, part)
    has_i = i < count_a
    total, pull = tl.zeros((block, part), tl.float32), tl.zeros((block,), tl.float32)
    for segment in range(first, first + times):
        base_b = segment * columns if of_rows else 0
        for start in range(0, count_b, stream):
            j = start + tl.arange(0, stream)
            has_j = j < count_b
            d = _products(
                a, b, half_a, half_b, base_a + i, base_b + j, has_i, has_j, dim,
                distance, width, step, precision,
            )  # fmt: skip
            slopes = tl.zeros((block, stream), tl.float32)
            if of_rows:
                slopes += _slopes(
                    d, stats, size, i, j, has_i, rows, segment,
                    scale, low, high, offset, turn, rate, skip, constant, function, cost, 1,
                )  # fmt: skip
            if of_columns:
                slopes += _slopes(
                    d, stats, size, j, i, has_j, rows, segment,
                    scale, low, high, offset, turn, rate, skip, constant, function, cost, 0,
                )  # fmt: skip
            slopes = tl.where(has_j[None, :], slopes, 0.0)
            right = _rows(b, base_b + j, has_j, k, dim)
            total = tl.dot(slopes, right, total, input_precision=precision)
            if distance:
                pull += tl.sum(slopes, axis=1)
    if distance:
        total -= pull[:, None] * _rows(a, base_a + i, has_i, k, dim)
    place = (base_a + i).to(tl.int64)[:, None] * dim + k[None, :]
    tl.store(grad + place, total, mask=has_i[:, None] & (k < dim)[None, :])
