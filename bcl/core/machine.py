"""The machine that runs."""

import atexit
import ctypes
import gc
import os
import sys
from typing import Any

from bcl.core.errors import InputError
from bcl.core.lazy import defer_scipy_signal, end_deferral

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # options of glibc's mallopt
_loading: list[bool] = []  # not empty between `own_process` and `loaded`


def usable_cores() -> int:
    """Count the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_text(device: Any, processes: int = 1) -> str:
    """``cpu (2 cores)`` or ``cuda:0 (NVIDIA H200)``, and the processes if there are several."""
    import torch

    kind = torch.device(device)
    name = torch.cuda.get_device_name(kind) if kind.type == "cuda" else f"{usable_cores()} cores"
    return f"{kind} ({name})" + (f" in {processes} processes" if processes > 1 else "")


def usable_device(name: str | None) -> str:
    """The device of this name, by default a GPU if there is one.

    Raises:
        InputError: it cannot be used here.
    """
    import torch

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        cause = str(error).partition("\n")[0].rstrip(".")
        if cause.startswith(("Expected one of", "Invalid device string")):
            raise InputError(f"no device is named '{device}'; write cuda, cuda:1 or cpu.") from None
        raise InputError(f"--device {device} cannot be used here: {cause}.") from error
    return device


def fast_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16; elsewhere it is slower than float32."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:  # not Linux
        return False
    return bool({"amx_bf16", "avx512_bf16"} & set(flags))


def own_process() -> None:
    """Settle the memory of a process that runs one command.

    Memory of freed tensors is kept. Python does not search for garbage while libraries are loaded,
    of whose 800,000 objects none is (`loaded` ends that), nor at the end.
    """
    keep_freed_memory()
    defer_scipy_signal()
    gc.disable()
    _loading.append(True)
    atexit.register(gc.freeze)


def loaded() -> None:
    """Search for garbage again after `own_process`, but not among what is there by now."""
    if _loading:
        end_deferral()
        _loading.clear()
        gc.freeze()
        gc.enable()


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors, for the next step to take up again.

    glibc returns each large block to the system at once, which then has to map and to zero it
    anew, which takes a large part of a small training step. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_MMAP_MAX, 0)  # large blocks come from the heap as well
        mallopt(_TRIM_THRESHOLD, -1)  # whose end is never returned
