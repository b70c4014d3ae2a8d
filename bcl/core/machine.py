"""The machine that runs."""

import os


def usable_cores() -> int:
    """Count the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fast_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16; elsewhere it is slower than float32."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:  # not Linux
        return False
    return bool({"amx_bf16", "avx512_bf16"} & set(flags))
