"""Triton's kernels, interpreted: what they compute, without a GPU."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from places import HELPERS, ROOT


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(
    torch.cuda.is_available(), reason="tests/helpers/kernel_cases.py runs on the GPU itself"
)
@pytest.mark.parametrize(
    "part", ["draws or op", "views_are_the_same", "not (draws or op or views_are_the_same)"]
)
def test_kernels_give_the_views_of_pytorch(part):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, str(HELPERS / "kernel_cases.py"), "-k", part],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
