"""Crop, resize and flip as two matrix products with Pillow's antialiased bicubic weights."""

import torch
from torch import Tensor


def bicubic(x: Tensor) -> Tensor:
    r"""Keys' cubic kernel with a = -0.5, as Pillow's ``BICUBIC``.

    .. math:: k(x) = 1.5|x|^3 - 2.5x^2 + 1 \;(|x| < 1), \quad
        -0.5|x|^3 + 2.5x^2 - 4|x| + 2 \;(1 \le |x| < 2), \quad 0 \text{ else}

    Args:
        x: distances in source pixels, any shape.

    Returns:
        Weights of the shape of ``x``.

    Example:
        >>> bicubic(torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
        tensor([ 1.0000,  0.5625,  0.0000, -0.0625,  0.0000])
    """
    x = x.abs().clamp(max=2)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, far)


def resize_weights(
    start: Tensor, length: Tensor, in_size: int, out_size: int, flip: Tensor | None = None
) -> Tensor:
    r"""Matrices that crop ``[start, start + length)`` out of a line and resize it.

    .. math:: w_{oi} \propto k\Bigl(\frac{i + 0.5 - (o + 0.5) s}{\max(s, 1)}\Bigr),
        \qquad s = \mathrm{length} / \mathrm{out\_size}

    with i counted from the start of the crop and each row summing to one: pixels outside the
    crop have no part, as when Pillow resizes a picture that was cropped before.

    Args:
        start: (R,) int64 first pixel.
        length: (R,) int64 pixels of the crop.
        in_size: pixels of the line.
        out_size: pixels after resizing.
        flip: (R,) bool, mirror the result.

    Returns:
        (R, out_size, in_size) float32.

    Example:
        >>> resize_weights(torch.tensor([1]), torch.tensor([2]), 4, 2)
        tensor([[[0., 1., 0., 0.],
                 [0., 0., 1., 0.]]])
    """
    device = start.device
    where = torch.arange(in_size, device=device) - start[:, None]  # (R, in) place in the crop
    scale = length.to(torch.float32)[:, None] / out_size  # (R, 1)
    out = torch.arange(out_size, device=device).expand(start.shape[0], out_size)  # (R, out)
    if flip is not None:
        out = torch.where(flip[:, None], out_size - 1 - out, out)
    centre = (out + 0.5) * scale  # (R, out)
    distance = (where[:, None, :] + 0.5) - centre[:, :, None]  # (R, out, in)
    weight = bicubic(distance / scale.clamp(min=1)[:, :, None])
    inside = (where >= 0) & (where < length[:, None])  # (R, in)
    weight = weight * inside[:, None, :]
    return weight / weight.sum(dim=2, keepdim=True)


def round_levels(x: Tensor) -> Tensor:
    """Round to whole levels 0 .. 255, halves up, in place."""
    return x.add_(0.5).floor_().clamp_(0, 255)


def crop_resize_flip(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    height: Tensor,
    width: Tensor,
    flip: Tensor,
    size: tuple[int, int],
    exact: bool,
) -> Tensor:
    """Cut one box out of each picture, resize it, and mirror some.

    Args:
        images: (R, C, H, W) float32 levels 0 .. 255.
        top: (R,) int64, with ``left``, ``height`` and ``width`` the boxes.
        left: (R,) int64.
        height: (R,) int64.
        width: (R,) int64.
        flip: (R,) bool.
        size: rows and columns of the result.
        exact: round to whole levels after each direction, as Pillow does.

    Returns:
        (R, C, *size) float32 levels within [0, 255].
    """
    rows, cols = images.shape[2:]
    across = resize_weights(left, width, cols, size[1], flip)  # (R, S_w, W)
    down = resize_weights(top, height, rows, size[0])  # (R, S_h, H)
    x = images @ across.transpose(1, 2)[:, None]  # (R, C, H, S_w)
    if exact:
        x = round_levels(x)
    x = down[:, None] @ x  # (R, C, S_h, S_w)
    return round_levels(x) if exact else x.clamp_(0, 255)
