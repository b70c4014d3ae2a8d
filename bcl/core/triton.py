"""Where our Triton kernels can run."""

import functools
import importlib.util

import torch
from torch import Tensor


@functools.cache
def _is_supported(device: torch.device) -> bool:
    # Older GPUs are unknown to the Triton versions that come with PyTorch.
    known = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (7, 5)
    return known and importlib.util.find_spec("triton") is not None


def runs_triton(x: Tensor) -> bool:
    """Whether kernels can work on ``x``: it lies on a GPU that Triton supports."""
    return (
        x.device.type == "cuda"
        and type(x) is Tensor  # a fake tensor, as when memory is planned, has no values
        and not torch.compiler.is_compiling()
        and _is_supported(x.device)
    )
