"""What a number was made with: versions, commit, hardware."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("bcl-cacr", "torch", "pytorch-lightning", "torchvision", "timm", "torchmetrics")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter to a result.

    Example:
        >>> torch.__version__.startswith(versions()["torch"])  # which may name its build besides
        True
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    r"""Commit of the source that runs, ``-dirty`` if it was changed; else the release.

    Example:
        >>> import re
        >>> bool(re.search(r"[0-9a-f]{12}(-dirty)?$|^(release |v)\d", commit()))
        True
    """
    root = Path(__file__).resolve().parent.parent
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            return answer.stdout.strip()
    return f"release {versions().get('bcl-cacr', 'unknown')}"


def hardware() -> str:
    r"""Processor, usable cores and accelerators in one line.

    Example:
        >>> import re
        >>> bool(re.fullmatch(r".+, [1-9]\d* cores( \+ [1-9]\d* × .+)?", hardware()))
        True
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    parts = [f"{name}, {cores} cores"]
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        parts.append(f"{count} × {torch.cuda.get_device_name(0)}")
    return " + ".join(parts)


def plain(value: Any) -> Any:
    """Values that a checkpoint may hold; a class or a tensor among them becomes its text.

    Example:
        >>> plain({"size": (8, 8), "norm": dict})
        {'size': [8, 8], 'norm': "<class 'dict'>"}
    """
    return json.loads(json.dumps(value, default=repr))
