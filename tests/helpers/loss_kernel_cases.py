"""The kernels of `bcl.losses.fused` against the dense form, in values and gradients.

On a GPU: ``pytest tests/helpers/loss_kernel_cases.py``. Elsewhere Triton interprets the kernels if
``TRITON_INTERPRET=1`` is set before it is loaded, as tests/bcl/losses/test_fused.py does.
"""

import sys
from contextlib import nullcontext

import pytest
import torch
from ranks import pool
from tensors import features, pair
from torch.utils._python_dispatch import TorchDispatchMode

from bcl import NTXentLoss, SimilarityTemperature, nt_xent
from bcl.losses import contrastive_signals, fused
from bcl.losses.blocks import row_stats
from bcl.losses.dense import Sums
from bcl.losses.signals import nt_xent_with_signals
from cacr import cacr_terms

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """Let the interpreter stand in for a GPU, in few programs; count the launches."""
    if DEVICE == "cpu":
        monkeypatch.setattr(fused, "runs_triton", lambda x: True)
        monkeypatch.setattr(fused, "_PROGRAMS", 1)
        monkeypatch.setattr(torch.cuda, "device", lambda x: nullcontext())
    calls = []
    for name in ("_stats", "_gradient"):
        launch = getattr(fused, name)
        monkeypatch.setattr(
            fused, name, lambda *a, _f=launch, _n=name, **k: calls.append(_n) or _f(*a, **k)
        )
    return calls


def value_and_grads(loss_of, *inputs, **options):
    inputs = [x.detach().to(DEVICE).requires_grad_() for x in inputs]
    losses = loss_of(*inputs, reduction="none", **options)
    weights = torch.linspace(0.5, 2, len(losses), device=DEVICE)
    return losses.detach(), torch.autograd.grad((losses * weights).sum(), inputs)


def compare(loss_of, *inputs, largest=1.0, **options):
    """Assert what tests/bcl/losses/test_blocks.py asserts of the blocks."""
    found, grads = value_and_grads(loss_of, *inputs, **options)
    dense, dense_grads = value_and_grads(loss_of, *inputs, chunk_size=0, **options)
    assert found.dtype == dense.dtype == torch.float32
    assert (found - dense).abs().max() <= 1e-6 * max(dense.abs().max(), largest)
    for grad, wanted in zip(grads, dense_grads, strict=True):
        assert grad.dtype == wanted.dtype
        rounding = 1e-6 if grad.dtype == torch.float32 else torch.finfo(grad.dtype).eps
        assert (grad - wanted).norm() <= rounding * max(largest, 10) * wanted.norm()


@pytest.mark.parametrize(
    ("temperature", "largest"),
    [
        (0.2, 5),
        (0.03, 33),
        (SimilarityTemperature(0.1, 0.2), 10),
        (SimilarityTemperature(0.1, 0.2, 0.4, 0.7), 10),
    ],
)
def test_nt_xent_on_one_rank(launched, temperature, largest):
    compare(nt_xent, *pair(35, 24, torch.float32), temperature=temperature, largest=largest)
    assert launched == ["_stats", "_gradient"]  # the matrix is symmetric


@pytest.mark.parametrize(
    ("settings", "largest"),
    [
        ({"temperature": 0.01}, 100),
        ({"temperature": torch.linspace(0.1, 0.5, 9).to(DEVICE)}, 10),
        ({"temperature": 4.0, "normalize": False, "focal": 2.0}, 10),
        ({"temperature": SimilarityTemperature(0.01, 0.2)}, 100),
    ],
)
def test_nt_xent_row_by_row(launched, settings, largest):
    z1, z2 = pair(9, 40, torch.float32)
    # As near to a negative as to the positive; else the loss is 1e-5, and its gradient rounding.
    compare(nt_xent, z1, z2 + z1.roll(1, 0), largest=largest, **settings)
    assert launched == 2 * ["_stats"] + 4 * ["_gradient"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(launched, dtype):
    compare(nt_xent, *pair(9, 5, dtype), largest=5)
    assert launched == ["_stats", "_gradient"]


def test_two_samples():
    compare(nt_xent, *pair(2, 1, torch.float32), largest=5)


SUMS = {
    "sum": Sums(),
    "ranks": Sums(3.0, skip=20),  # a rank's rows among the columns of all ranks
    "cost": Sums(0.7, skip=3, cost=True),
    "distance": Sums(1.4, skip=3, distance=True, cost=True),
    "exponential": Sums(-0.7, skip=0, distance=True, cost=True, rate=0.4),
    "constant": Sums(-0.7, skip=0, cost=True, rate=-0.4, constant=40),
}


@pytest.mark.parametrize("sums", SUMS.values(), ids=SUMS)
def test_row_stats_of_segments(launched, monkeypatch, sums):
    monkeypatch.setattr(fused, "_PART", 16)  # so that a gradient takes two programs
    check_row_stats(sums, segments=2, bank=None)
    assert launched == ["_stats", "_gradient", "_gradient"]


@pytest.mark.parametrize("name", ["ranks", "distance", "constant"])
def test_row_stats_with_a_bank(name):
    check_row_stats(SUMS[name], segments=1, bank=torch.randn(29, 20))


def test_one_key_and_only_the_gradient_that_is_wanted(launched):
    x, y = torch.randn(3, 4, device=DEVICE), torch.randn(1, 1, 4, device=DEVICE)
    for sums in (Sums(2.0), Sums(2.0, distance=True, cost=True), Sums(2.0, skip=0)):
        dense = row_stats(x, y, sums, 0)
        torch.testing.assert_close(row_stats(x, y, sums)[0][1:], dense[0][1:])  # row 0 may be empty
    launched.clear()
    row_stats(x, y.requires_grad_(), Sums(2.0))[0].sum().backward()
    assert launched == ["_stats", "_gradient"]


def check_row_stats(sums, segments, bank):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(33, 20, generator=generator)
    y = torch.randn(segments, 70, 20, generator=generator)
    x, y = (z.mul_(0.3).to(DEVICE).requires_grad_() for z in (x, y))
    bank = None if bank is None else bank.mul(0.3).to(DEVICE)
    found, dense = row_stats(x, y, sums, bank=bank), row_stats(x, y, sums, 0, bank)
    torch.testing.assert_close(found, dense, rtol=1e-6, atol=2e-6)
    upstream = [torch.randn(33, segments, generator=generator).to(DEVICE) for _ in range(2)]
    used = 2 if sums.cost else 1
    grads = [torch.autograd.grad(s[:used], (x, y), upstream[:used]) for s in (found, dense)]
    for grad, wanted in zip(*grads, strict=True):
        assert (grad - wanted).norm() <= 2e-6 * wanted.norm()


QUEUE, KEYS = features(1, 37, 24, seed=1)[0].float(), features(3, 33, 24, seed=2).float()
FORMS = {
    "views": {},
    "rbf": {"cost": "rbf"},
    "debiased": {"debias": 0.1},
    "queue released": {"negatives": QUEUE, "keys": KEYS, "constant_weights": "queue"},
    "teacher": {"keys": KEYS},
    "teacher rbf": {"keys": KEYS, "cost": "rbf"},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_cacr(launched, form):
    def loss_of(z, **options):
        return sum(cacr_terms(z, **options))

    form = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in form.items()}
    compare(loss_of, features(3, 33, 24).float(), **form)
    assert {"_stats", "_gradient"} == set(launched)


def test_the_signals_share_their_logits_with_the_loss(launched):
    views = torch.stack(pair(9, 5, torch.float32)).to(DEVICE).requires_grad_()
    loss, signals = nt_xent_with_signals(NTXentLoss(0.2, reduction="none"), views)
    torch.testing.assert_close(loss, nt_xent(*views, chunk_size=0, reduction="none"))
    torch.testing.assert_close(signals, contrastive_signals(*views.detach()))
    wanted = torch.autograd.grad(nt_xent(*views, chunk_size=0), views)[0]
    launched.clear()
    torch.testing.assert_close(torch.autograd.grad(loss.mean(), views)[0], wanted)
    assert launched == ["_gradient"]


def test_bad_values_become_nan_and_second_derivatives_are_those_of_the_dense_form():
    z1, z2 = (z.to(DEVICE).requires_grad_() for z in pair(4, 3, torch.float32))
    second = []
    for chunk_size in (None, 0):
        loss = nt_xent(z1, z2, 0.4, chunk_size=chunk_size)
        (grad,) = torch.autograd.grad(loss, z1, create_graph=True)
        second.append(torch.autograd.grad(grad.square().sum(), (z1, z2)))
    torch.testing.assert_close(*second)
    bad = z1.detach().clone()
    bad[1, 1] = torch.nan
    assert nt_xent(bad, z2.detach(), reduction="none").isnan().all()


SPLIT = (5, 4)  # samples of each rank
ON_RANKS = {
    "nt_xent": lambda z, **o: nt_xent(z[0], z[1], **o),
    "by cosine": lambda z, **o: nt_xent(z[0], z[1], SimilarityTemperature(0.1, 0.2), **o),
    "cacr": lambda z, **o: sum(cacr_terms(z, QUEUE[:, :5], **o)),
}


def on_a_rank(rank, name):
    fused.runs_triton = lambda x: True
    torch.cuda.device = lambda x: nullcontext()
    z = torch.stack(pair(9, 5, torch.float32)).split(SPLIT, 1)[rank].clone().requires_grad_()
    value = ON_RANKS[name](z)
    assert "bcl.losses.kernel" in sys.modules
    return value.detach(), torch.autograd.grad(value, z)[0]


@pytest.mark.skipif(DEVICE == "cuda", reason="gloo's ranks are on the CPU, which takes no kernels")
@pytest.mark.parametrize("name", ON_RANKS)
def test_two_ranks_give_the_whole_batch(name):
    values, grads = zip(*pool(2).run(on_a_rank, name), strict=True)
    z = torch.stack(pair(9, 5, torch.float32)).requires_grad_()
    whole = ON_RANKS[name](z, chunk_size=0)
    torch.testing.assert_close(torch.stack(values).mean(), whole.detach(), rtol=1e-6, atol=1e-6)
    wanted = torch.autograd.grad(whole, z)[0]
    assert (torch.cat(grads, 1) / 2 - wanted).norm() <= 1e-5 * wanted.norm()


class Largest(TorchDispatchMode):
    """Note the largest tensor that an operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else [made]:
            self.numel = max(self.numel, getattr(each, "numel", int)())
        return made


def test_no_tensor_grows_with_the_square_of_the_batch():
    z = torch.randn(2, 130, 4, device=DEVICE).requires_grad_()
    for loss_of in (nt_xent, lambda a, b: sum(cacr_terms(torch.stack([a, b])))):
        with Largest() as mode:
            loss_of(*z).backward()
        assert mode.numel <= 4 * z.numel()  # as many bytes; the interpreter copies these


@pytest.mark.skipif(DEVICE == "cpu", reason="an interpreter does all in turn")
def test_results_repeat_to_the_bit():
    z = pair(3000, 128, torch.float32)
    first = value_and_grads(nt_xent, *z)
    for _ in range(5):
        again = value_and_grads(nt_xent, *z)
        assert first[0].equal(again[0])
        assert all(a.equal(b) for a, b in zip(first[1], again[1], strict=True))
