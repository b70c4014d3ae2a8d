"""Checks of what the modules are called with."""

import operator

import torch
from torch import Tensor

from bcl.core.checks import TensorLike, as_tensor
from bcl.core.errors import InputError


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return repr(value) if value is None else type(value).__name__


def _fits(x: Tensor, dtype: torch.dtype) -> bool:
    return x.dtype != torch.bool and torch.can_cast(x.dtype, dtype)


def as_images(given: TensorLike) -> Tensor:
    """Return a (B, 3, H, W) batch of uint8 or float images; refuse everything else."""
    images = as_tensor("images", given)
    right = images.ndim == 4 and images.shape[1] == 3 and images.numel() > 0
    if not right or not (images.dtype == torch.uint8 or images.is_floating_point()):
        step = "images.expand(-1, 3, -1, -1) gives grayscale images three channels"
        if images.ndim == 3 and images.shape[0] == 3:
            step = "images[None] is a batch of one image"
        elif images.ndim == 4 and images.shape[1] == 4:
            step = "images[:, :3] drops the fourth channel"
        elif images.ndim == 4 and images.shape[3] in (3, 4):
            step = "images[..., :3].permute(0, 3, 1, 2) puts the channels first"
        raise InputError(
            "images must be a non-empty tensor (B, 3, H, W) of uint8, or of floats in [0, 1], got "
            f"{_kind(images)}; {step}."
        )
    return images


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


def check_ids(given: TensorLike | None, images: Tensor | None = None) -> Tensor:
    """Return ids (B,) as int64 on the device of the images; refuse other shapes and types."""
    ids = None if given is None else as_tensor("ids", given)
    right = ids is not None and ids.ndim == 1 and _fits(ids, torch.int64)
    if ids is None or not right or (images is not None and len(ids) != len(images)):
        raise InputError(
            "ids must be a tensor (B,) of integers, one per image, on which the draws depend, got "
            f"{_kind(ids)}; pass ids=batch['id'], or torch.arange(B) if samples have none."
        )
    return ids.to((ids if images is None else images).device, torch.int64)


def check_scores(given: TensorLike | None, ids: Tensor, values: bool) -> Tensor:
    """Return scores (B,) as float32 on the device of ids (B,); refuse other shapes and types.

    With ``values``, for which the host waits, refuse scores outside [0, 1] too.
    """
    scores = None if given is None else as_tensor("scores", given)
    right = scores is not None and scores.shape == ids.shape
    if scores is None or not right or not _fits(scores, torch.float32):
        raise InputError(
            f"scores must be a tensor of real numbers of shape ({len(ids)},), got "
            f"{_kind(scores)}; pass scores=tracker.scores[ids], or make the views without boost."
        )
    scores = scores.detach()
    bad = ~((scores >= 0) & (scores <= 1))
    if values and bool(bad.any()):
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
