"""Augmentation parameters: named tensors with one row per view, to store and to replay."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from bcl.augment.policy import MAX_MAGNITUDE, OPS
from bcl.core.errors import InputError

P = TypeVar("P", bound="Params")


class Params:
    """What the parameter classes share: every field is a tensor of R rows, or such a class."""

    def fields(self) -> dict[str, Any]:
        """Name to value, without the optional fields that are None."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if value is not None}

    def map(self: P, change: Callable[[Tensor], Tensor]) -> P:
        """Apply ``change`` to every tensor."""
        return type(self)(
            **{
                name: value.map(change) if isinstance(value, Params) else change(value)
                for name, value in self.fields().items()
            }
        )

    def to(self: P, device: torch.device | str) -> P:
        """Move every tensor to ``device``."""
        return self.map(lambda tensor: tensor.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Plain dict of tensors that ``torch.load(weights_only=True)`` can read."""
        return {
            name: value.state_dict() if isinstance(value, Params) else value
            for name, value in self.fields().items()
        }

    @classmethod
    def from_state_dict(cls: type[P], state: dict[str, Any]) -> P:
        """Rebuild the parameters from their `state_dict`."""
        try:
            values = dict(state)
            if "boost" in values:
                values["boost"] = BoostParams.from_state_dict(values["boost"])
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{cls.__name__} needs what its state_dict() returned, got "
                f"{type(state).__name__} ({error})."
            ) from None

    def check(self, rows: int, device: torch.device) -> None:
        """Refuse stored parameters that do not have ``rows`` rows on the images' device."""
        for name, value in self.fields().items():
            if isinstance(value, Params):
                value.check(rows, device)
                continue
            wanted, got = (rows, *self.inner_shape(name)), repr(value)
            if isinstance(value, Tensor):
                if value.shape == wanted and value.device == device:
                    continue
                got = f"{tuple(value.shape)} on {value.device}"
            raise InputError(
                f"the parameter {name} must be a tensor of shape {wanted} on {device} for these "
                f"images, got {got}; sample the parameters with the ids of the batch, and move "
                "them with params.to()."
            )

    def inner_shape(self, name: str) -> tuple[int, ...]:
        """Shape of a field without its rows."""
        raise NotImplementedError


@dataclass(frozen=True)
class BoostParams(Params):
    """Parameters of `BoostedRandAugment` for R views and k ops applied one after the other.

    Attributes:
        op: (R, k) int64, row of the op table (`bcl.augment.OPS`).
        active: (R, k) bool, whether the op is applied.
        magnitude: (R, k) float32 strength in [0, 30].
        sign: (R, k) float32, -1 or 1, for ops with a direction.
        center_x: (R, k) float32 in [0, 1), center of Cutout as a share of the width.
        center_y: (R, k) float32 in [0, 1), the same as a share of the height.

    Example:
        >>> from bcl import BoostedRandAugment
        >>> boost = BoostedRandAugment("bcl-d")  # two ops per view
        >>> params = boost.sample(scores=torch.tensor([0.0, 1.0]), ids=torch.arange(2))
        >>> params.active.tolist()
        [[False, False], [True, True]]
        >>> BoostParams.from_state_dict(params.state_dict()).op.equal(params.op)
        True
    """

    op: Tensor
    active: Tensor
    magnitude: Tensor
    sign: Tensor
    center_x: Tensor
    center_y: Tensor

    def inner_shape(self, _: str) -> tuple[int, ...]:
        """(k,)."""
        return tuple(self.op.shape[1:]) if self.op.ndim == 2 else (1,)

    def check_values(self) -> None:
        """Refuse ops that are not in the table, and magnitudes outside [0, 30]."""
        for name, high in (("op", len(OPS) - 1), ("magnitude", MAX_MAGNITUDE)):
            low, most = (float(value) for value in torch.aminmax(getattr(self, name)))
            if not (low >= 0 and most <= high):  # NaN compares false
                raise InputError(
                    f"the parameter {name} must be in 0 .. {high:g}, got {low:g} .. {most:g}."
                )


@dataclass(frozen=True)
class ViewParams(Params):
    """Parameters of `ContrastiveViews` for R views; row ``v * B + b`` is view v of image b.

    Attributes:
        top: (R,) int64 first row of the crop.
        left: (R,) int64 first column of the crop.
        height: (R,) int64 rows of the crop.
        width: (R,) int64 columns of the crop.
        flip: (R,) bool, mirror left and right.
        brightness: (R,) float32 factor, 1 without jitter.
        contrast: (R,) float32 factor, 1 without jitter.
        saturation: (R,) float32 factor, 1 without jitter.
        hue: (R,) float32 shift in turns, 0 without jitter.
        order: (R, 4) int64 jitter steps: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        gray: (R,) bool, convert to grayscale.
        blur: (R,) float32 standard deviation in pixels, 0 without blur.
        solarize: (R,) bool.
        boost: parameters of the boosted ops, or None.
        view: (R,) int64 number of the view, or None; checked when the parameters are replayed.

    Example:
        >>> from bcl import ContrastiveViews
        >>> views, ids = ContrastiveViews(8), torch.arange(2)
        >>> images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
        >>> [params] = views.sample(ids, image_size=(16, 16))
        >>> stored = ViewParams.from_state_dict(params.state_dict())
        >>> views.transform(images, [stored]).equal(views(images, ids=ids))
        True
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    gray: Tensor
    blur: Tensor
    solarize: Tensor
    boost: BoostParams | None = None
    view: Tensor | None = None

    def inner_shape(self, name: str) -> tuple[int, ...]:
        """(4,) for ``order``, else none."""
        return (4,) if name == "order" else ()

    def check_values(self, views: range, image_size: tuple[int, int]) -> None:
        """Refuse crops, views, jitter orders and ops that `ContrastiveViews` never samples."""
        (rows, cols), count = image_size, len(self.top) // len(views)
        inside = (self.top >= 0) & (self.top + self.height <= rows) & (self.height > 0)
        inside &= (self.left >= 0) & (self.left + self.width <= cols) & (self.width > 0)
        numbers = torch.tensor(views).repeat_interleave(count).to(self.top)
        view = numbers if self.view is None else self.view
        order = self.order.sort(dim=1).values
        for right, text in (
            (inside, f"every crop must hold a pixel and lie within the image of {rows} x {cols}"),
            (view == numbers, f"the views must be {views} of {count} images, in this order"),
            (order == torch.arange(4).to(order), "order must hold 0, 1, 2 and 3 in every row"),
        ):
            if not bool(right.all()):
                raise InputError(
                    f"{text}; sample the parameters with this image_size, num_views and num_local."
                )
        if self.boost is not None:
            self.boost.check_values()
