"""Statistics along the rows of a matrix of all pairs that need not be held as a whole.

A loss over all pairs of B samples needs only sums along the rows of a (B, B) matrix. A cheap matrix
is kept for the backward pass. A larger one is computed a block of rows at a time, and again in the
backward pass: memory grows with B, time with B². The first derivative is written out for both.
Higher derivatives, ``torch.func``, ``torch.compile`` and ``chunk_size=0`` take the dense form in
plain PyTorch, which holds the whole matrix. A GPU takes the kernels of `bcl.losses.fused`, where
these know the pairs. Exponentials are to the base 2: many CPUs are faster.
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bcl.losses import fused
from bcl.losses.dense import (
    LOG2_E,
    Scale,
    Sums,
    dense_gram,
    dense_stats,
    differentiate_dense,
    half_squares,
    lowest,
    partner_products,
    scaled,
)
from bcl.losses.precision import full_precision, plain_only

KEPT_PAIRS = 2**18  # the largest matrix that a CPU keeps
BLOCK_PAIRS = 2**19  # a block of this size stays in the cache of a CPU
SMALLEST_BLOCK = 64  # rows; thinner matrix products lose more than the cache saves
LARGEST_SCALE = 50.0  # logits up to this size need no maximum subtracted before exp


def rows_per_block(rows: int, columns: int, device: torch.device, chunk_size: int | None) -> int:
    """Choose how a matrix of all pairs is computed without `bcl.losses.fused`.

    Args:
        rows: rows of the matrix.
        columns: its columns.
        device: where it is computed.
        chunk_size: the user's choice; None leaves it to the sizes.

    Returns:
        Rows per block; all of them to keep the matrix; 0 for the dense form.

    Example:
        >>> rows_per_block(4096, 4096, torch.device("cpu"), None)
        128
    """
    if plain_only():
        return 0
    if chunk_size is not None:
        return min(chunk_size, max(rows, 1))
    kept, block = KEPT_PAIRS, BLOCK_PAIRS
    if device.type != "cpu":  # a GPU keeps what fits: three such take a tenth of its memory
        kept = _memory(device) // 128
        block = kept // 8
    if rows * columns <= kept:
        return max(rows, 1)
    return min(rows, max(SMALLEST_BLOCK, block // columns))


@functools.cache
def _memory(device: torch.device) -> int:
    """Bytes of memory of a device, 8 GB where PyTorch cannot tell."""
    if device.type != "cuda":
        return 2**33
    return int(torch.cuda.get_device_properties(device).total_memory)


def gram_cross_entropy(
    z: Tensor, scale: Scale, chunk_size: int | None = None, log_mass: Tensor | None = None
) -> Tensor:
    r"""Cross-entropy of each row's partner among all other rows, for two views of B samples.

    .. math:: \ell_i = \log \sum_{j \ne i} \exp(s\, z_i \cdot z_j) - s\, z_i \cdot z_{i^+}

    The matrix is symmetric, so each pair is computed once and serves both of its rows.

    Args:
        z: (2B, D) unit rows; the partner of row i is i ± B.
        scale: s, at most `LARGEST_SCALE`; one number, or a function of the products (a symmetric
            matrix then stays symmetric), which counts as constant in the derivative.
        chunk_size: as in `rows_per_block`.
        log_mass: (2, B), the first term, where another computation has found it.

    Returns:
        (2, B).
    """
    n = z.shape[0]
    block = rows_per_block(n, n, z.device, chunk_size)
    if block == 0:
        return dense_gram(z, scale)
    if chunk_size is None and fused.takes(z, scale):
        return fused.gram_cross_entropy(z, scale, log_mass)
    if chunk_size is None and block < n:
        # The thinner the blocks, the less of the lower triangle is computed.
        block = min(block, max(128, -(-n // 8)))
    losses: Tensor = _GramCrossEntropy.apply(z, scale, block, log_mass)
    return losses


def _triangle(z: Tensor, scale: Scale, block: int) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Yield blocks (r, n - start) of the upper triangle of exp(scale z z'), a row's own pair 0.

    With them come the scales of the pairs, if these differ.
    """
    nothing = z.new_zeros(())
    for start in range(0, len(z), block):
        rows, scales = slice(start, min(start + block, len(z))), None
        if callable(scale):
            logits = z[rows] @ z[start:].T
            logits.diagonal().zero_()  # left out: a function need have no value there
            scales = scale(logits)
            logits.mul_(scales).mul_(LOG2_E)
        else:
            logits = torch.addmm(nothing, z[rows], z[start:].T, beta=0, alpha=scale * LOG2_E)
        powers = logits.exp2_()
        powers.diagonal().zero_()
        yield rows, powers, scales


class _GramCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: Scale, block: int, log_mass: Tensor | None) -> Tensor:
        powers = scales = None
        if log_mass is None:
            mass = z.new_zeros(len(z))
            for rows, powers, scales in _triangle(z, scale, block):  # noqa: B007
                mass[rows] += powers.sum(1)
                if rows.stop < len(z):
                    mass[rows.stop :] += powers[:, len(powers) :].sum(0)
            log_mass = mass.log().view(2, -1)
        else:
            mass = log_mass.exp().flatten()
        ctx.scale, ctx.block = scale, block
        kept = powers if block >= len(z) else None
        if kept is not None and scales is not None:
            kept.mul_(scales)
        ctx.save_for_backward(z, mass, kept)
        if callable(scale):
            return log_mass - scaled(partner_products(z), scale)
        return log_mass.sub(partner_products(z), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        z, mass, kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # for higher derivatives
            dense = functools.partial(dense_gram, scale=ctx.scale)
            return torch.func.vjp(dense, z)[1](grads[0])[0], None, None, None
        # The derivative by a product is that by its logit times its scale.
        grad = grads[0] if callable(ctx.scale) else grads[0] * ctx.scale  # (2, B)
        pull, half = grad.sum(0), len(z) // 2  # (B,), towards the partner
        if callable(ctx.scale):
            pull = pull * ctx.scale(partner_products(z))
        share = grad.flatten() / mass  # pair (i, j) counts in row i and, by symmetry, in row j
        with full_precision(z):
            if kept is not None:
                slopes = (share[:, None] + share).mul_(kept)
                slopes.diagonal(half).sub_(pull)
                slopes.diagonal(-half).sub_(pull)
                z_grad = slopes @ z
            else:
                z_grad = torch.zeros_like(z)
                for rows, powers, scales in _triangle(z, ctx.scale, ctx.block):
                    if scales is not None:
                        powers.mul_(scales)
                    powers.mul_(share[rows, None] + share[rows.start :])
                    z_grad[rows].addmm_(powers, z[rows.start :])
                    z_grad[rows.stop :].addmm_(powers[:, len(powers) :].T, z[rows])
                z_grad[:half].addcmul_(z[half:], pull[:, None], value=-1)
                z_grad[half:].addcmul_(z[:half], pull[:, None], value=-1)
        return z_grad, None, None, None


def row_stats(
    x: Tensor, y: Tensor, sums: Sums, chunk_size: int | None = None, bank: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Compute the log-sum-exp of each row, and the mean cost under its softmax.

    With :math:`d_{ij} = x_i \cdot y_j` and a cost h,

    .. math:: m_i = \log \sum_j e^{s d_{ij}}, \qquad r_i = \sum_j e^{s d_{ij} - m_i} h(d_{ij})

    Args:
        x: (n, D).
        y: (S, m, D), S segments of columns, each with sums of its own.
        sums: s, d, h, and what is left out.
        chunk_size: as in `rows_per_block`.
        bank: (Q, D) more columns, without gradient, that join the only segment.

    Returns:
        m and r, (n, S) each; r is 0 where it is not needed.
    """
    assert not (callable(sums.scale) and (sums.cost or sums.distance))
    columns = y.shape[0] * y.shape[1] + (0 if bank is None else len(bank))
    block = rows_per_block(len(x), columns, x.device, chunk_size)
    if block == 0:
        return dense_stats(x, y, bank, sums)
    if chunk_size is None and fused.takes(x, sums.scale):
        return fused.row_stats(x, y, sums, bank)
    if x.device.type != "cpu" or block >= len(x) or not torch.is_grad_enabled():
        sums = sums._replace(even=False)
    stats: tuple[Tensor, Tensor] = _RowStats.apply(x, y, bank, sums, block)
    return stats


class _Pairs:
    """Rows x against all M = S m + Q columns, a block of rows at a time, and the gradients.

    All blocks use the same memory: fresh pages cost a fifth of the time.
    """

    def __init__(self, x: Tensor, y: Tensor, columns: Tensor, sums: Sums, block: int) -> None:
        self.x, self.y, self.columns, self.sums = x, y.flatten(0, 1), columns, sums
        self.norms = half_squares(self.columns) if sums.distance else None  # (M,)
        self.shape = min(block, len(x)), len(y), len(self.columns) // len(y)
        self.memory: dict[str, Tensor] = {}

    def space(self, name: str, rows: int) -> Tensor:
        """(r, S, M / S), not initialized; the same for each block."""
        if name not in self.memory:
            self.memory[name] = self.x.new_empty(self.shape)
        return self.memory[name][:rows]

    def products(self, rows: slice) -> Tensor:
        """Products d of a block, (r, S, M / S)."""
        x = self.x[rows]
        products = self.space("products", len(x))
        flat = products.flatten(1)
        if self.norms is None:
            torch.mm(x, self.columns.T, out=flat)
        else:
            torch.add(half_squares(x)[:, None], self.norms, out=flat)
            flat.addmm_(x, self.columns.T, beta=-1)
        return products

    def own(self, block: Tensor, rows: slice) -> Tensor:
        """What the rows leave out of a block, to be written to."""
        skip = self.sums.skip
        return block[:0] if skip is None else block.diagonal(skip + rows.start, 0, -1)

    def weights(self, rows: slice, top: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of a block relative to the largest, costs h(d), and the largest logits.

        Weights and costs are (r, S, M / S). Of a scale that is a function there are no costs, but
        its values, for the gradient.
        """
        products, sums = self.products(rows), self.sums
        if callable(sums.scale):
            self.own(products, rows).zero_()
            costs = sums.scale(products)
            logits = products.mul_(costs).mul_(LOG2_E)
        elif sums.cost:
            logits = self.space("logits", len(products))
            torch.mul(products, sums.scale * LOG2_E, out=logits)
            costs = products if sums.rate is None else products.mul_(sums.rate * LOG2_E).exp2_()
        else:
            costs = logits = products.mul_(sums.scale * LOG2_E)
        self.own(logits, rows).fill_(lowest(self.x))
        top = logits.amax(-1, keepdim=True) if top is None else top  # (r, S, 1)
        return logits.sub_(top).exp2_(), costs, top

    def mean_cost(self, weights: Tensor, costs: Tensor, mass: Tensor) -> Tensor:
        """(r, S, 1)."""
        parts = torch.mul(weights, costs, out=self.space("slopes", len(mass)))
        return parts.sum(-1, keepdim=True).div_(mass)

    def start_gradient(self, y_wanted: bool) -> None:
        """Begin at 0."""
        self.x_grad = torch.empty_like(self.x)
        self.y_grad = torch.zeros_like(self.y) if y_wanted else None

    def add_gradient(
        self, rows: slice, weights: Tensor, costs: Tensor, stats: tuple[Tensor, ...]
    ) -> None:
        """Add a block; ``stats`` are mass, cost and the gradients of both, (r, S, 1) each."""
        x, slopes = self.x[rows], self._slopes(weights, costs, *stats).flatten(1)  # (r, M)
        of_y = slopes[:, : len(self.y)]  # not of the bank
        x_grad = torch.mm(slopes, self.columns, out=self.x_grad[rows])
        if self.norms is not None:
            x_grad.addcmul_(x, slopes.sum(1, keepdim=True), value=-1)
        if self.y_grad is not None:
            self.y_grad.addmm_(of_y.T, x)
            if self.norms is not None:
                self.y_grad.addcmul_(self.y, of_y.sum(0)[:, None], value=-1)

    def _slopes(
        self, weights: Tensor, costs: Tensor, mass: Tensor, cost: Tensor, *grads: Tensor
    ) -> Tensor:
        r"""Derivative by the products, (r, S, M / S).

        With the gradients m' and r' of both statistics, weights w that sum to one, and the cost h,
        it is

        .. math:: w\, \bigl(s m' + r' (s (h - r) + h'(d))\bigr)
            = w\, \bigl(s m' + r' (c - s r) + r' (k + s)\, h\bigr)

        with h'(d) = c + k h. In constant columns s is 0.
        """
        sums, out = self.sums, self.space("slopes", len(mass))
        mass_grad, cost_grad = (grad / mass for grad in grads)  # as the sum of weights is the mass
        if callable(sums.scale):
            return torch.mul(weights, costs, out=out).mul_(mass_grad)
        c, k = (1.0, 0.0) if sums.rate is None else (0.0, sums.rate)
        first = min(sums.constant, out.shape[-1])  # of the constant columns
        for part, s in ((slice(first), sums.scale), (slice(first, None), 0.0)):
            w, h, slopes = weights[..., part], costs[..., part], out[..., part]
            if not w.shape[-1]:  # no column is constant
                continue
            base = s * mass_grad
            if sums.cost:
                base = base.add_((c - s * cost).mul_(cost_grad))
                torch.mul(h, (k + s) * cost_grad, out=slopes).add_(base).mul_(w)
            else:
                torch.mul(w, base, out=slopes)
        return out


class _RowStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, bank: Tensor | None, sums: Sums, block: int
    ) -> tuple[Tensor, Tensor]:
        columns = y.flatten(0, 1)
        if bank is not None:  # a copy, since a queue may change before the backward pass
            columns = torch.cat([columns, bank])  # (M, D)
        pairs, parts = _Pairs(x, y, columns, sums, block), []
        if sums.even:
            pairs.start_gradient(y.requires_grad)
        for start in range(0, max(len(x), 1), block):
            rows = slice(start, start + block)
            weights, costs, top = pairs.weights(rows)
            mass = weights.sum(-1, keepdim=True)  # (r, S, 1)
            cost = pairs.mean_cost(weights, costs, mass) if sums.cost else torch.zeros_like(mass)
            parts.append((top, mass, cost))
            if sums.even:  # the gradient of the sum of all costs
                stats = mass, cost, torch.zeros_like(mass), torch.ones_like(mass)
                pairs.add_gradient(rows, weights, costs, stats)
        top, mass, cost = map(torch.cat, zip(*parts, strict=True))  # (n, S, 1)
        kept = (weights, costs) if len(parts) == 1 else (None, None)
        prepared = (pairs.x_grad, pairs.y_grad) if sums.even else (None, None)
        ctx.sums, ctx.block = sums, block
        ctx.save_for_backward(x, y, columns, top, mass, cost, *kept, *prepared)
        return (top + mass.log2()).squeeze(-1) / LOG2_E, cost.squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, columns, top, mass, cost, weights, costs, x_grad, y_grad = ctx.saved_tensors
        sums, y_wanted = ctx.sums, ctx.needs_input_grad[1]
        if torch.is_grad_enabled():  # for higher derivatives
            return *differentiate_dense(x, y, columns, sums, grads), None, None, None
        even = grads[1][:1, :1]
        if x_grad is not None and not grads[0].any() and (grads[1] == even).all():
            x_grad, y_grad = even * x_grad, even * y_grad if y_wanted else None
        else:
            pairs = _Pairs(x, y, columns, sums, ctx.block)
            pairs.start_gradient(y_wanted)
            stats = mass, cost, grads[0][..., None], grads[1][..., None]
            with full_precision(x):
                for start in range(0, len(x), ctx.block):
                    rows = slice(start, start + ctx.block)
                    if len(x) > ctx.block:
                        weights, costs, _ = pairs.weights(rows, top[rows])
                    pairs.add_gradient(rows, weights, costs, tuple(part[rows] for part in stats))
            x_grad, y_grad = pairs.x_grad, pairs.y_grad
        return x_grad, None if y_grad is None else y_grad.view_as(y), None, None, None
