"""The row blocks of NT-Xent: values and derivatives of the dense form, in less memory."""

import pytest
import torch
from tensors import largest_allocation, pair

from bcl import nt_xent
from bcl.losses.logsumexp import gram_logsumexp, row_logsumexp

FORMS = {
    "symmetric": {},
    "one direction": {"symmetric": False},
    "keys": {"negatives": "keys"},
    "focal": {"focal": 2.0},
}


def value_and_grads(views, **options):
    views = [z.detach().requires_grad_() for z in views]
    losses = nt_xent(*views, reduction="none", **options)
    weights = torch.linspace(0.5, 2, len(losses)).to(losses)
    return losses.detach(), torch.autograd.grad((losses * weights).sum(), views)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("temperature", [0.01, 0.2])
@pytest.mark.parametrize("chunk_size", [None, 64, 1000])
def test_equal_to_the_dense_form_in_float32(form, temperature, chunk_size):
    z1, z2 = pair(300, 32, torch.float32)
    dense, dense_grads = value_and_grads((z1, z2), temperature=temperature, chunk_size=0, **form)
    blocks, grads = value_and_grads(
        (z1, z2), temperature=temperature, chunk_size=chunk_size, **form
    )
    largest = max(dense.abs().max(), 1 / temperature)  # float32 rounds at the size of the logits
    assert (blocks - dense).abs().max() <= 1e-6 * largest
    for grad, dense_grad in zip(grads, dense_grads, strict=True):
        assert (grad - dense_grad).norm() <= 1e-6 / min(temperature, 0.1) * dense_grad.norm()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_first_and_second_derivatives_in_float64(form):
    views = [z.requires_grad_() for z in pair(6, 3)]

    def losses(z1, z2):
        return nt_xent(z1, z2, 0.4, reduction="none", chunk_size=2, **form)

    assert torch.autograd.gradcheck(losses, views)
    assert torch.autograd.gradgradcheck(losses, views, fast_mode=True)


def test_third_derivatives_are_those_of_the_dense_form():
    def third(chunk_size):
        z1, z2 = pair(5, 3)
        z1.requires_grad_()
        value = nt_xent(z1, z2, 0.4, chunk_size=chunk_size)
        for _ in range(2):
            (grad,) = torch.autograd.grad(value, z1, create_graph=True)
            value = grad.square().sum()
        return torch.autograd.grad(value, z1)[0]

    torch.testing.assert_close(third(2), third(0), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("x_wanted", [True, False])
@pytest.mark.parametrize("y_wanted", [True, False])
@pytest.mark.parametrize("skip", [None, 0, 3])
def test_only_the_gradients_that_are_wanted(x_wanted, y_wanted, skip):
    x, y = pair(6, 3)
    y = torch.cat([y, y + 0.1])
    inputs = [z for z, w in ((x, x_wanted), (y, y_wanted)) if w]
    for z in inputs:
        z.requires_grad_()
    if not inputs:
        assert not row_logsumexp(x, y, skip, 2).requires_grad
        return
    dense = torch.autograd.grad(row_logsumexp(x, y, skip, 0).sum(), inputs)
    blocks = torch.autograd.grad(row_logsumexp(x, y, skip, 2).sum(), inputs)
    torch.testing.assert_close(blocks, dense)


def test_torch_func_transforms():
    views = torch.stack([torch.stack(pair(6, 3, seed=s)) for s in range(3)])  # (3, 2, 6, 3)

    def loss(z, chunk_size):
        return nt_xent(z[0], z[1], 0.4, chunk_size=chunk_size)

    for transform in (
        torch.func.vmap(loss, in_dims=(0, None)),
        torch.func.vmap(torch.func.grad(loss), in_dims=(0, None)),
        lambda z, c: torch.func.jacrev(torch.func.jacrev(loss))(z[0], c),
    ):
        torch.testing.assert_close(transform(views, 2), transform(views, 0))
    direction = torch.ones(2, 6, 3, dtype=torch.float64)
    dense = torch.func.jvp(lambda z: loss(z, 0), (views[0],), (direction,))[1]
    assert bool(dense.isfinite())
    with pytest.raises(NotImplementedError, match="jvp"):  # refused, as the docstring says
        torch.func.jvp(lambda z: loss(z, 2), (views[0],), (direction,))


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [0, 64])
def test_torch_compile_in_one_graph(chunk_size):
    views = torch.stack(pair(96, 8, torch.float32)).requires_grad_()

    def loss(z):
        return nt_xent(z[0], z[1], reduction="none", chunk_size=chunk_size).mean()

    expected = torch.autograd.grad(loss(views), views)
    compiled = torch.compile(loss, fullgraph=True)
    actual = torch.autograd.grad(compiled(views), views)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-8)


def test_vmap_over_the_temperature():
    z1, z2 = pair(6, 3)
    temperatures = torch.tensor([0.2, 0.5], dtype=torch.float64)
    losses = torch.func.vmap(lambda t: nt_xent(z1, z2, t, chunk_size=0))(temperatures)
    torch.testing.assert_close(losses, torch.stack([nt_xent(z1, z2, t) for t in temperatures]))


def test_no_tensor_grows_with_the_square_of_the_batch():
    z1, z2 = (z.requires_grad_() for z in pair(2048, 16, torch.float32))
    square = 4 * (2 * 2048) ** 2  # bytes of the whole matrix
    assert largest_allocation(lambda: nt_xent(z1, z2).backward()) <= square / 16
    assert largest_allocation(lambda: nt_xent(z1, z2, chunk_size=0).backward()) >= square


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("chunk_size", [0, 64, None])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_gpu_gives_the_cpus_values_and_gradients(form, chunk_size):
    z = pair(300, 32)
    expected, grads = value_and_grads(z, chunk_size=0, **form)
    actual, gpu_grads = value_and_grads([x.cuda() for x in z], chunk_size=chunk_size, **form)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-9, atol=0)
    for a, b in zip(gpu_grads, grads, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-8, atol=1e-12)


def test_the_operators_are_well_formed():
    z = torch.randn(6, 3)
    lse = gram_logsumexp(z, 2)
    ops = torch.ops.bcl
    checks = ("test_schema", "test_faketensor")
    for op, args in (
        (ops.gram_logsumexp, (z, 2)),
        (ops.gram_logsumexp_backward, (lse, z, lse, 2)),
        (ops.row_logsumexp, (z, z, 0, 2)),
        (ops.row_logsumexp_backward, (lse, z, z, lse, 0, 2, True, True)),
        (ops.row_logsumexp_backward, (lse, z, z, lse, 0, 2, True, False)),
    ):
        torch.library.opcheck(op.default, args, test_utils=checks)
