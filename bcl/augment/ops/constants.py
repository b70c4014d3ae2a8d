"""Constants on the device of a tensor."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def constant(values: Sequence[Any], like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Put a few numbers on the device of ``like``, which the host does not wait for.

    ``torch.tensor(values, device="cuda")`` and ``Tensor.new_tensor`` wait until the device has
    done all that it was given; this copy does not, and CUDA has read so few bytes when it returns.

    Args:
        values: numbers, nested as for ``torch.tensor``.
        like: a tensor of the device.
        dtype: of the result.

    Returns:
        The tensor.

    Example:
        >>> constant([1, 2], torch.zeros(3))
        tensor([1., 2.])
    """
    # On the CPU whatever torch.set_default_device says.
    return torch.tensor(values, dtype=dtype, device="cpu").to(like.device, non_blocking=True)
