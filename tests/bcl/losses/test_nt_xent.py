"""NT-Xent against golden values, explicit loops, its laws and bad input."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN
from tensors import pair

from bcl import InputError, NTXentLoss, nt_xent

BUNDLED = GOLDEN
TEMPERATURES = {
    "a number": 0.3,
    "low": 0.015,  # rows, since unshifted exponentials would leave float32
    "to learn": torch.tensor(0.3).double(),
    "per sample": torch.linspace(0.2, 0.9, 7).double(),
}
CHUNKS = [0, 1, 5, None]  # dense, one row, blocks that do not divide the rows, kept


def check_golden(folder, case, chunk_size):
    data = np.load(folder / "nt_xent.npz")
    z1, z2 = (torch.from_numpy(data[f"{case}_z{i}"]).requires_grad_() for i in (1, 2))
    temperature = float(data[f"{case}_temperature"])
    losses = nt_xent(z1, z2, temperature, reduction="none", chunk_size=chunk_size)
    np.testing.assert_allclose(losses.detach(), data[f"{case}_loss_per_sample"], rtol=1e-12)
    losses.mean().backward()
    for i, z in ((1, z1), (2, z2)):
        np.testing.assert_allclose(z.grad, data[f"{case}_grad_z{i}_of_mean"], rtol=0, atol=1e-15)


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("case", "ac")
def test_golden_losses_and_gradients(case, chunk_size):
    check_golden(BUNDLED, case, chunk_size)


@pytest.mark.parametrize("chunk_size", [0, 40])
@pytest.mark.parametrize("case", "abcd")
def test_all_golden_losses_and_gradients(golden, case, chunk_size):
    check_golden(golden, case, chunk_size)


def by_loops(z1, z2, temperature, focal=0.0):
    """Per-sample loss straight from the formula, one number at a time."""
    views = [torch.nn.functional.normalize(z, dim=1) for z in (z1, z2)]
    losses = []
    for i in range(len(z1)):
        parts = []
        for v in (0, 1):
            tau = temperature[i] if getattr(temperature, "ndim", 0) else temperature
            similar = (views[v][i] @ views[1 - v][i]) / tau
            everyone = [similar]
            for j in range(len(z1)):
                if j != i:
                    everyone.append((views[v][i] @ views[1 - v][j]) / tau)
                    everyone.append((views[v][i] @ views[v][j]) / tau)
            probability = similar.exp() / sum(value.exp() for value in everyone)
            parts.append(-((1 - probability) ** focal) * probability.log())
        losses.append(sum(parts) / len(parts))
    return torch.stack(losses)


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("focal", [0.0, 2.0])
@pytest.mark.parametrize("temperature", TEMPERATURES.values(), ids=TEMPERATURES)
def test_every_form_matches_explicit_loops(temperature, focal, chunk_size):
    z1, z2 = pair()
    losses = nt_xent(z1, z2, temperature, focal=focal, reduction="none", chunk_size=chunk_size)
    expected = by_loops(z1, z2, temperature, focal)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-14)


def test_the_module_is_the_function_and_takes_a_temperature_for_a_call():
    views = torch.stack(pair())
    options = {"focal": 2.0, "reduction": "sum", "normalize": False, "chunk_size": 3}
    loss = NTXentLoss(0.3, **options)
    assert loss(views / 9).equal(nt_xent(*views / 9, 0.3, **options))
    assert loss(views, temperature=0.5).equal(nt_xent(*views, 0.5, **options))
    function, module = (inspect.signature(each).parameters for each in (nt_xent, NTXentLoss))
    assert list(function.values())[3:] == list(module.values())[1:]  # same names and defaults
    assert "temperature=0.3" in repr(NTXentLoss(0.3))
    assert NTXentLoss().state_dict() == {}


def test_reductions_agree():
    z1, z2 = pair()
    losses = nt_xent(z1, z2, reduction="none")
    assert losses.shape == (7,)
    torch.testing.assert_close(nt_xent(z1, z2), losses.mean())
    torch.testing.assert_close(nt_xent(z1, z2, reduction="sum"), losses.sum())


@pytest.mark.parametrize("chunk_size", [0, 3])
def test_a_detached_branch_gets_no_gradient_and_the_other_all_of_its_own(chunk_size):
    z1, z2 = (z.requires_grad_() for z in pair())
    nt_xent(z1, z2, chunk_size=chunk_size).backward()
    whole = z1.grad.clone()
    z1.grad = z2.grad = None
    nt_xent(z1, z2.detach(), chunk_size=chunk_size).backward()
    assert z2.grad is None
    torch.testing.assert_close(z1.grad, whole)


@pytest.mark.parametrize("chunk_size", [0, 3])
def test_a_temperature_can_be_learned(chunk_size):
    z1, z2 = pair()
    for shape in ((), (7,)):
        temperature = torch.full(shape, 0.3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda t: nt_xent(z1, z2, t, chunk_size=chunk_size), temperature
        )


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(1, 6), st.floats(0.03, 3), st.integers(0, 10**6))
def test_laws(batch, dim, temperature, seed):
    z1, z2 = pair(batch, dim, seed=seed)
    losses = nt_xent(z1, z2, temperature, reduction="none")
    assert bool((losses > -1e-12).all())  # above 0 but for rounding
    order = torch.randperm(batch)
    permuted = nt_xent(z1[order], z2[order], temperature, reduction="none", chunk_size=2)
    torch.testing.assert_close(permuted, losses[order], rtol=1e-9, atol=1e-12)
    swapped = nt_xent(z2, z1, temperature, reduction="none")
    torch.testing.assert_close(swapped, losses, rtol=1e-9, atol=1e-12)
    scales = torch.logspace(-3, 3, batch, dtype=torch.float64)[:, None]
    scaled = nt_xent(z1 * scales, z2 / scales, temperature, reduction="none")
    torch.testing.assert_close(scaled, losses, rtol=1e-9, atol=1e-12)


def test_limits_of_the_temperature():
    z1, z2 = pair(6)
    hot = nt_xent(z1, z2, 1e6, reduction="none")
    torch.testing.assert_close(hot, torch.full_like(hot, math.log(11)), rtol=1e-5, atol=0)
    aligned = torch.eye(6, dtype=torch.float64)
    assert nt_xent(aligned, aligned, 0.01).item() < 1e-40


HARD = {
    "identical": lambda: (torch.ones(4, 3), torch.ones(4, 3)),
    "opposite": lambda: (torch.ones(4, 3), -torch.ones(4, 3)),
    "zero": lambda: (torch.zeros(4, 3), torch.zeros(4, 3)),
    "one zero row": lambda: (torch.eye(4), torch.eye(4) * torch.tensor([[0.0], [1], [1], [1]])),
    "huge": lambda: (1e30 * torch.randn(4, 3), 1e38 * torch.rand(4, 3)),
    "tiny": lambda: (1e-30 * torch.randn(4, 3), 1e-38 * torch.rand(4, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1e-3, 0.011, 0.05, 0.2])
@pytest.mark.parametrize("chunk_size", [0, 3])
@pytest.mark.parametrize("name", HARD)
def test_hard_vectors_give_finite_losses_and_gradients(name, chunk_size, temperature, dtype):
    torch.manual_seed(0)
    largest = torch.finfo(dtype).max
    z1, z2 = (z.clamp(-largest, largest).to(dtype).requires_grad_() for z in HARD[name]())
    for focal in (0.0, 2.0):
        losses = nt_xent(z1, z2, temperature, reduction="none", chunk_size=chunk_size, focal=focal)
        assert losses.dtype == torch.float32
        assert bool(losses.isfinite().all())
        grads = torch.autograd.grad(losses.mean(), (z1, z2))
        if name != "tiny":  # the gradient of a direction is the inverse of the length
            assert all(bool(g.isfinite().all()) for g in grads)
    if name == "identical":
        torch.testing.assert_close(
            nt_xent(z1, z2, temperature),
            torch.tensor(math.log(7)),
            rtol=0,
            atol=1e-6 / temperature,  # float32 rounds logits of 1 / temperature
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("chunk_size", [0, 3])
def test_half_precision_at_a_low_temperature_is_as_good_as_its_input(dtype, chunk_size):
    z1, z2 = (z.to(dtype) for z in pair(16, 8))
    exact = nt_xent(z1.double(), z2.double(), 0.05, reduction="none")
    losses = nt_xent(z1, z2, 0.05, reduction="none", chunk_size=chunk_size)
    torch.testing.assert_close(losses, exact.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("chunk_size", [0, 3])
def test_autocast_lowers_nothing(dtype, chunk_size):
    z1, z2 = (z.float().requires_grad_() for z in pair(16, 8))
    outside = torch.autograd.grad(nt_xent(z1, z2, 0.05, chunk_size=chunk_size), (z1, z2))
    with torch.autocast("cpu", dtype=dtype):
        loss = nt_xent(z1, z2, 0.05, chunk_size=chunk_size)
        if chunk_size:  # blocks keep their precision even where the backward pass is not outside
            inside = torch.autograd.grad(loss, (z1, z2))
    if not chunk_size:
        inside = torch.autograd.grad(loss, (z1, z2))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(inside, outside, rtol=1e-6, atol=1e-7)


BAD = [
    (lambda z: nt_xent(z[None], z), r"z1 must be of shape \(B, D\)"),
    (lambda z: nt_xent(z, z[:3]), "samples in the same order"),
    (lambda z: nt_xent(z, z[:, :2]), "width 3 and z2 2"),
    (lambda z: nt_xent(z, z.to("meta")), r"z2 on meta; move one with z2.to\(z1.device\)"),
    (lambda z: nt_xent(z.long(), z), "floating point"),
    (lambda z: nt_xent([1.0], z), r"z1 must be of shape \(B, D\).*got \(1,\)"),
    (lambda z: nt_xent(z[:1], z[:1]), "at least 2. Use drop_last=True"),
    (lambda z: nt_xent(z[:, :0], z[:, :0]), "z1 must be of shape"),
    (lambda z: nt_xent(z, z, 0.0), "temperature must be a finite number above 0, got 0.0"),
    (lambda z: nt_xent(z, z, -0.2), "temperature"),
    (lambda z: nt_xent(z, z, float("nan")), "temperature"),
    (lambda z: nt_xent(z, z, torch.full((4,), -1.0)), "temperature"),
    (lambda z: nt_xent(z, z, torch.tensor([0.2, 0.2, 0.2, torch.inf])), "finite number above 0"),
    (lambda z: nt_xent(z, z, [0.2] * 4), "several as a tensor"),
    (lambda z: nt_xent(z, z, torch.ones(3)), r"of shape \(B,\) = \(4,\), got \(3,\)"),
    (lambda z: nt_xent(z, z, reduction="avg"), "unknown reduction 'avg'"),
    (lambda z: nt_xent(z, z, focal=0.5), "focal must be 0"),
    (lambda z: nt_xent(z, z, focal=-1), "focal must be 0"),
    (lambda z: nt_xent(z, z, focal="a"), "focal must be 0 .* got 'a'"),
    (lambda z: nt_xent(z, z, chunk_size=-1), "chunk_size"),
    (lambda z: nt_xent(z, z, chunk_size=2.0), "chunk_size"),
    (lambda z: NTXentLoss()(z), r"views must be of shape \(2, B, D\).*got \(4, 3\)"),
    (lambda z: NTXentLoss()(torch.stack([z, z, z])), "use cacr.CACRLoss"),
    (lambda z: NTXentLoss()([z, z[:2]]), "views must be a tensor, an array or a list"),
    (lambda z: NTXentLoss()(z, z[:2]), "z1 and z2 must both be of shape"),
    (lambda z: NTXentLoss()(torch.stack([z, z]), temperature=-1.0), "temperature"),
    (
        lambda z: NTXentLoss()(torch.stack([z, z]), torch.ones(3)),
        r"of shape \(B,\) = \(4,\)",
    ),
    (lambda z: NTXentLoss(temperature=-1), "temperature"),
    (lambda z: NTXentLoss(temperature="0.2"), "temperature must be .*got '0.2'"),
    (lambda z: NTXentLoss(reduction="avg"), "unknown reduction 'avg'"),
    (lambda z: NTXentLoss(focal=0.5), "focal must be 0"),
    (lambda z: NTXentLoss(chunk_size=-1), "chunk_size"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(torch.eye(4)[:, :3] + 0.1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("chunk_size", [0, 3])
def test_values_that_are_not_finite_show_in_the_loss(bad, chunk_size):
    z1, z2 = pair()
    z1[2, 1] = bad
    assert bool(nt_xent(z1, z2, chunk_size=chunk_size).isnan())


def test_unit_rows_can_be_taken_as_they_are():
    z1, z2 = (torch.nn.functional.normalize(z) for z in pair())
    torch.testing.assert_close(nt_xent(z1, z2, normalize=False), nt_xent(z1, z2))


def test_a_setting_that_changes_is_followed():
    loss, z = NTXentLoss(), torch.randn(2, 4, 8)
    loss.reduction = "none"
    assert loss(z).shape == (4,)
