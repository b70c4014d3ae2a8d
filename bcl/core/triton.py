"""Where our Triton kernels can run."""

import functools
import importlib.util

import torch
from torch import Tensor


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _is_new_enough(device: torch.device) -> bool:
    # Older ones are unknown to the Triton versions that come with PyTorch.
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (7, 5)


def runs_triton(x: Tensor) -> bool:
    """Whether kernels can work on ``x``: values that lie on a GPU that Triton knows."""
    return (
        x.device.type == "cuda"
        and type(x) is Tensor  # not one without values, as when memory is planned
        and not torch.compiler.is_compiling()
        and _has_triton()
        and _is_new_enough(x.device)
    )
