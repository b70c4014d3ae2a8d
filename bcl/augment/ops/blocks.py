"""Change some rows of a batch."""

import functools
import math
import mmap
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# Levels that are worked on at a time on a CPU: enough for the cost of calling an operator to be
# small, few enough for its operands to stay in the caches (1.6 MB of float32).
_BLOCK_LEVELS = 128 * 3 * 32 * 32
# Just under the size (32 MiB) up to which glibc learns from what is freed.
_LARGEST_KEPT = 31 << 20
# Blocks of so few rows hold large images, for which other things cost most.
FEW_ROWS = 4
# Beyond so many levels (64 MB of float32) a device works on a quarter of the batch at a time.
_SMALL_BATCH_LEVELS = 1 << 24
# From this size on, memory is asked for in huge pages.
_HUGE_BYTES = 4 << 20


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library reuse the blocks' memory rather than hand it back at every step.

    glibc gives freed memory back to the kernel once it exceeds twice the largest block that was
    freed so far; touching it anew then costs a fault a page, which for a block's temporary copies
    is as much as the arithmetic. Freeing one large block, never touched, raises that limit for
    the process; elsewhere this does nothing.
    """
    large = torch.empty(_LARGEST_KEPT, dtype=torch.uint8, device="cpu")
    del large


def empty_rows(rows: int, size: tuple[int, int]) -> Tensor:
    """(R, 3, *size) float32 on the CPU, not initialized.

    A large tensor is new memory at every step, whose first touch costs the kernel a fault a page
    - more than the arithmetic of a view at 224 px; huge pages make it one fault in 512.
    """
    count = rows * 3 * size[0] * size[1]
    if 4 * count < _HUGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(rows, 3, *size, device="cpu", dtype=torch.float32)
    memory = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(rows, 3, *size)


def waits_for_nothing(x: Tensor) -> bool:
    """Whether the host must not ask for values: on a device, and under ``torch.compile``."""
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Keep float32 inside a mixed-precision step: 16-bit floats do not hold the levels."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def block_rows(levels: int) -> int:
    """Rows of so many levels each that make up a block."""
    return max(1, _BLOCK_LEVELS // levels)


def least_parts(levels: int, source_levels: int) -> int:
    """Least number of blocks with which all stays under four times the output.

    A block's temporary copies take up to six times its own size. Where the images are larger
    than the views, resizing takes more: the image in float, its halfway form and the weights.
    """
    share = source_levels / levels
    return max(2, math.ceil((2 * share + math.sqrt(share) + 3) / 3))


def device_blocks(rows: int, levels: int, source_levels: int) -> list[slice]:
    """Blocks of rows on a device: few, and one when compiled, which makes hardly any copies.

    Args:
        rows: of all views.
        levels: of a view.
        source_levels: of an image.

    Returns:
        Slices of the rows.
    """
    parts = max(least_parts(levels, source_levels), 4 if rows * levels > _SMALL_BATCH_LEVELS else 0)
    block = rows if torch.compiler.is_compiling() else -(-rows // parts)
    return [slice(first, min(first + block, rows)) for first in range(0, rows, block)]


def change_rows(x: Tensor, mask: Tensor, change: Callable[..., Tensor], *params: Tensor) -> Tensor:
    """Replace the rows of ``x`` under ``mask`` by ``change(rows, *params of these rows)``.

    On a CPU only those rows are computed, and ``x`` is changed in place. Elsewhere, and under
    ``torch.compile``, all rows are and the mask selects: which rows there are is then never asked
    by the host, so that nothing waits for the device.

    Args:
        x: (R, C, H, W).
        mask: (R,) bool.
        change: function of rows that keeps their shape.
        params: (R, ...) tensors handed on by row.

    Returns:
        (R, C, H, W).
    """
    if waits_for_nothing(x):
        return torch.where(mask[:, None, None, None], change(x, *params), x)
    rows = mask.nonzero().squeeze(1)
    block = block_rows(x[0].numel())
    block = 1 if block <= FEW_ROWS else block
    for part in torch.split(rows, block) if rows.numel() else ():
        taken = (param.index_select(0, part) for param in params)
        if block == 1:  # a large image is not copied first
            row = x[int(part) : int(part) + 1]
            row.copy_(change(row, *taken))
        else:
            x.index_copy_(0, part, change(x.index_select(0, part), *taken))
    return x
