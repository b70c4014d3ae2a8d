"""The losses' kernels, interpreted: what they compute, without a GPU."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from places import HELPERS, ROOT

from bcl import SimilarityTemperature
from bcl.losses import fused
from bcl.losses.temperatures import Reciprocal


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(
    torch.cuda.is_available(), reason="tests/integration/test_cuda.py runs them on the GPU itself"
)
@pytest.mark.parametrize("part", ["nt_xent", "row_stats", "not (nt_xent or row_stats)"])
def test_kernels_give_the_losses_of_the_dense_form(part):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, str(HELPERS / "loss_kernel_cases.py"), "-k", part],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_what_kernels_take(monkeypatch):
    x = torch.ones(2, 3)
    assert not fused.takes(x, 1.0)  # no GPU
    monkeypatch.setattr(fused, "runs_triton", lambda x: True)
    assert fused.takes(x, 1.0)
    assert fused.takes(x, Reciprocal(SimilarityTemperature(0.1, 0.2)))
    assert not fused.takes(x, Reciprocal(torch.exp))
    assert not fused.takes(x.double(), 1.0)
    assert not fused.takes(x[:0], 1.0)


def test_products_are_as_exact_as_those_of_pytorch():
    assert fused._precision() == "ieee"
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        assert fused._precision() == "tf32"
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
