"""Unit rows of any length, and the precision that the losses compute in."""

import pytest
import torch

from bcl.losses.precision import at_least_float32, unit_rows


def test_derivatives_are_those_of_the_formula():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit_rows(x), x / x.norm(dim=-1, keepdim=True))
    assert torch.autograd.gradcheck(unit_rows, x)
    assert torch.autograd.gradgradcheck(unit_rows, x)


@pytest.mark.parametrize("length", [1e-38, 1e-20, 1e20, 3e38])
def test_rows_of_any_length_have_length_one(length):
    rows = unit_rows(torch.tensor([[0.6, 0.8]]) * length)
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8]]), rtol=1e-5, atol=1e-6)


def test_a_zero_row_stays_zero_and_its_gradient_is_bounded():
    x = torch.zeros(1, 3, requires_grad=True)
    rows = unit_rows(x)
    rows.sum().backward()
    assert not rows.any()
    assert x.grad.abs().max() <= 2


def test_half_precision_is_computed_in_float32():
    types = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert at_least_float32(torch.ones(2, dtype=dtype)).dtype == types.get(dtype, dtype)
