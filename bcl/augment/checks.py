"""Bad input, said before anything is computed.

Looking at values on a device makes the host wait for it. Values are therefore looked at always on
a CPU and in the first batch on a device; later bad values there are never mended in silence, but
turn the views of their image into NaN, which the losses and the tracker refuse.
"""

import dataclasses
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from bcl.augment.params import BoostParams, Params, ViewParams
from bcl.augment.policy import OPS
from bcl.core.errors import InputError, unknown_name

CheckValues = Literal["first", "always", "never"]
CHECKS: tuple[CheckValues, ...] = ("first", "always", "never")


class ValueChecks:
    """Whether to look at the values of a batch.

    Args:
        when: on a device ``"first"`` looks at the first batch, ``"always"`` at each, for which
            the host waits; a CPU's values are looked at in both cases. ``"never"`` looks nowhere.

    Raises:
        InputError: another word.

    Example:
        >>> [ValueChecks(when).looks_at(torch.zeros(1)) for when in ("first", "never")]
        [True, False]
    """

    def __init__(self, when: CheckValues = "first") -> None:
        if when not in CHECKS:
            raise unknown_name("check_values", when, CHECKS)
        self.when: CheckValues = when
        self._passed = False

    def looks_at(self, *tensors: Tensor | None) -> bool:
        """Whether to look at the values of this batch, because of any of the tensors."""
        if self.when == "never" or torch.compiler.is_compiling():
            return False
        if self.when == "always" or not self._passed:
            return True
        return any(x is not None and x.device.type == "cpu" for x in tensors)

    def passed(self, x: Tensor) -> None:
        """Note that a whole batch was looked at and was good."""
        if not self._passed and x.device.type != "cpu" and not torch.compiler.is_compiling():
            self._passed = True


def check_pixels(images: Tensor) -> None:
    """Refuse float images with a value outside [0, 1] or NaN; makes the host wait."""
    if not images.is_floating_point():
        return
    low, high = torch.aminmax(images.detach())
    if not bool((low >= 0) & (high <= 1)):  # NaN compares false
        got = f"values from {float(low):g} to {float(high):g}"
        got = "NaN" if bool(low.isnan()) else got
        raise InputError(
            f"float images must lie in [0, 1], got {got}; divide levels by 255, clamp what a "
            "resize has overshot, and normalize afterwards with mean= and std=."
        )


def bad_pixels(images: Tensor) -> Tensor:
    """(B,) bool, whether an image has a value outside [0, 1] or NaN, without waiting."""
    if not images.is_floating_point():
        return torch.zeros(images.shape[0], dtype=torch.bool, device=images.device)
    flat = images.flatten(1)
    return ~((flat.amin(dim=1) >= 0) & (flat.amax(dim=1) <= 1))


def bad_scores(params: Tensor) -> Tensor:
    """(R,) bool, whether magnitudes (R, k) come from a score outside [0, 1] or NaN."""
    return params.isnan().any(dim=1)


def check_images(images: Tensor) -> None:
    """Refuse what is not a (B, 3, H, W) batch of uint8 or float images."""
    if not isinstance(images, Tensor):
        raise InputError(f"images must be a (B, 3, H, W) tensor, got {_kind(images)}.")
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] != 3:
        raise InputError(
            f"images must be (B, 3, H, W) with three color channels, got {shape}; gray images "
            "can be expanded with images.expand(-1, 3, -1, -1)."
        )
    if shape[0] == 0:
        raise InputError("the batch is empty; give at least one image.")
    if 0 in shape:
        raise InputError(f"images have no pixels: {shape}.")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"images must be uint8, or float in [0, 1], got {images.dtype}.")


def check_scores(
    scores: Tensor | None, images: Tensor, look: bool = True, mark: bool = True
) -> Tensor:
    """Refuse scores that are missing, of another length, or not real numbers.

    Args:
        scores: (B,).
        images: a tensor of B rows on the device of the batch.
        look: refuse values outside [0, 1] and NaN too, for which the host waits; else they come
            back as NaN, which their views then become.
        mark: False where what comes next takes such values for NaN itself.

    Returns:
        (B,) float32 on the device of ``images``.
    """
    if scores is None:
        raise InputError(
            "the boosted ops need a score for each image; give scores=tracker.scores[ids], or "
            "make the views without boost."
        )
    if not isinstance(scores, Tensor):
        raise InputError(f"scores must be a (B,) tensor, got {_kind(scores)}.")
    if scores.shape != images.shape[:1]:
        raise InputError(
            f"scores must be ({images.shape[0]},), one per image, got {tuple(scores.shape)}."
        )
    if scores.is_complex() or scores.dtype == torch.bool:
        raise InputError(f"scores must be real numbers in [0, 1], got {scores.dtype}.")
    if not look and not mark:
        return scores.detach().to(images.device, torch.float32)
    bad = ~((scores >= 0) & (scores <= 1))
    if look and bool(bad.any()):
        raise InputError(
            f"scores must lie in [0, 1], got {scores[bad][0].item()} at position "
            f"{int(bad.nonzero()[0])}; MemorizationTracker.scores does."
        )
    scores = scores.detach().to(torch.float32).masked_fill(bad, float("nan"))
    return scores.to(images.device, non_blocking=True)


def check_ids(ids: Tensor | None, images: Tensor) -> Tensor:
    """Refuse ids that are missing, of another length, or not integers."""
    if ids is None:
        raise InputError(
            "the draws depend on the sample ids, and none were given; pass ids=batch['id'], or "
            "torch.arange(B) where samples have none."
        )
    if not isinstance(ids, Tensor):
        raise InputError(f"ids must be a (B,) tensor of integers, got {_kind(ids)}.")
    if ids.shape != images.shape[:1] or ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(
            f"ids must be integers of shape ({images.shape[0]},), got {ids.dtype} of shape "
            f"{tuple(ids.shape)}."
        )
    return ids.to(images.device, torch.int64)


def check_rows(params: Params, rows: int, like: Tensor, what: str) -> None:
    """Refuse parameters of another shape, or on another device than ``like``.

    Args:
        params: stored or drawn ones.
        rows: how many the batch needs.
        like: the images.
        what: says in words what the rows are for.
    """
    for field in dataclasses.fields(params):  # type: ignore[arg-type]
        value = getattr(params, field.name)
        if isinstance(value, Params):
            check_rows(value, rows, like, what)
        elif value is not None or field.default is not None:
            if not isinstance(value, Tensor):
                raise InputError(
                    f"the parameters' {field.name} must be a tensor, got {_kind(value)}; store "
                    "them with state_dict() and read them with from_state_dict()."
                )
            if value.ndim == 0 or value.shape[0] != rows:
                raise InputError(
                    f"the parameters' {field.name} has the shape {tuple(value.shape)}, but "
                    f"{what} need {rows} rows; draw the parameters with the ids of this batch."
                )
            # Kernels read as many values a row as there should be.
            inner: tuple[int, ...] = (4,) if field.name == "order" else ()
            if isinstance(params, BoostParams):
                inner = (params.op.shape[1] if params.op.ndim > 1 else 1,)  # k
            if value.shape[1:] != inner:
                raise InputError(
                    f"the parameters' {field.name} has the shape {tuple(value.shape)}, which must "
                    f"be {(rows, *inner)}; store them with state_dict()."
                )
            if value.device != like.device:
                raise InputError(
                    f"the parameters lie on {value.device} and the images on {like.device}; "
                    f"move them with params.to('{like.device}')."
                )


def check_key(name: str, value: object) -> None:
    """Refuse a part of the random numbers' key that is no integer."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if isinstance(value, Tensor):
        whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    if not whole:
        raise InputError(f"{name} must be an integer, got {value!r}.")


def check_drawn(params: ViewParams, views: range, count: int) -> None:
    """Refuse views, ops and orders of steps that `ContrastiveViews.sample` does not draw.

    Args:
        params: of the views of ``count`` images.
        views: their numbers.
        count: B.
    """
    if params.view is not None:
        number = torch.tensor(views, device=params.view.device).repeat_interleave(count)
        if not params.view.equal(number):
            raise InputError(
                f"the parameters are not of views {views.start} to {views.stop - 1} of {count} "
                "images, one view after the other; draw them with the same num_views and "
                "num_local, for this batch."
            )
    steps = torch.arange(4, device=params.order.device).expand_as(params.order)
    if not params.order.sort(dim=1).values.equal(steps):
        raise InputError("the parameters' order must hold 0, 1, 2 and 3 once in each row.")
    if params.boost is not None:
        check_ops(params.boost)


def check_ops(params: BoostParams) -> None:
    """Refuse ops that are not in the table."""
    if not bool(((params.op >= 0) & (params.op < len(OPS))).all()):
        raise InputError(
            f"the parameters' op must lie in 0 .. {len(OPS) - 1}, rows of bcl.augment.OPS, got "
            f"{int(params.op.min())} .. {int(params.op.max())}."
        )


def _kind(value: object) -> str:
    return f"{type(value).__name__}"


def check_boxes(params: ViewParams, images: Tensor, look: bool = True) -> None:
    """Refuse crops that leave the image or are empty, on a CPU or with ``look``."""
    if not look and (images.device.type != "cpu" or torch.compiler.is_compiling()):
        return
    rows, cols = images.shape[2:]
    bottom, right = params.top + params.height, params.left + params.width
    outside = (params.top < 0) | (params.left < 0) | (bottom > rows) | (right > cols)
    empty = (params.height < 1) | (params.width < 1)
    bad = outside | empty
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        box = [int(v[at]) for v in (params.top, params.left, params.height, params.width)]
        raise InputError(
            f"crop {at} (top, left, height, width = {box}) must hold a pixel and lie within the "
            f"image of {rows} x {cols}; draw the parameters with this image_size."
        )
