"""What the kernels share: planes of float32 levels, one behind the other: (R, 3, rows, columns)."""

import triton
import triton.language as tl


@triton.jit
def cut_levels(x):
    """Cut to 0 .. 255."""
    return tl.minimum(tl.maximum(x, 0.0), 255.0)


@triton.jit
def whole_levels(x):
    """Round to whole levels."""
    return tl.floor(cut_levels(x) + 0.5)


@triton.jit
def load_rgb(x, offset, plane, mask):
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
