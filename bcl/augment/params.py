"""Augmentation parameters: named tensors with one row a view, to store and to replay."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from bcl.core.errors import InputError

P = TypeVar("P", bound="Params")


class Params:
    """What the parameter classes share: every field is a tensor of R rows, or such a class."""

    def map(self: P, change: Callable[[Tensor], Tensor]) -> P:
        """Apply ``change`` to every tensor."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            values[field.name] = value.map(change) if isinstance(value, Params) else value
            if isinstance(value, Tensor):
                values[field.name] = change(value)
        return type(self)(**values)

    def rows(self: P, which: slice | Tensor) -> P:
        """Take some of the rows, as indexing a tensor does."""
        return self.map(lambda tensor: tensor[which])

    def to(self: P, device: torch.device | str) -> P:
        """Move every tensor to ``device``."""
        return self.map(lambda tensor: tensor.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Plain dict of tensors, which ``torch.load(weights_only=True)`` reads back."""
        values = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            values[field.name] = value.state_dict() if isinstance(value, Params) else value
        return values


@dataclass(frozen=True)
class BoostParams(Params):
    """Parameters of `BoostedRandAugment` for R views and k ops applied one after the other.

    Attributes:
        op: (R, k) int64, row of the op table (`bcl.augment.OPS`).
        active: (R, k) bool, whether the op's coin fell under its probability.
        magnitude: (R, k) float32 strength in [0, 30].
        sign: (R, k) float32, -1 or 1, for the ops that go both ways.
        center_x: (R, k) float32 in [0, 1), Cutout's center as a share of the width.
        center_y: (R, k) float32 in [0, 1), likewise of the height.

    Example:
        >>> from bcl import BoostedRandAugment
        >>> boost = BoostedRandAugment(rule="bcl-d")  # two ops a view
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

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "BoostParams":
        """Rebuild from `state_dict`."""
        return cls(**_fields(cls, state))


@dataclass(frozen=True)
class ViewParams(Params):
    """Parameters of `ContrastiveViews` for R views; row ``v * B + b`` is view v of image b.

    Attributes:
        top: (R,) int64 first row of the crop.
        left: (R,) int64 first column of the crop.
        height: (R,) int64 rows of the crop.
        width: (R,) int64 columns of the crop.
        flip: (R,) bool, mirror left and right.
        brightness: (R,) float32 factor, 1 where the view is not jittered.
        contrast: (R,) float32 factor, likewise.
        saturation: (R,) float32 factor, likewise.
        hue: (R,) float32 shift in turns, 0 where the view is not jittered.
        order: (R, 4) int64, at each step 0 brightness, 1 contrast, 2 saturation, 3 hue.
        gray: (R,) bool.
        blur: (R,) float32 standard deviation in pixels, 0 for no blur.
        solarize: (R,) bool.
        boost: parameters of the boosted ops, or None.
        view: (R,) int64 number of the view, by which replaying knows its batch, or None.

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

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "ViewParams":
        """Rebuild from `state_dict`."""
        values = _fields(cls, state)
        if values.get("boost") is not None:
            values["boost"] = BoostParams.from_state_dict(values["boost"])
        return cls(**values)


def _fields(cls: type, state: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(state, dict):
        raise InputError(
            f"parameters of {cls.__name__} are read from what its state_dict() returns, got "
            f"{type(state).__name__}."
        )
    names = {field.name for field in dataclasses.fields(cls)}
    if set(state) != names:
        wrong = sorted(set(state) ^ names)
        raise InputError(
            f"these are not parameters of {cls.__name__}: {', '.join(wrong)} missing or unknown. "
            "Store them with state_dict() of the same version."
        )
    return dict(state)
