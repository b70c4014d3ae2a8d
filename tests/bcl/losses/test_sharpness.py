"""Sharpness-aware steps against check values and closed forms, and their weights."""

import pytest
import torch
from tensors import unit
from torch import nn

from bcl import InputError, sam_ascent, signal_weights
from bcl.evaluation import feature_signals


@pytest.mark.parametrize(
    ("adaptive", "expected"), [(False, (0.089443, 0.044721)), (True, (0.070711, 0.141421))]
)
@pytest.mark.parametrize("scale", [1.0, 2.0**16])  # as of a gradient scaled for float16
def test_check_values_of_the_ascent(adaptive, expected, scale):
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    w.grad = scale * torch.tensor([0.5, 0.25], dtype=torch.float64)
    with sam_ascent([w], rho=0.1, adaptive=adaptive):
        moved = w.detach() - torch.tensor([1.0, -2.0])
        assert w.grad is None
    torch.testing.assert_close(moved, torch.tensor(expected).double(), rtol=0, atol=6e-7)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_on_a_quadratic_has_the_closed_form(adaptive):
    """Of w'Aw / 2 the gradient at w + e is A (w + e), whatever the parameters are cut into."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    matrix, w = root @ root.T, torch.randn(5, generator=generator, dtype=torch.float64)
    parts = [nn.Parameter(w[:2].clone()), nn.Parameter(w[2:].clone())]
    unused = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([*parts, unused], lr=0.1)

    def loss():
        joined = torch.cat(parts)
        return joined @ matrix @ joined / 2

    loss().backward()
    with sam_ascent([*parts, unused], rho=0.3, adaptive=adaptive):
        loss().backward()
    optimizer.step()
    size = w.abs() if adaptive else torch.ones(5)
    g = matrix @ w
    e = 0.3 * size**2 * g / (size * g).norm()
    torch.testing.assert_close(torch.cat(parts).detach(), w - 0.1 * matrix @ (w + e))
    assert unused.equal(torch.ones(3))


def test_weights_come_back_to_the_bit_also_after_an_error():
    w = nn.Parameter(torch.randn(1000) * 1e-3)
    before = w.detach().clone()
    w.grad = torch.randn(1000)
    with pytest.raises(ZeroDivisionError), sam_ascent([w], rho=1e4):
        raise ZeroDivisionError
    assert w.equal(before)
    w.grad = torch.zeros(1000)  # at a minimum there is no way up
    with sam_ascent([w]):
        assert w.equal(before)


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [
        (0.5, (0.842908, 0.857356, 0.868191, 1.431545)),
        (1.0, (0.668916, 0.692043, 0.709645, 1.929395)),
        (0.0, (1.0, 1.0, 1.0, 1.0)),
    ],
)
def test_check_values_of_weights_by_kernel_density(exponent, expected):
    x = unit(torch.tensor([(1, 0), (0.95, 0.1), (0.9, -0.2), (-1, 0.3)]))
    # The check values' densities have each sample's own kernel, 1, among their N terms.
    others = feature_signals(x, ("sparseness",), bandwidth=0.5)["sparseness"]
    densities = (3 * (-others).exp() + 1) / 4
    known = torch.tensor([0.721951, 0.697824, 0.680515, 0.250298])
    torch.testing.assert_close(densities, known, rtol=0, atol=2e-6)
    weights = signal_weights(-densities.log(), exponent)
    torch.testing.assert_close(weights, torch.tensor(expected), rtol=0, atol=2e-6)


def test_weights_of_any_signal_are_finite_and_unseen_samples_weigh_one():
    signal = torch.tensor([500.0, -500.0, 499.0, 0.0])
    seen = torch.tensor([True, True, True, False])
    weights = signal_weights(signal, 1.0, seen)
    share = 1 / (1 + torch.tensor(-1.0).exp())
    torch.testing.assert_close(
        weights, torch.stack([3 * share, 0 * share, 3 - 3 * share, share / share])
    )
    assert signal_weights(signal, 1.0, torch.zeros(4, dtype=torch.bool)).tolist() == [1.0] * 4


@pytest.mark.parametrize("rho", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_input_is_refused(rho):
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(InputError, match="no parameter has a gradient"), sam_ascent([w]):
        pass
    for wrong in (nn.Linear(2, 2), dict(nn.Linear(2, 2).named_parameters()), [1.0]):
        with pytest.raises(InputError, match=r"pass model\.parameters\(\)"), sam_ascent(wrong):
            pass
    w.grad = torch.ones(2)
    with pytest.raises(InputError, match="rho"), sam_ascent([w], rho=rho):
        pass
    with pytest.raises(InputError, match="exponent"):
        signal_weights(torch.ones(2), -0.5)
    for signal, seen in (
        (torch.ones(2), torch.tensor([True])),
        (torch.ones(2), torch.tensor([1, 0])),
        (torch.ones(2, 2), None),
    ):
        with pytest.raises(InputError, match=r"signal must be of shape \(N,\)"):
            signal_weights(signal, seen=seen)


def test_weights_of_a_large_signal_in_half_precision_are_finite():
    assert signal_weights(torch.zeros(100_000, dtype=torch.float16)).mean() == pytest.approx(1)


def test_a_signal_that_is_not_finite_is_refused_unless_it_is_not_seen():
    signal = torch.tensor([1.0, float("nan"), 2.0])
    with pytest.raises(InputError, match="not finite for some samples"):
        signal_weights(signal)
    seen = torch.tensor([True, False, True])
    assert signal_weights(signal, seen=seen).isfinite().all()
