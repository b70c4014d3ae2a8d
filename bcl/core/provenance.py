"""What a number was made with: versions, commit, hardware."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from bcl.core.machine import usable_cores

PACKAGES = ("bcl-cacr", "torch", "pytorch-lightning", "torchvision", "timm", "torchmetrics")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter to a result.

    Example:
        >>> torch.__version__.startswith(versions()["torch"])  # torch may add its build
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
    r"""Return the commit of the running source, ``-dirty`` if changed; without git, the release.

    Example:
        >>> import re
        >>> bool(re.search(r"[0-9a-f]{12}(-dirty)?$|^(release |v)\d", commit()))
        True
    """
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
            return answer.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return f"release {versions().get('bcl-cacr', 'unknown')}"


def hardware() -> str:
    r"""Describe processor, its widest vectors, usable cores and accelerators in one line.

    Example:
        >>> import re
        >>> bool(re.fullmatch(r".+, [1-9]\d* cores( \+ [1-9]\d* × .+)?", hardware()))
        True
    """
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        name = next(models, name)
    text = f"{name} ({torch.backends.cpu.get_cpu_capability()}), {usable_cores()} cores"
    if torch.cuda.is_available():
        text += f" + {torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}"
    return text


def plain(value: Any) -> Any:
    """Convert to JSON's types, which a checkpoint may hold; other objects become their text.

    Example:
        >>> plain({"size": (8, 8), "norm": dict})
        {'size': [8, 8], 'norm': "<class 'dict'>"}
    """
    return json.loads(json.dumps(value, default=repr))
