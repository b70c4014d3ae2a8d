"""The fifteen ops and their ranges: one row per op."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from bcl.augment.ops import blur, color, geometry, tone
from bcl.core.errors import unknown_name

MAX_MAGNITUDE = 30.0

Policy = Literal["reference", "monotone"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


class Range(NamedTuple):
    """Value of an op at magnitude 0 and at magnitude 30, linear in between.

    With ``signed`` the drawn sign says to which side of ``low`` it moves; ``whole`` rounds it down.
    """

    low: float
    high: float
    signed: bool = False
    whole: bool = False


class Op(NamedTuple):
    """A name, a function of whole levels (R, 3, H, W) and values (R,), and the values' ranges.

    With ``placed`` the function also takes a center: (R,) shares of the width and of the height.
    """

    name: str
    apply: Callable[..., Tensor]
    reference: Range
    monotone: Range
    placed: bool = False


def _same(name: str, apply: Callable[..., Tensor], low: float, high: float, **more: Any) -> Op:
    """One signed or placed op with the same range in both policies."""
    span = Range(low, high, signed="placed" not in more)
    return Op(name, apply, span, span, **more)


def _enhancement(name: str, apply: Callable[..., Tensor]) -> Op:
    """Pillow's enhancements: a factor, of which 1 is the original."""
    return Op(name, apply, Range(0.1, 1.9), Range(1.0, 1.9, signed=True))


TABLE = (
    _same("ShearX", geometry.shear_x, 0.0, 0.6),  # tangent
    _same("ShearY", geometry.shear_y, 0.0, 0.6),
    _same("TranslateX", geometry.translate_x, 0.0, 0.66),  # share of the side
    _same("TranslateY", geometry.translate_y, 0.0, 0.66),
    # degrees; beyond 45 the black corners shrink again
    Op("Rotate", geometry.rotate, Range(0.0, 60.0, signed=True), Range(0.0, 45.0, signed=True)),
    Op("AutoContrast", tone.auto_contrast, Range(1.0, 1.0), Range(0.0, 1.0)),  # share of the way
    Op("Invert", tone.solarize, Range(0.0, 0.0), Range(256.0, 0.0)),  # threshold
    Op("Equalize", tone.equalize, Range(1.0, 1.0), Range(0.0, 1.0)),  # share of the way
    Op("Solarize", tone.solarize, Range(0.0, 110.0), Range(256.0, 110.0)),  # threshold
    Op("Posterize", tone.posterize, Range(4.0, 8.0, whole=True), Range(8.0, 3.0)),  # bits kept
    _enhancement("Contrast", color.contrast),
    _enhancement("Color", color.saturation),
    _enhancement("Brightness", color.brightness),
    _enhancement("Sharpness", blur.sharpness),
    _same("Cutout", geometry.cutout, 0.0, 0.4, placed=True),  # share of the width
)
OPS = tuple(op.name for op in TABLE)


def op_index(name: str) -> int:
    """Row of an op in the table; refuses names that are not in `OPS`."""
    if name not in OPS:
        raise unknown_name("op", name, OPS)
    return OPS.index(name)


def ranges(policy: Policy) -> Tensor:
    """(15, 4) float64: low, high - low, signed and whole of each op."""
    rows = [getattr(op, policy) for op in TABLE]
    return torch.tensor(
        [(r.low, r.high - r.low, r.signed, r.whole) for r in rows],
        dtype=torch.float64, device="cpu",
    )  # fmt: skip


def op_values(op: Tensor, magnitude: Tensor, sign: Tensor, policy: Policy) -> Tensor:
    r"""Values :math:`v_0 \pm (v_{30} - v_0)\, m / 30` of ops (R,): (R,) float64.

    In float64 thresholds and pixel positions fall as in the released code.
    """
    low, span, signed, whole = ranges(policy)[op].unbind(1)
    change = magnitude.to(torch.float64) / MAX_MAGNITUDE * span
    value = low + torch.where(signed > 0, sign.to(torch.float64), 1.0) * change
    return torch.where(whole > 0, value.floor(), value)
