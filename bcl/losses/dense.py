"""Statistics along the rows of a matrix of all pairs, in plain PyTorch: the form that defines them.

It holds the whole matrix, and has derivatives of any order.
"""

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

LOG2_E = math.log2(math.e)

# Of products: a number, or a function that gives each product its own, which has no gradient.
Scale = float | Callable[[Tensor], Tensor]


class Sums(NamedTuple):
    r"""What `row_stats` sums along the rows.

    Attributes:
        scale: s; the logit of a product d is s d. A function of d, whose derivative is left out,
            gives each product its own, and sees 0 for what is left out; only without distance, cost
            and constant columns. A tensor (n, 1, 1) has one for each row; in the dense form alone.
        skip: row i leaves out column i + ``skip`` of each segment, its own sample; None for none.
        distance: whether d is :math:`-\tfrac12 \lVert x - y \rVert^2`, not the dot product.
        cost: whether the mean cost is needed.
        rate: the cost of a product is :math:`\exp(\text{rate}\, d)`; None for d itself.
        constant: columns from this one on have weights without gradient.
        even: whether all costs will most likely weigh the same in the loss; a CPU then prepares
            their gradient along with them, which saves the second computation.
    """

    scale: Any = 1.0  # Scale or a tensor
    skip: int | None = None
    distance: bool = False
    cost: bool = False
    rate: float | None = None
    constant: int = sys.maxsize
    even: bool = False


def dense_gram(z: Tensor, scale: Scale) -> Tensor:
    """As `bcl.losses.blocks.gram_cross_entropy`."""
    mass, _ = dense_stats(z, z[None], None, Sums(scale, skip=0))
    return mass.view(2, -1) - scaled(partner_products(z), scale)


def scaled(products: Tensor, scale: Scale, own: Tensor | None = None) -> Tensor:
    """Logits of products; those that a row leaves out, its ``own``, are 0 to a function."""
    if not callable(scale):
        return products * scale
    seen = products.detach()
    return products * scale(seen if own is None else seen.masked_fill(own, 0))


def partner_products(z: Tensor) -> Tensor:
    """Products of the two views (2B, D) of each sample, (B,)."""
    half = z.shape[0] // 2
    products: Tensor = torch.linalg.vecdot(z[:half], z[half:])  # (B,)
    return products


def dense_stats(x: Tensor, y: Tensor, bank: Tensor | None, sums: Sums) -> tuple[Tensor, Tensor]:
    """As `bcl.losses.blocks.row_stats`."""
    columns = y if bank is None else torch.cat([y, bank[None]], 1)  # (S, M, D), M = m + Q
    products = (x @ columns.flatten(0, 1).T).view(len(x), len(y), -1)  # (n, S, M)
    if sums.distance:
        products = products - half_squares(x)[:, None, None] - half_squares(columns)
    own = None
    if sums.skip is not None:
        row, column = (torch.arange(size, device=x.device) for size in products.shape[::2])
        own = (row[:, None] + sums.skip == column)[:, None]  # (n, 1, M)
    logits = scaled(products, sums.scale, own)
    if sums.constant < columns.shape[1]:
        near, far = logits[..., : sums.constant], logits[..., sums.constant :]
        logits = torch.cat([near, far.detach()], -1)
    if own is not None:
        logits = logits.masked_fill(own, lowest(x))
    mass = logits.logsumexp(-1)  # (n, S)
    if not sums.cost:
        return mass, torch.zeros_like(mass)
    costs = products if sums.rate is None else (sums.rate * products).exp()
    return mass, (logits.softmax(-1) * costs).sum(-1)


def differentiate_dense(
    x: Tensor, y: Tensor, columns: Tensor, sums: Sums, grads: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Pull the gradients of both statistics back to x and y; columns beyond y are the bank."""
    bank = columns[y.shape[0] * y.shape[1] :] if len(y) == 1 else None
    both: tuple[Tensor, ...] = torch.func.vjp(lambda a, b: dense_stats(a, b, bank, sums), x, y)[1](
        grads
    )
    return both


def half_squares(x: Tensor) -> Tensor:
    """Half the squared length of each row."""
    return x.square().sum(-1) / 2


def lowest(x: Tensor) -> float:
    """Return a logit without weight; finite, since inf - inf would be NaN in a row of such."""
    return torch.finfo(x.dtype).min / 4
