"""Checks of what the modules are called with."""

import operator

import torch
from torch import Tensor

from bcl.core.errors import InputError


def check_images(images: Tensor) -> None:
    """Refuse what is not a (B, 3, H, W) batch of uint8 or float images."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(
            f"images must be a tensor (B, 3, H, W), got {shape}; images.expand(-1, 3, -1, -1) "
            "gives gray images three channels."
        )
    if 0 in images.shape:
        raise InputError(f"the batch is empty: {tuple(images.shape)}; give at least one pixel.")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"images must be uint8, or float in [0, 1], got {images.dtype}.")


def check_pixels(images: Tensor) -> None:
    """Refuse float images with a value outside [0, 1] or NaN."""
    if not images.is_floating_point():
        return
    low, high = (float(value) for value in torch.aminmax(images.detach()))
    if not (low >= 0 and high <= 1):  # NaN compares false
        raise InputError(
            f"float images must be in [0, 1], got values from {low:g} to {high:g}; divide levels "
            "by 255, and normalize the views with mean= and std=."
        )


def check_ids(ids: Tensor | None, images: Tensor) -> Tensor:
    """Refuse ids that are missing, of another length, or not integers; returns (B,) int64."""
    if not isinstance(ids, Tensor):
        raise InputError(
            f"ids must be a tensor of integers, on which the draws depend, got {ids!r}; pass "
            "ids=batch['id'], or torch.arange(B) where samples have none."
        )
    floating = ids.is_floating_point() or ids.dtype == torch.bool
    if ids.shape != images.shape[:1] or floating:
        raise InputError(
            f"ids must be integers of shape ({len(images)},), got {ids.dtype} of shape "
            f"{tuple(ids.shape)}."
        )
    return ids.to(images.device, torch.int64)


def check_scores(scores: Tensor | None, ids: Tensor, values: bool) -> Tensor:
    """Refuse scores that are missing, of another length, or not real numbers.

    Args:
        scores: (B,).
        ids: (B,) on the device of the batch.
        values: whether to refuse values outside [0, 1] too, for which the host waits.

    Returns:
        (B,) float32 on the device of ``ids``.
    """
    if not isinstance(scores, Tensor):
        raise InputError(
            f"scores must be a tensor with one score per image, got {scores!r}; pass "
            "scores=tracker.scores[ids], or make the views without boost."
        )
    if scores.shape != ids.shape or scores.is_complex() or scores.dtype == torch.bool:
        raise InputError(
            f"scores must be real numbers of shape ({len(ids)},), got {scores.dtype} of shape "
            f"{tuple(scores.shape)}."
        )
    scores = scores.detach()
    if values:
        bad = ~((scores >= 0) & (scores <= 1))
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            raise InputError(f"scores must be in [0, 1], got {scores[at].item()} at position {at}.")
    return scores.to(ids.device, torch.float32, non_blocking=True)


def check_integer(name: str, value: object) -> int:
    """Convert Python's, NumPy's and one-element tensors' integers; refuse everything else."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        pass
    raise InputError(f"{name} must be an integer, got {value!r}.")
