"""The fifteen ops, their ranges in the released code, and ours that grow with magnitude."""

import torch
from torch import Tensor

from bcl.augment.ops.constants import constant
from bcl.core.errors import InputError, unknown_name

MAX_MAGNITUDE = 30.0

OPS = (
    "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate",
    "AutoContrast", "Invert", "Equalize", "Solarize", "Posterize",
    "Contrast", "Color", "Brightness", "Sharpness", "Cutout",
)  # fmt: skip
(
    SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE,
    AUTO_CONTRAST, INVERT, EQUALIZE, SOLARIZE, POSTERIZE,
    CONTRAST, COLOR, BRIGHTNESS, SHARPNESS, CUTOUT,
) = range(15)  # fmt: skip

# Value of an op at magnitude 0 and at magnitude 30.
#   ShearX, ShearY: tangent; TranslateX, TranslateY, Cutout: share of the side; Rotate: degrees;
#   Solarize: threshold; Posterize: bits kept; the four enhancements: factor, 1 is the original.
#   AutoContrast, Invert and Equalize have no strength in the released code.
_REFERENCE = (
    (0.0, 0.6), (0.0, 0.6), (0.0, 0.66), (0.0, 0.66), (0.0, 60.0),
    (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 110.0), (4.0, 8.0),
    (0.1, 1.9), (0.1, 1.9), (0.1, 1.9), (0.1, 1.9), (0.0, 0.4),
)  # fmt: skip
# Ours. AutoContrast, Equalize: share of the way to the full op; Invert, Solarize: levels from
# the threshold up are inverted; Posterize: log2 of the step between levels; the enhancements:
# distance of the factor from 1, to either side.
_MONOTONE = (
    (0.0, 0.6), (0.0, 0.6), (0.0, 0.66), (0.0, 0.66), (0.0, 45.0),
    (0.0, 1.0), (256.0, 0.0), (0.0, 1.0), (256.0, 110.0), (0.0, 5.0),
    (0.0, 0.9), (0.0, 0.9), (0.0, 0.9), (0.0, 0.9), (0.0, 0.4),
)  # fmt: skip
RANGES = {"reference": _REFERENCE, "monotone": _MONOTONE}
POLICIES = tuple(RANGES)


def check_policy(policy: str) -> None:
    """Refuse a policy that is not known, naming the nearest."""
    if not isinstance(policy, str) or policy not in RANGES:
        raise unknown_name("policy", policy, POLICIES)


def op_index(name: str) -> int:
    """Row of an op in the table.

    Args:
        name: one of `OPS`.

    Returns:
        Its index.

    Raises:
        InputError: no such op; the nearest name is given.

    Example:
        >>> op_index("Rotate")
        4
    """
    if name not in OPS:
        raise unknown_name("op", name, OPS)
    return OPS.index(name)


def op_values(op: Tensor, magnitude: Tensor, policy: str) -> Tensor:
    r"""Value of each op at its magnitude: :math:`v_{min} + (v_{max} - v_{min}) m / 30`.

    Args:
        op: (R,) int64 rows of the table.
        magnitude: (R,) float32 in [0, 30].
        policy: ``"reference"`` or ``"monotone"``.

    Returns:
        (R,) float64, so that thresholds and pixel positions fall as in the released code.
    """
    table = constant(RANGES[policy], op, torch.float64)  # (15, 2)
    low, high = table[:, 0][op], table[:, 1][op]
    return magnitude.to(torch.float64) / MAX_MAGNITUDE * (high - low) + low


def check_magnitudes(low: float | None, high: float | None) -> None:
    """Refuse magnitudes outside [0, 30] or in the wrong order; None is not checked."""
    for value in (low, high):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"a magnitude must be a number in [0, 30], got {value!r}.")
    low, high = 0.0 if low is None else low, MAX_MAGNITUDE if high is None else high
    if not 0 <= low <= high <= MAX_MAGNITUDE:
        raise InputError(
            f"magnitudes must satisfy 0 <= min_magnitude <= max_magnitude <= 30, got {low!r} and "
            f"{high!r}; the released code uses 10..30 (k = 1), 5..30 (k = 2) and 0..30 (ImageNet)."
        )
