"""Work on a large batch in blocks that stay in the cache."""

import functools
import mmap
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Levels per block: enough that calling an operator costs little, few enough that its operands
# stay in the cache (1.6 MB of float32).
_BLOCK_LEVELS = 128 * 3 * 32 * 32
# Up to so many rows per block, single rows are changed in place, without a copy.
FEW_ROWS = 4
# Just under the size (32 MiB) up to which glibc adapts to what is freed.
_LARGEST_KEPT = 31 << 20
# From this size on, memory is asked for in huge pages.
_HUGE_BYTES = 4 << 20


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library reuse freed memory.

    glibc returns freed memory to the kernel once it exceeds twice the largest block freed so far,
    and touching it again costs a page fault per page: for temporary tensors as much as the
    arithmetic. Freeing one large block raises that limit for the process.
    """
    large = torch.empty(_LARGEST_KEPT, dtype=torch.uint8, device="cpu")
    del large


def empty_levels(rows: int, size: tuple[int, int]) -> Tensor:
    """(R, 3, *size) float32, not initialized.

    The first touch of a large tensor costs a page fault per page, which at 224 px is more than the
    arithmetic of a view; huge pages make it one fault in 512.
    """
    count = rows * 3 * size[0] * size[1]
    if 4 * count < _HUGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(rows, 3, *size, device="cpu", dtype=torch.float32)
    memory = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(rows, 3, *size)


def block_rows(x: Tensor) -> int:
    """Rows of ``x`` (R, C, H, W) per block."""
    return max(1, _BLOCK_LEVELS // x[0].numel())


def runs(key: Tensor, longest: int) -> Iterator[slice]:
    """Slices of equal values of ``key`` (R,), none longer than ``longest``."""
    values = key.tolist()
    start = 0
    for stop in range(1, len(values) + 1):
        if stop == len(values) or stop - start == longest or values[stop] != values[start]:
            yield slice(start, stop)
            start = stop


def put_rows(x: Tensor, rows: Tensor, values: Tensor) -> None:
    """Set the ``rows`` (r,) of ``x`` (R, C, H, W) to ``values`` (r, C, H, W)."""
    if block_rows(x) <= FEW_ROWS:  # where index_copy_ takes twice as long
        for row, value in zip(rows.tolist(), values, strict=True):
            x[row].copy_(value)
    else:
        x.index_copy_(0, rows, values)


def change_rows(x: Tensor, mask: Tensor, change: Callable[..., Tensor], *params: Tensor) -> None:
    """Replace the rows of ``x`` (R, C, H, W) under ``mask`` (R,) by ``change(rows, *params)``."""
    rows = mask.nonzero().squeeze(1)
    step = block_rows(x)
    if step <= FEW_ROWS:
        for row in rows.tolist():
            one = x[row : row + 1]
            one.copy_(change(one, *(param[row : row + 1] for param in params)))
        return
    for part in torch.split(rows, step) if len(rows) else ():
        taken = (param.index_select(0, part) for param in params)
        x.index_copy_(0, part, change(x.index_select(0, part), *taken))
