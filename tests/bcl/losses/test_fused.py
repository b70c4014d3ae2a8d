"""The losses' kernels, interpreted: what they compute, without a GPU."""

import importlib.util
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from places import HELPERS, ROOT

from bcl import NTXentLoss, SimilarityTemperature
from bcl.losses import fused
from bcl.losses.temperatures import Reciprocal
from cacr import CACRLoss


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


class Recorder:
    """Stands in for a kernel, and notes its launches."""

    def __init__(self, kernel, calls):
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid):
        return lambda *args, **options: self.calls.append((self.kernel, args, options))


def compiled(kernel, args, options):
    """Compile a launch for a GPU that need not be here."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    given = dict(zip(kernel.arg_names, args, strict=False)) | options
    warps = given.pop("num_warps")
    fixed = {p.name for p in kernel.params if p.is_constexpr}
    fixed |= {name for name, value in given.items() if type(value) is int and value == 1}
    types = {torch.Tensor: "*fp32", int: "i32", float: "fp32"}
    signature = {
        name: "constexpr" if name in fixed else types[type(given[name])]
        for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature, constexprs={name: given[name] for name in fixed})
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": warps})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "views", "batch", "dim", "launches"),
    [
        (NTXentLoss(), 2, 8192, 128, 2),  # as many rows as fill a GPU
        (NTXentLoss(SimilarityTemperature(0.1, 0.2, 0.4)), 2, 2, 1, 2),
        (NTXentLoss(0.01), 2, 40, 30, 6),  # row by row
        (CACRLoss(), 2, 600, 64, 3),
        (CACRLoss(cost="rbf"), 3, 600, 512, 6),
    ],
    ids=["large", "small", "rows", "cacr", "cacr rbf"],
)
def test_launches_compile_for_a_gpu(monkeypatch, loss, views, batch, dim, launches):
    pytest.importorskip("triton", minversion="3.3")  # whose compiler takes these arguments
    from bcl.losses import kernel

    calls = []
    for name in ("stats_kernel", "gradient_kernel"):
        monkeypatch.setattr(kernel, name, Recorder(getattr(kernel, name), calls))
    monkeypatch.setattr(fused, "runs_triton", lambda x: True)
    monkeypatch.setattr(torch.cuda, "device", lambda x: nullcontext())
    loss(torch.randn(views, batch, dim).requires_grad_()).sum().backward()
    assert len(calls) == launches
    for launch in calls:
        assert compiled(*launch).metadata.shared <= 2**16  # what every GPU has


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
