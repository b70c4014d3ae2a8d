"""What the losses share: unit rows, the precision they compute in, and the size of a block.

A loss over all pairs of B samples needs a (B, B) matrix, but only sums along its rows. Large ones
are therefore worked on a block of rows at a time and recomputed in the backward pass: memory grows
with B, time with B². Small ones are quicker as plain PyTorch, which is called the dense form here.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

LOG2_E = math.log2(math.e)
LN_2 = math.log(2)

# Pairs up to which the dense form is quicker (measured with benchmarks/losses.py), and pairs of a
# block: on a CPU a block should stay in its cache, on a GPU it should fill the device.
DENSE_PAIRS = {"cpu": 2**16, "other": 2**22}
BLOCK_PAIRS = {"cpu": 2**19, "other": 2**25}
SMALLEST_BLOCK = 64  # rows; thinner matrix products lose more than caches give


def unit_rows(x: Tensor) -> Tensor:
    """Scale rows to length one, in float32 or better, for rows of any length.

    Squares of large or tiny rows would overflow or vanish, so the largest entry is divided out
    first. A zero row stays zero and its gradient stays bounded; a row that is not finite becomes
    NaN and is seen.

    Args:
        x: (..., D).

    Returns:
        (..., D), float32 for half precision, else of the dtype of ``x``.

    Example:
        >>> unit_rows(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    x = at_least_float32(x)
    largest = torch.linalg.vector_norm(x.detach(), math.inf, -1, keepdim=True)  # (..., 1)
    x = x / largest.masked_fill(largest == 0, 1)
    # The largest entry is now 1 except in a zero row, so a floor of 1/2 touches zero rows alone.
    return x * x.square().sum(-1, keepdim=True).clamp_min(0.5).rsqrt()


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> torch.autocast:
    """Context in which autocast lowers nothing on the device of ``x``."""
    return torch.autocast(x.device.type, enabled=False)


def rows_per_block(rows: int, columns: int, device: torch.device, chunk_size: int | None) -> int:
    """Choose the rows of a block; 0 stands for the dense form.

    Args:
        rows: rows of the matrix of all pairs.
        columns: its columns.
        device: where it would lie.
        chunk_size: what the user asked for; None leaves the choice to the sizes.

    Returns:
        Rows of a block, 0 for dense.

    Example:
        >>> rows_per_block(100, 100, torch.device("cpu"), None)
        0
        >>> rows_per_block(4096, 4096, torch.device("cpu"), None)
        128
    """
    if chunk_size is not None:
        return min(chunk_size, rows)
    kind = "cpu" if device.type == "cpu" else "other"
    if rows * columns <= DENSE_PAIRS[kind]:
        return 0
    return min(rows, max(SMALLEST_BLOCK, BLOCK_PAIRS[kind] // columns))


def row_blocks(rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds (start, stop) of blocks of ``size`` rows; the last may be smaller."""
    for start in range(0, rows, size):
        yield start, min(start + size, rows)


def lowest(dtype: torch.dtype) -> float:
    """A logit that has no weight; finite, since inf - inf would be NaN in a block of such."""
    return torch.finfo(dtype).min / 4


def fill_own(matrix: Tensor, skip: int | None, value: float, start: int = 0) -> None:
    """Write ``value`` in place where column = row + ``start`` + ``skip``: a sample with itself.

    Args:
        matrix: (r, m) or (r, S, m), the rows from ``start`` on.
        skip: column of row 0 in the whole matrix; None fills nothing.
        value: what to write.
        start: row of the whole matrix that the block's first row is.
    """
    if skip is not None:
        matrix.diagonal(skip + start, 0, -1).fill_(value)


def own_pairs(rows: int, columns: int, skip: int, device: torch.device) -> Tensor:
    """(rows, columns) bool: where `fill_own` would write."""
    row = torch.arange(rows, device=device)
    return torch.arange(columns, device=device) == row[:, None] + skip


_libraries: dict[str, Any] = {}  # an operator lives as long as its library


def operator(
    name: str, schema: str, shapes: Callable[..., Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of tensors as an operator, one node for torch.compile.

    What torch.library.custom_op does, without its import of the compiler at the first call, which
    takes seconds and 150 MB. The operator has no derivative of its own.

    Args:
        name: ``"space::name"``.
        schema: arguments and results in PyTorch's notation.
        shapes: empty results of the right shapes for the same arguments.

    Returns:
        A decorator; what it returns calls the operator.
    """
    space, short = name.split("::")
    if space not in _libraries:
        library: Any = torch.library.Library
        _libraries[space] = library(space, "FRAGMENT")

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _libraries[space].define(short + schema)
        _libraries[space].impl(short, function, "CompositeExplicitAutograd")
        torch.library.register_fake(name, shapes, lib=_libraries[space])
        overload = getattr(getattr(torch.ops, space), short).default

        @functools.wraps(function)
        def call(*inputs: Any) -> Any:
            return overload(*inputs)

        return call

    return register
