"""The row blocks of CACR: values and derivatives of the dense form, in less memory."""

import pytest
import torch
from tensors import features, largest_allocation

from cacr import cacr_terms

QUEUE = features(1, 7, seed=1)[0]
KEYS = features(3, seed=2)
FORMS = {
    "views": {},
    "rbf": {"cost": "rbf"},
    "uniform": {"repulsion": "uniform"},
    "debiased": {"debias": 0.1},
    "queue": {"negatives": QUEUE},
    "queue rbf": {"negatives": QUEUE, "cost": "rbf"},
    "queue released": {"negatives": QUEUE, "keys": KEYS, "constant_weights": "queue"},
    "teacher": {"keys": KEYS},
    "teacher rbf": {"keys": KEYS, "cost": "rbf"},
    "teacher released": {"keys": KEYS, "constant_weights": "all"},
}


def value_and_grad(z, **options):
    z = z.detach().requires_grad_()
    losses = sum(cacr_terms(z, reduction="none", **options))
    weights = torch.linspace(0.5, 2, len(losses)).to(losses)
    return losses.detach(), torch.autograd.grad((losses * weights).sum(), z)[0]


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_equal_to_the_dense_form_in_float64(form, normalize, chunk_size):
    z = features()
    dense = value_and_grad(z, chunk_size=0, normalize=normalize, **form)
    blocks = value_and_grad(z, chunk_size=chunk_size, normalize=normalize, **form)
    torch.testing.assert_close(blocks, dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_gradient_of_the_mean_is_that_of_the_dense_form(form):
    for reduction in ("mean", "none"):
        grads = []
        for chunk_size in (0, 4):
            z = features().requires_grad_()
            loss = sum(cacr_terms(z, reduction=reduction, chunk_size=chunk_size, **form)).mean()
            grads.append(torch.autograd.grad(loss, z)[0])
        torch.testing.assert_close(grads[1], grads[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 64])
@pytest.mark.parametrize("name", ["views", "rbf", "queue", "teacher", "teacher rbf"])
def test_equal_to_the_dense_form_in_float32(name, chunk_size):
    z = features(3, 300, 32).float()
    form = dict(FORMS[name])
    if "negatives" in form:
        form["negatives"] = features(1, 500, 32, seed=1)[0].float()
    if "keys" in form:
        form["keys"] = features(3, 300, 32, seed=2).float()
    dense, dense_grad = value_and_grad(z, chunk_size=0, **form)
    blocks, grad = value_and_grad(z, chunk_size=chunk_size, **form)
    torch.testing.assert_close(blocks, dense, rtol=1e-6, atol=1e-6)
    assert (grad - dense_grad).norm() <= 2e-6 * dense_grad.norm()


@pytest.mark.parametrize("name", ["views", "rbf", "queue", "teacher", "teacher rbf", "uniform"])
def test_first_and_second_derivatives_in_float64(name):
    z = features(3, 3, 2)[: 3 if "keys" not in FORMS[name] else 2].requires_grad_()
    form = dict(FORMS[name])
    if "negatives" in form:
        form["negatives"] = QUEUE[:3, :2]
    if "keys" in form:
        form["keys"] = KEYS[:2, :3, :2]

    def losses(z):
        return sum(cacr_terms(z, reduction="none", chunk_size=2, **form))

    assert torch.autograd.gradcheck(losses, z)
    assert torch.autograd.gradgradcheck(losses, z, fast_mode=True)


def test_keys_that_learn_get_their_gradient():
    z, keys = features(), features(seed=2)
    for cost in ("euclidean", "rbf"):
        grads = []
        for chunk_size in (0, 4):
            k = keys.clone().requires_grad_()
            sum(cacr_terms(z, keys=k, cost=cost, chunk_size=chunk_size)).backward()
            grads.append(k.grad)
        torch.testing.assert_close(grads[1], grads[0])
        assert grads[0].abs().sum() > 0


@pytest.mark.parametrize("constant", ["all", "queue"])
def test_constant_weights_are_constants(constant):
    """The gradient equals that of the weighted sum with the weights held fixed."""
    z = features(2).requires_grad_()
    grad = torch.autograd.grad(sum(cacr_terms(z, QUEUE, constant_weights=constant)), z)[0]
    u, bank = torch.nn.functional.normalize(z, dim=-1), torch.nn.functional.normalize(QUEUE, dim=-1)
    attraction = (u[0] - u[1]).square().sum(-1).mean()
    repulsion = 0
    for view in u:
        c = (view[:, None] - torch.cat([view, bank])).square().sum(-1)  # (6, 6 + 7)
        logits = (-2 * c).masked_fill(torch.eye(6, 13, dtype=torch.bool), -torch.inf)
        near, far = logits.split([6, 7], 1)
        near = near.detach() if constant == "all" else near
        weights = torch.cat([near, far.detach()], 1).softmax(1)
        repulsion = repulsion - (weights * c).sum(-1).mean() / 2
    expected = torch.autograd.grad(attraction + repulsion, z)[0]
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("chunk_size", [0, 4])
def test_autocast_lowers_nothing(dtype, chunk_size):
    z = features().float().requires_grad_()
    outside = torch.autograd.grad(sum(cacr_terms(z, chunk_size=chunk_size)), z)[0]
    with torch.autocast("cpu", dtype=dtype):
        loss = sum(cacr_terms(z, chunk_size=chunk_size))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], outside)


def test_half_precision_is_as_good_as_its_input():
    for dtype in (torch.float16, torch.bfloat16):
        z = features().to(dtype)
        exact = sum(cacr_terms(z.double(), reduction="none"))
        losses = sum(cacr_terms(z, reduction="none", chunk_size=4))
        torch.testing.assert_close(losses, exact.float(), rtol=1e-5, atol=1e-5)


def test_torch_func_transforms():
    batch = torch.stack([features(seed=s) for s in range(3)])

    def loss(z, chunk_size):
        return sum(cacr_terms(z, chunk_size=chunk_size))

    for transform in (
        torch.func.vmap(loss, in_dims=(0, None)),
        torch.func.vmap(torch.func.grad(loss), in_dims=(0, None)),
        lambda z, c: torch.func.jacrev(torch.func.jacrev(loss))(z[0], c),
    ):
        torch.testing.assert_close(transform(batch, 4), transform(batch, 0))
    batch.requires_grad_()
    outside = [
        torch.autograd.grad(torch.func.vmap(loss, in_dims=(0, None))(batch, c).sum(), batch)[0]
        for c in (0, 4)
    ]
    torch.testing.assert_close(outside[1], outside[0])


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [0, 16])
def test_torch_compile_in_one_graph(chunk_size):
    z = features(3, 48, 8).float().requires_grad_()

    def loss(z):
        return sum(cacr_terms(z, chunk_size=chunk_size, reduction="none")).mean()

    expected = torch.autograd.grad(loss(z), z)
    actual = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(z), z)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_no_tensor_grows_with_the_square_of_the_batch():
    z = features(3, 2048, 16).float().requires_grad_()
    square = 4 * 2048**2  # bytes of one pair of views
    assert largest_allocation(lambda: sum(cacr_terms(z)).backward()) <= square / 2
    assert largest_allocation(lambda: sum(cacr_terms(z, chunk_size=0)).backward()) >= square


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("chunk_size", [0, 64, None])
@pytest.mark.parametrize("name", ["views", "rbf", "debiased"])
def test_a_gpu_gives_the_cpus_values_and_gradients(name, chunk_size):
    z = features(3, 300, 32)
    expected, grad = value_and_grad(z, chunk_size=0, **FORMS[name])
    actual, gpu_grad = value_and_grad(z.cuda(), chunk_size=chunk_size, **FORMS[name])
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gpu_grad.cpu(), grad, rtol=1e-8, atol=1e-12)
