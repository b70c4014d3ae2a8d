"""MACL against check values, its formula and bad input."""

import inspect

import pytest
import torch
from tensors import check_features, pair

from bcl import InputError, MACLLoss, macl_loss


@pytest.mark.parametrize("chunk_size", [0, 1, 3, None])
def test_check_values(chunk_size):
    losses = macl_loss(*check_features(), reduction="none", chunk_size=chunk_size)
    known = losses.new_tensor([1.717392, 1.835658, 1.741302, 1.795599])
    torch.testing.assert_close(losses, known, rtol=0, atol=6e-7)
    assert float(macl_loss(*check_features())) == pytest.approx(1.772488, abs=6e-7)


def by_loops(z1, z2, base, slope, offset):
    views = [torch.nn.functional.normalize(z, dim=1) for z in (z1, z2)]
    alignment = torch.stack([a @ b for a, b in zip(*views, strict=True)]).mean().detach()
    temperature = base * (1 + slope * (alignment - offset))
    losses = []
    for i in range(len(z1)):
        rows = []
        for v in (0, 1):
            own = views[v][i]
            negatives = [views[w][j] for j in range(len(z1)) if j != i for w in (0, 1)]
            similar = (own @ views[1 - v][i] / temperature).exp()
            probability = similar / (
                similar + sum((own @ each / temperature).exp() for each in negatives)
            )
            rows.append(-probability.log() / (1 - probability.detach()))
        losses.append(sum(rows) / 2)
    return torch.stack(losses)


@pytest.mark.parametrize("chunk_size", [0, 3, None])
def test_value_and_gradient_match_explicit_loops(chunk_size):
    views = [z.requires_grad_() for z in pair()]
    settings = {"base": 0.3, "slope": 0.4, "offset": 0.1}
    weights = torch.linspace(0.5, 2, 7).double()
    found = macl_loss(*views, **settings, reduction="none", chunk_size=chunk_size)
    expected = by_loops(*views, **settings)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad((each * weights).sum(), views) for each in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [0, 3, None])
def test_float32_is_exact_where_the_positive_is_nearly_all(chunk_size):
    settings = {"base": 0.05, "slope": 0.0}
    exact = torch.eye(6, dtype=torch.float64).requires_grad_()
    expected = by_loops(exact, exact, **settings, offset=0.0)
    z = torch.eye(6).requires_grad_()
    found = macl_loss(z, z, **settings, reduction="none", chunk_size=chunk_size)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=0)
    grads = [torch.autograd.grad(each.sum(), x)[0] for each, x in ((found, z), (expected, exact))]
    torch.testing.assert_close(grads[0], grads[1].float(), rtol=1e-5, atol=1e-5)
    z = exact.detach()
    assert float(macl_loss(z, z, base=0.01, slope=0.0)) == pytest.approx(1)


def test_perfect_rows_have_a_finite_loss_and_gradient():
    z = torch.eye(4).requires_grad_()
    losses = macl_loss(z, z, base=0.01, reduction="none")
    (grad,) = torch.autograd.grad(losses.sum(), z)
    assert bool(losses.isfinite().all())
    assert bool(grad.isfinite().all())


def test_the_module_is_the_function():
    views = torch.stack(pair())
    options = {"reduction": "sum", "normalize": False, "chunk_size": 3}
    assert MACLLoss(0.3, 0.2, 0.1, **options)(views / 9).equal(
        macl_loss(*views / 9, 0.3, 0.2, 0.1, **options)
    )
    function, module = (inspect.signature(each).parameters for each in (macl_loss, MACLLoss))
    assert list(function.values())[2:] == list(module.values())
    assert "slope=0.5" in repr(MACLLoss())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"base": 0.0}, "base"),
        ({"slope": -0.1}, "slope"),
        ({"slope": 1.0}, "slope"),
        ({"offset": 2.0}, "offset"),
        ({"offset": "a"}, "offset must be .* got 'a'"),
        ({"slope": 0.6, "offset": 0.9}, "slope"),
        ({"reduction": "avg"}, "avg"),
    ],
)
def test_bad_input_is_refused(change, word):
    for call in (
        lambda: macl_loss(torch.eye(3), torch.eye(3), **change),
        lambda: MACLLoss(**change),
    ):
        with pytest.raises(InputError, match=word):
            call()


def test_the_temperature_of_the_latest_step_is_for_the_logs():
    z1, z2 = check_features()
    loss = MACLLoss()
    assert loss.figures(0, 1) == {}
    loss(torch.stack([z1, z2]))
    assert float(loss.figures(0, 1)["temperature"]) == pytest.approx(0.144706, abs=1e-6)
