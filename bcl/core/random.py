"""Randomness as a function of its keys, without generator state.

The same keys give the same numbers on every device, rank and worker, before and after a resume.
"""

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _as_signed(value: int) -> int:
    """Fold a Python integer of any size into the signed 64-bit range."""
    # No arithmetic where none is needed: torch.compile could not do it within 64 bits.
    if -(2**63) <= value < 2**63:
        return value
    return (value + 2**63) % 2**64 - 2**63


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic on signed integers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Finalizer of SplitMix64: every input bit reaches every output bit."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def hash64(*keys: int | Tensor, device: torch.device | str | None = None) -> Tensor:
    """Hash broadcast integer keys to 64 random bits each.

    Args:
        keys: integers or int64 tensors, broadcast against one another; their order matters.
        device: of the result, when all keys are plain integers.

    Returns:
        int64 tensor of the broadcast shape.

    Example:
        >>> hash64(0, torch.arange(3)).equal(hash64(0, torch.arange(3)))
        True
    """
    where = next((key.device for key in keys if isinstance(key, Tensor)), device)
    state = torch.zeros((), dtype=torch.int64, device=where)
    for key in keys:
        value = key.to(torch.int64) if isinstance(key, Tensor) else _as_signed(key)
        state = _mix((state ^ value) + _GOLDEN)
    return state


def hash64_of(*keys: int) -> int:
    """Return `hash64` of plain integers as a plain integer.

    Example:
        >>> hash64_of(3, -1) == int(hash64(3, -1))
        True
    """
    state = 0
    for key in map(int, keys):  # NumPy's integers would overflow
        state = ((state ^ key) + _GOLDEN) % 2**64
        for shift, factor in ((30, _MIX_1), (27, _MIX_2), (31, 1)):
            state = (state ^ (state % 2**64 >> shift)) * factor % 2**64
    return _as_signed(state)


def uniform(*keys: int | Tensor, device: torch.device | str | None = None) -> Tensor:
    """Draw uniform float32 numbers in [0, 1), 24 random bits each, as a function of the keys.

    Args:
        keys: as in `hash64`, for example ``seed, epoch, ids, view, stream``.
        device: of the result, when all keys are plain integers.

    Returns:
        float32 tensor of the broadcast shape.

    Example:
        >>> u = uniform(0, torch.arange(1000))
        >>> bool((u >= 0).all() and (u < 1).all())
        True
    """
    bits = _shift_right(hash64(*keys, device=device), 40)
    return bits.to(torch.float32) * 2.0**-24


def permutation(n: int, *keys: int, device: torch.device | str | None = None) -> Tensor:
    """Draw a random order (n,) int64 of ``0 .. n-1``; keys as in `hash64`."""
    index = torch.arange(n, dtype=torch.int64, device=device)
    # Stable sort: equal hashes (one chance in 2**64 per pair) keep the same order everywhere.
    return torch.sort(hash64(*keys, index), stable=True).indices
