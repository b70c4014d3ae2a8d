"""The row blocks of NT-Xent: values and derivatives of the dense form, in less memory."""

import pytest
import torch
from tensors import largest_allocation, pair

from bcl import nt_xent
from bcl.losses.blocks import row_stats
from bcl.losses.dense import Sums

FORMS = {
    "symmetric": {},
    "rows": {"normalize": False},
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


SUMS = {
    "sum": Sums(),
    "cost": Sums(0.7, skip=3, cost=True),
    "exponential": Sums(-0.7, skip=0, cost=True, rate=-0.4),
    "constant": Sums(-0.7, skip=0, cost=True, rate=-0.4, constant=True),
}


@pytest.mark.parametrize("x_wanted", [True, False])
@pytest.mark.parametrize("y_wanted", [True, False])
@pytest.mark.parametrize("chunk_size", [2, 6])
@pytest.mark.parametrize("sums", SUMS.values(), ids=SUMS)
def test_row_stats_and_only_the_gradients_that_are_wanted(sums, chunk_size, x_wanted, y_wanted):
    x, y = pair(6, 3)
    y = torch.stack([torch.cat([y, y + 0.1]), torch.cat([y - 0.2, y])])  # (2, 12, 3)
    inputs = [z.requires_grad_() for z, wanted in ((x, x_wanted), (y, y_wanted)) if wanted]
    blocks, dense = row_stats(x, y, sums, chunk_size), row_stats(x, y, sums, 0)
    torch.testing.assert_close(blocks, dense)
    products = torch.einsum("nd,smd->nsm", x, y)
    if sums.skip is not None:
        products[range(6), :, range(sums.skip, sums.skip + 6)] = torch.nan  # left out
    weights = (sums.scale * products).exp()
    torch.testing.assert_close(blocks[0], weights.nansum(-1).log())
    costs = products if sums.rate is None else (sums.rate * products).exp()
    mean = (weights * costs).nansum(-1) / weights.nansum(-1) if sums.cost else 0 * blocks[0]
    torch.testing.assert_close(blocks[1], mean)
    if inputs:
        grads = [
            torch.autograd.grad(m.sum() + r.square().sum(), inputs) for m, r in (blocks, dense)
        ]
        torch.testing.assert_close(*grads)


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
    torch.testing.assert_close(
        torch.func.jvp(lambda z: loss(z, 2), (views[0],), (direction,))[1], dense
    )


@pytest.mark.slow
@pytest.mark.parametrize(("chunk_size", "backend"), [(0, "aot_eager"), (64, "inductor")])
def test_torch_compile_in_one_graph(chunk_size, backend):
    views = torch.stack(pair(96, 8, torch.float32)).requires_grad_()

    def loss(z):
        return nt_xent(z[0], z[1], reduction="none", chunk_size=chunk_size).mean()

    expected = torch.autograd.grad(loss(views), views)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    actual = torch.autograd.grad(compiled(views), views)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-8)


def test_vmap_over_the_temperature():
    z1, z2 = pair(6, 3)
    temperatures = torch.tensor([0.2, 0.5], dtype=torch.float64)
    losses = torch.func.vmap(lambda t: nt_xent(z1, z2, t, chunk_size=0))(temperatures)
    torch.testing.assert_close(losses, torch.stack([nt_xent(z1, z2, t) for t in temperatures]))


@pytest.mark.slow
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
