"""Bad input, said before anything is computed.

Looking at values on a device would make the host wait for it; values are therefore checked on a
CPU only, and on a device a bad score is clamped by the arithmetic that uses it.
"""

import torch
from torch import Tensor

from bcl.augment.params import ViewParams
from bcl.errors import InputError


def check_images(images: Tensor) -> None:
    """Refuse what is not a (B, 3, H, W) batch of uint8 or float pictures."""
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] != 3:
        raise InputError(
            f"images must be (B, 3, H, W) with three colour channels, got {shape}; grey pictures "
            "can be expanded with images.expand(-1, 3, -1, -1)."
        )
    if shape[0] == 0:
        raise InputError("the batch is empty; give at least one picture.")
    if 0 in shape:
        raise InputError(f"images have no pixels: {shape}.")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"images must be uint8, or float in [0, 1], got {images.dtype}.")


def check_scores(scores: Tensor | None, images: Tensor) -> Tensor:
    """Refuse scores that are missing, of another length, NaN, or outside [0, 1]."""
    if scores is None:
        raise InputError(
            "the boosted ops need a score for each picture; give scores=tracker.scores[ids], or "
            "make the views without boost."
        )
    if scores.shape != images.shape[:1]:
        raise InputError(
            f"scores must be of shape ({images.shape[0]},), one a picture, got "
            f"{tuple(scores.shape)}."
        )
    if scores.device.type == "cpu" and not torch.compiler.is_compiling():
        bad = ~((scores >= 0) & (scores <= 1))
        if bool(bad.any()):
            raise InputError(
                f"scores must lie in [0, 1], got {scores[bad][0].item()} at position "
                f"{int(bad.nonzero()[0])}; MemorizationTracker.scores does."
            )
    return scores.to(images.device).nan_to_num(0.0).clamp(0, 1)


def check_ids(ids: Tensor | None, images: Tensor) -> Tensor:
    """Refuse ids that are missing, of another length, or not integers."""
    if ids is None:
        raise InputError(
            "the draws depend on the sample ids, and none were given; pass ids=batch['id'], or "
            "torch.arange(B) where samples have none."
        )
    if ids.shape != images.shape[:1] or ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(
            f"ids must be integers of shape ({images.shape[0]},), got {ids.dtype} of shape "
            f"{tuple(ids.shape)}."
        )
    return ids.to(images.device, torch.int64)


def check_boxes(params: ViewParams, images: Tensor) -> None:
    """Refuse parameters of another batch size, or whose crops leave the picture or are empty."""
    count, (rows, cols) = images.shape[0], images.shape[2:]
    if params.top.shape[0] == 0 or params.top.shape[0] % count:
        raise InputError(
            f"the parameters are for {params.top.shape[0]} views, which is no multiple of the "
            f"batch of {count} pictures; draw them with the ids of this batch."
        )
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return
    bottom, right = params.top + params.height, params.left + params.width
    outside = (params.top < 0) | (params.left < 0) | (bottom > rows) | (right > cols)
    empty = (params.height < 1) | (params.width < 1)
    bad = outside | empty
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        box = [int(v[at]) for v in (params.top, params.left, params.height, params.width)]
        raise InputError(
            f"crop {at} (top, left, height, width = {box}) must hold a pixel and lie within the "
            f"picture of {rows} x {cols}; draw the parameters with this picture_size."
        )
