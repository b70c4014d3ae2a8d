"""Choose between plain PyTorch and Triton kernels, and launch the kernels."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bcl.augment import sampling
from bcl.augment.chain import apply_ops, make_views
from bcl.augment.params import BoostParams, ViewParams
from bcl.augment.policy import OPS, Policy, ranges
from bcl.augment.sampling import ChainSettings, Strength, ViewSettings
from bcl.core.random import hash64_of
from bcl.core.triton import runs_triton

# Levels of a channel that a program works on at a time, and its warps of 32 threads.
_SMALL, _LARGE = (1024, 4), (2048, 8)
# Views that a program draws.
_DRAWS = 128


class Path(NamedTuple):
    """The functions that make views; those of both paths have the same signatures and results.

    ``waits`` says whether values may be looked at; otherwise bad ones turn the views into NaN.
    """

    draw_chain: Callable[..., ViewParams]
    draw_ops: Callable[..., BoostParams]
    make_views: Callable[..., Tensor]
    apply_ops: Callable[..., Tensor]
    waits: bool


def path_for(x: Tensor) -> Path:
    """Kernels where Triton can work on ``x``; elsewhere plain PyTorch on the CPU."""
    return KERNELS if runs_triton(x) else PLAIN


# --- drawing --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu").to(device)


@functools.lru_cache(maxsize=64)
def _chain_numbers(
    settings: ChainSettings, image_size: tuple[int, int], device: torch.device
) -> Tensor:
    """Numbers for `draw_chain_kernel`, with differences in the precision of `draw_chain`."""
    (low, high), (log_low, log_high) = settings.scale, map(math.log, settings.ratio)
    reach = torch.tensor(settings.color_jitter, dtype=torch.float32, device="cpu").tolist()
    least = [max(1 - r, 0.0) for r in reach[:3]] + [-reach[3]]
    most = [1 + r for r in reach[:3]] + [reach[3]]
    factors = torch.tensor(least + most, dtype=torch.float32, device="cpu")
    low_sigma, high_sigma = settings.blur_sigma
    values = (
        low, high - low, log_low, log_high - log_low,
        *sampling.largest_box(*image_size, settings.ratio),
        settings.flip_probability, settings.color_jitter_probability,
        settings.grayscale_probability, settings.blur_probability, settings.solarize_probability,
        low_sigma, high_sigma - low_sigma, *factors.tolist(), image_size[0] * image_size[1],
    )  # fmt: skip
    return _on_device(values, device)


def _launch_draw_chain(
    settings: ChainSettings,
    ids: Tensor,
    image_size: tuple[int, int],
    seed: int,
    epoch: int,
    views: range,
) -> ViewParams:
    from bcl.augment.kernels import draws

    total, device = len(views) * ids.shape[0], ids.device
    boxes = torch.empty(5, total, dtype=torch.int64, device=device)
    factors = torch.empty(5, total, dtype=torch.float32, device=device)
    order = torch.empty(total, 4, dtype=torch.int64, device=device)
    coins = torch.empty(3, total, dtype=torch.bool, device=device)
    with torch.cuda.device(device):
        draws.draw_chain_kernel[(-(-total // _DRAWS),)](
            boxes, factors, order, coins, ids.contiguous(),
            _chain_numbers(settings, image_size, device),
            hash64_of(seed, epoch), ids.shape[0], views.start, total, *image_size,
            tries=sampling.TRIES, block=_DRAWS, enable_fp_fusion=False,
        )  # fmt: skip
    top, left, height, width, view = boxes
    flip, gray, solarize = coins
    brightness, contrast, saturation, hue, blur = factors
    return ViewParams(
        top, left, height, width, flip, brightness, contrast, saturation, hue, order, gray, blur,
        solarize, view=view,
    )  # fmt: skip


def _launch_draw_ops(
    strength: Strength, scores: Tensor, ids: Tensor, seed: int, epoch: int, views: range
) -> BoostParams:
    from bcl.augment.kernels import draws

    k, total, device = strength.num_ops, len(views) * ids.shape[0], ids.device
    ops = torch.empty(k, total, dtype=torch.int64, device=device)
    active = torch.empty(k, total, dtype=torch.bool, device=device)
    numbers = torch.empty(k, 4, total, dtype=torch.float32, device=device)
    low, high = strength.min_magnitude, strength.max_magnitude
    with torch.cuda.device(device):
        draws.draw_ops_kernel[(-(-total // _DRAWS),)](
            ops, active, numbers, ids.contiguous(), scores.contiguous(),
            _on_device((low, high - low), device),
            hash64_of(seed, epoch), ids.shape[0], views.start, total, k,
            sampling.ZETA, sampling.FIRST_OP, len(OPS),
            zeta=strength.random_magnitude, block=_DRAWS, enable_fp_fusion=False,
        )  # fmt: skip
    magnitude, sign, center_x, center_y = numbers.transpose(0, 2).unbind(1)  # each (R, k)
    return BoostParams(ops.T, active.T, magnitude, sign, center_x, center_y)


# --- making ---------------------------------------------------------------------------------------


def _shape(size: tuple[int, int]) -> tuple[int, int]:
    return _SMALL if size[0] * size[1] <= 4 * _SMALL[0] else _LARGE


def _launch_make_views(
    images: Tensor, params: ViewParams, settings: ViewSettings, policy: Policy
) -> Tensor:
    exact = settings.arithmetic == "exact"
    views = launch_chain(images, params, settings.size, exact)
    if params.boost is not None:
        views = launch_ops(views, params.boost, policy, whole=exact)
    return _finish(views, images, params, settings)


def launch_chain(images: Tensor, params: ViewParams, size: tuple[int, int], exact: bool) -> Tensor:
    """Crop, resize, flip, jitter, gray, blur and solarize, as `bcl.augment.chain.base_chain`."""
    from bcl.augment.kernels import color, crop

    p, count = params, params.top.shape[0]
    block, warps = _shape(size)
    views = torch.empty(count, 3, *size, device=images.device, dtype=torch.float32)
    box = (p.top, p.left, p.height, p.width, p.flip)
    # Stored factors may be of another float type.
    factors = (field.to(torch.float32) for field in (p.brightness, p.contrast, p.saturation, p.hue))
    steps = (*factors, p.order, p.gray, p.blur.to(torch.float32), p.solarize)
    lengths, strides = images.shape[1:], images.stride()[1:]
    if sum((n - 1) * stride for n, stride in zip(lengths, strides, strict=True)) >= 2**31:
        images = images.contiguous()  # offsets within an image are 32 bits
    with torch.cuda.device(images.device):
        crop.crop_kernel[(count, -(-size[0] * size[1] // block))](
            views, images, *(field.contiguous() for field in box),
            images.shape[0], *images.stride(), *size,
            exact=exact, is_float=images.is_floating_point(),
            block=block, num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
        color.color_kernel[(count,)](
            views, torch.empty_like(views), *(field.contiguous() for field in steps), *size,
            exact=exact, block=block, num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
    return views


@functools.lru_cache(maxsize=16)
def _ranges(policy: Policy, device: torch.device) -> Tensor:
    return ranges(policy).to(device)


def launch_ops(x: Tensor, params: BoostParams, policy: Policy, whole: bool) -> Tensor:
    """Apply k ops per view, as `bcl.augment.chain.apply_ops`; for k > 1 ``x`` is overwritten."""
    from bcl.augment.kernels.boost import boost_kernel

    size = x.shape[2], x.shape[3]
    block, warps = _shape(size)
    views = x.contiguous()
    if not whole:
        changed = params.active.any(dim=1)[:, None, None, None]
        views = torch.where(changed, (views + 0.5).floor_().clamp_(0, 255), views)
    spare = torch.empty_like(views)
    counts = torch.empty(len(views), 3, 256, device=views.device, dtype=torch.int32)
    p = params
    for j in range(p.op.shape[1]):
        fields = [
            field[:, j] for field in (p.op, p.active, p.magnitude, p.sign, p.center_x, p.center_y)
        ]
        with torch.cuda.device(views.device):
            boost_kernel[(len(views),)](
                spare, views, counts.zero_(), *fields, _ranges(policy, views.device),
                *(field.stride(0) for field in fields), *size,
                block=block, num_warps=warps, enable_fp_fusion=False,
            )  # fmt: skip
        views, spare = spare, views
    return views


def _finish(views: Tensor, images: Tensor, params: ViewParams, settings: ViewSettings) -> Tensor:
    """Turn levels into [0, 1] or normalized, in place; views of bad values into NaN."""
    from bcl.augment.kernels import color

    plane = views.shape[2] * views.shape[3]
    bad = None
    if images.is_floating_point():
        flat = images.flatten(1)
        bad = ~((flat.amin(dim=1) >= 0) & (flat.amax(dim=1) <= 1))  # (B,)
    magnitudes = None if params.boost is None else params.boost.magnitude
    numbers = (*(settings.mean or ()), *(settings.std or ()))
    with torch.cuda.device(views.device):
        color.finish_kernel[(len(views), -(-3 * plane // _SMALL[0]))](
            views, views if bad is None else bad, views if magnitudes is None else magnitudes,
            *((0, 0) if magnitudes is None else magnitudes.stride()),
            _on_device(numbers, views.device) if numbers else views,
            len(images), 0 if magnitudes is None else magnitudes.shape[1], plane,
            images_checked=bad is not None, scores_checked=magnitudes is not None,
            normalized=bool(numbers), block=_SMALL[0], enable_fp_fusion=False,
        )  # fmt: skip
    return views


PLAIN = Path(sampling.draw_chain, sampling.draw_ops, make_views, apply_ops, waits=True)
KERNELS = Path(_launch_draw_chain, _launch_draw_ops, _launch_make_views, launch_ops, waits=False)
