"""Views on a GPU by a few kernels of our own, where Triton is there."""

import functools
import math

import torch
from torch import Tensor

from bcl.augment.params import BoostParams, ViewParams
from bcl.augment.policy import OPS, RANGES
from bcl.augment.sampling import TRIES, ChainSettings, largest_box
from bcl.core.random import hash64_of

# Levels of a channel that a program works on at a time, and its threads (32 a warp).
_SMALL, _LARGE = (1024, 4), (2048, 8)
# Views that a program draws.
_DRAWS = 128
# More taps than these both ways are cheaper one direction after the other (`bcl.augment.ops.crop`).
_MOST_TAPS = 144


def row_and_column_taps(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Source rows and columns that one pixel of a view is made of, at most."""
    rows, cols = (math.ceil(4 * max(a / b, 1)) for a, b in zip(image_size, size, strict=True))
    return rows, cols


def chain_fits(images: Tensor, size: tuple[int, int]) -> bool:
    """Whether the crop is worth doing in one go."""
    rows, cols = row_and_column_taps((images.shape[2], images.shape[3]), size)
    return rows * cols <= _MOST_TAPS


def _shape(size: tuple[int, int]) -> tuple[int, int]:
    return _SMALL if size[0] * size[1] <= 4 * _SMALL[0] else _LARGE


# --- drawing --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu").to(device)


@functools.lru_cache(maxsize=64)
def _chain_numbers(
    settings: ChainSettings, image_size: tuple[int, int], device: torch.device
) -> Tensor:
    """What `draw_kernel` is told; differences are formed in the precision of `sample_chain`."""
    (low, high), (log_low, log_high) = settings.scale, map(math.log, settings.ratio)
    reach = torch.tensor(settings.jitter, dtype=torch.float32, device="cpu").tolist()
    least = [max(1 - r, 0.0) for r in reach[:3]] + [-reach[3]]
    most = [1 + r for r in reach[:3]] + [reach[3]]
    factors = torch.tensor(least + most, dtype=torch.float32, device="cpu")
    least_sigma, most_sigma = settings.blur_sigma
    values = (
        low, high - low, log_low, log_high - log_low, *largest_box(*image_size, settings.ratio),
        settings.flip, settings.jitter_probability, settings.grayscale_probability,
        settings.blur_probability, settings.solarize_probability,
        least_sigma, most_sigma - least_sigma, *factors.tolist(), image_size[0] * image_size[1],
    )  # fmt: skip
    return _on_device(values, device)


def fused_draw(
    settings: ChainSettings,
    ids: Tensor,
    image_size: tuple[int, int],
    seed: int,
    epoch: int,
    views: range,
) -> ViewParams:
    """Draw what `sample_chain` draws for these views of a batch, by one kernel.

    Args:
        settings: ranges and probabilities.
        ids: (B,) integer sample ids.
        image_size: rows and columns of the images.
        seed: of the run.
        epoch: number of the epoch.
        views: numbers of the views.

    Returns:
        Parameters of len(views) * B rows, view-major, without boosted ops.
    """
    from bcl.augment.kernels import draws

    total, device = len(views) * ids.shape[0], ids.device
    boxes = torch.empty(5, total, dtype=torch.int64, device=device)
    factors = torch.empty(5, total, dtype=torch.float32, device=device)
    order = torch.empty(total, 4, dtype=torch.int64, device=device)
    coins = torch.empty(3, total, dtype=torch.bool, device=device)
    with torch.cuda.device(ids.device):
        draws.draw_kernel[(-(-total // _DRAWS),)](
            boxes, factors, order, coins, ids.contiguous(),
            _chain_numbers(settings, image_size, device),
            hash64_of(seed, epoch), ids.shape[0], views.start, total, *image_size,
            tries=TRIES, block=_DRAWS, enable_fp_fusion=False,
        )  # fmt: skip
    top, left, height, width, view = boxes
    flip, gray, solarize = coins
    brightness, contrast, saturation, hue, blur = factors
    return ViewParams(
        top, left, height, width, flip, brightness, contrast, saturation, hue, order, gray, blur,
        solarize, view=view,
    )  # fmt: skip


def fused_draw_ops(
    scores: Tensor,
    ids: Tensor,
    seed: int,
    epoch: int,
    views: range,
    *,
    num_ops: int,
    magnitudes: tuple[float, float],
    zeta_stream: int | None,
    first_stream: int,
) -> BoostParams:
    """Draw what `BoostedRandAugment.draw` draws, by one kernel.

    Args:
        scores: (B,) in [0, 1]; others are taken for NaN.
        ids: (B,) integers.
        seed: of the run.
        epoch: number of the epoch.
        views: numbers of the views.
        num_ops: k.
        magnitudes: at score 0 and 1.
        zeta_stream: stream of zeta, or None where nothing is multiplied by it.
        first_stream: of the ops.

    Returns:
        Parameters of len(views) * B rows, view-major.
    """
    from bcl.augment.kernels import draws

    total, device = len(views) * ids.shape[0], ids.device
    ops = torch.empty(num_ops, total, dtype=torch.int64, device=device)
    active = torch.empty(num_ops, total, dtype=torch.bool, device=device)
    numbers = torch.empty(num_ops, 4, total, dtype=torch.float32, device=device)
    low, high = magnitudes
    with torch.cuda.device(ids.device):
        draws.draw_ops_kernel[(-(-total // _DRAWS),)](
            ops, active, numbers, ids.contiguous(), scores.contiguous(),
            _on_device((low, high - low), device),
            hash64_of(seed, epoch), ids.shape[0], views.start, total, num_ops,
            zeta_stream or 0, first_stream, len(OPS),
            zeta=zeta_stream is not None, block=_DRAWS, enable_fp_fusion=False,
        )  # fmt: skip
    magnitude, sign, center_x, center_y = numbers.transpose(0, 2).unbind(1)  # each (R, k)
    return BoostParams(ops.T, active.T, magnitude, sign, center_x, center_y)


# --- making ---------------------------------------------------------------------------------------


def fused_chain(
    images: Tensor, params: ViewParams, size: tuple[int, int], exact: bool, rows_first: bool
) -> Tensor:
    """Crop, resize, flip, jitter, gray, blur, solarize.

    Args:
        images: (B, 3, H, W) uint8, or float in [0, 1].
        params: of R = V B rows, view-major.
        size: rows and columns of the views.
        exact: Pillow's 8-bit arithmetic after every step.
        rows_first: resize the rows of crops that lose far more rows than columns first.

    Returns:
        (R, 3, *size) float32 levels.
    """
    from bcl.augment.kernels import chain

    count, p = params.top.shape[0], params
    rows, cols = images.shape[2:]
    block, warps = _shape(size)
    views = torch.empty(count, 3, *size, device=images.device, dtype=torch.float32)
    box = (p.top, p.left, p.height, p.width, p.flip)
    # Stored factors may be of any float; a kernel's sums are of one.
    brightness, contrast, saturation, hue, blur = (
        field.to(torch.float32) for field in (p.brightness, p.contrast, p.saturation, p.hue, p.blur)
    )
    color = (brightness, contrast, saturation, hue, p.order, p.gray, blur, p.solarize)
    lengths, strides = images.shape[1:], images.stride()[1:]
    if sum((n - 1) * stride for n, stride in zip(lengths, strides, strict=True)) >= 2**31:
        images = images.contiguous()  # offsets within an image are 32 bits
    with torch.cuda.device(images.device):
        chain.crop_kernel[(count, -(-size[0] * size[1] // block))](
            views, images, *(field.contiguous() for field in box),
            images.shape[0], rows, cols, *images.stride(), *size,
            *row_and_column_taps((rows, cols), size),
            exact=exact, is_float=images.is_floating_point(), rows_first=rows_first and exact,
            block=block, num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
        chain.color_kernel[(count,)](
            views, torch.empty_like(views), *(field.contiguous() for field in color), *size,
            exact=exact, block=block, num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
    return views


def fused_boost(views: Tensor, params: BoostParams, policy: str, whole: bool) -> Tensor:
    """Apply k ops a view.

    Args:
        views: (R, 3, rows, columns) float32 levels; where k > 1 they are overwritten.
        params: of R rows.
        policy: whose ranges to use.
        whole: the levels are whole.

    Returns:
        (R, 3, rows, columns) float32 levels.
    """
    from bcl.augment.kernels.boost import boost_kernel

    size = views.shape[2], views.shape[3]
    block, warps = _shape(size)
    views = views.contiguous()
    spare = torch.empty_like(views)
    counts = torch.empty(len(views), 3, 256, device=views.device, dtype=torch.int32)
    ranges = _on_device(tuple(value for pair in RANGES[policy] for value in pair), views.device)
    p = params
    for j in range(p.op.shape[1]):
        fields = [
            field[:, j] for field in (p.op, p.active, p.magnitude, p.sign, p.center_x, p.center_y)
        ]
        with torch.cuda.device(views.device):
            boost_kernel[(len(views),)](
                spare, views, counts.zero_(), *fields, ranges,
                *(field.stride(0) for field in fields), *size,
                monotone=policy == "monotone", whole=whole or j > 0,
                block=block, num_warps=warps, enable_fp_fusion=False,
            )  # fmt: skip
        views, spare = spare, views
    return views


def fused_finish(
    views: Tensor,
    bad_images: Tensor | None,
    magnitudes: Tensor | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> Tensor:
    """Turn levels into what is handed out, in place.

    Args:
        views: (R, 3, rows, columns) float32 levels.
        bad_images: (B,) bool, images whose views become NaN, or None.
        magnitudes: (R, k), of which those that are NaN make the view NaN, or None.
        mean: of the channels, or None.
        std: likewise.

    Returns:
        ``views``.
    """
    from bcl.augment.kernels import chain

    plane = views.shape[2] * views.shape[3]
    normalized = mean is not None and std is not None
    numbers = _on_device((*mean, *std), views.device) if mean and std else views
    strides = (0, 0) if magnitudes is None else magnitudes.stride()
    with torch.cuda.device(views.device):
        chain.finish_kernel[(len(views), -(-3 * plane // _SMALL[0]))](
            views, views if bad_images is None else bad_images,
            views if magnitudes is None else magnitudes, *strides, numbers,
            1 if bad_images is None else len(bad_images),
            0 if magnitudes is None else magnitudes.shape[1], plane,
            images_checked=bad_images is not None, scores_checked=magnitudes is not None,
            normalized=normalized, block=_SMALL[0], enable_fp_fusion=False,
        )  # fmt: skip
    return views
