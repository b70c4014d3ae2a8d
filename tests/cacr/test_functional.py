"""CACR against golden values, explicit loops, its laws and bad input."""

import json
import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN
from tensors import features

from bcl import InputError
from cacr import CACRLoss, MomentumQueue, cacr_terms, momentum_update

BUNDLED = GOLDEN
WEIGHTS = {
    "full": ("conditional", "conditional"),
    "without_w1": ("uniform", "conditional"),
    "without_w2": ("conditional", "uniform"),
    "none": ("uniform", "uniform"),
}
SMALL = ["k1", "k4", "k4_weighted", "k1_debiased", "rbf_k1", "rbf_k4"]
CASES = [
    *SMALL, "k4_cifar10", "k4_no_attraction_weights", "k4_no_repulsion_weights", "k4_uniform",
    "k4_batch128",
]  # fmt: skip


def check_golden(folder, name, chunk_size):
    data = np.load(folder / "cacr.npz")
    case = json.loads((folder / "cacr_cases.json").read_text())[name]
    views = torch.from_numpy(data[f"{name}_views"]).requires_grad_()
    attraction, repulsion = WEIGHTS[case.get("choice", "full")]
    debias = 0.1 if case.get("deb") else 0.0
    terms = cacr_terms(
        views,
        attraction_temperature=case["tau_pos"],
        repulsion_temperature=case["tau_neg"],
        cost=case["cost"],
        rbf_scale=case.get("t", 2.0),
        attraction=attraction,
        repulsion=repulsion,
        debias=debias,
        normalize=False,
        chunk_size=chunk_size,
    )
    pull, push = case["alpha"] * terms.attraction, case["beta"] * terms.repulsion
    if debias:  # the released code has the opposite sign on the positive distance
        positive = (views[0] - views[1]).square().sum(-1).mean()
        push = push - 2 * debias / (1 - debias) * positive
    assert pull.item() == pytest.approx(float(data[f"{name}_attraction"]), rel=1e-12)
    assert push.item() == pytest.approx(float(data[f"{name}_repulsion"]), rel=1e-12)
    (pull + push).backward()
    np.testing.assert_allclose(views.grad, data[f"{name}_grad"], rtol=0, atol=1e-14)


@pytest.mark.parametrize("chunk_size", [0, 3])
@pytest.mark.parametrize("name", SMALL)
def test_golden_terms_and_gradients(name, chunk_size):
    check_golden(BUNDLED, name, chunk_size)


@pytest.mark.parametrize("chunk_size", [0, 50])
@pytest.mark.parametrize("name", CASES)
def test_all_golden_terms_and_gradients(golden, name, chunk_size):
    check_golden(golden, name, chunk_size)


@pytest.mark.parametrize("chunk_size", [0, 3])
def test_golden_queue_terms_and_gradient(chunk_size):
    arrays = np.load(BUNDLED / "cacr_queue.npz")
    data = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    queries = data["queries"].requires_grad_()
    loss = CACRLoss.paper("imagenet-moco", chunk_size=chunk_size)
    terms = cacr_terms(queries, data["queue"], keys=data["keys"], chunk_size=chunk_size)
    torch.testing.assert_close(terms.attraction, data["attraction"], rtol=1e-12, atol=0)
    torch.testing.assert_close(terms.repulsion, data["repulsion"], rtol=1e-12, atol=0)
    loss(queries, data["queue"], data["keys"]).backward()
    # The released code takes rows as of length one (2 - 2 q.k), so its gradient has another
    # radial part, which the normalization that precedes it removes.
    released = data["grad_queries"]
    radial = (released * queries.detach()).sum(-1, keepdim=True) * queries.detach()
    torch.testing.assert_close(queries.grad, released - radial, rtol=0, atol=1e-15)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def softmax_mean(distances, temperature, cost=lambda c: c):
    powers = [math.exp(temperature * c) for c in distances]
    return sum(p * cost(c) for p, c in zip(powers, distances, strict=True)) / sum(powers)


def distance(a, b):
    return float((a - b).square().sum())


def expected(z, queue=None, keys=None, pull=1.0, push=2.0, scale=None, debias=0.0):
    """(attraction, repulsion), each (B,), straight from the formulas; RBF before the logarithm."""
    z = unit(z)
    V, B, _ = z.shape
    targets = z if keys is None else unit(keys)
    attraction, repulsion = torch.zeros(B).double(), []
    for i in range(B):
        for v in range(V):
            near = [distance(z[v, i], targets[u, i]) for u in range(V) if u != v]
            attraction[i] += softmax_mean(near, pull) / V

    def repel(query, others, near):
        far = [distance(query, other) for other in others]
        if scale is not None:
            return softmax_mean(far, -push, lambda c: math.exp(-scale * c))
        return (debias * near - softmax_mean(far, -push)) / (1 - debias)

    if queue is None:
        for a, b in combinations(range(V), 2):
            row = [
                repel(z[a, i], [z[b, j] for j in range(B) if j != i], distance(z[a, i], z[b, i]))
                for i in range(B)
            ]
            repulsion.append(row)
    else:
        queue = unit(queue)
        for v in range(V):
            row = []
            for i in range(B):
                near = [distance(z[v, i], targets[u, i]) for u in range(V) if u != v]
                others = [*queue, *(z[v, j] for j in range(B) if j != i)]
                row.append(repel(z[v, i], others, sum(near) / len(near)))
            repulsion.append(row)
    repulsion = torch.tensor(repulsion, dtype=torch.float64)  # (R, B)
    if scale is not None:
        mean = repulsion.mean(1, keepdim=True)
        repulsion = mean.log() + repulsion / mean - 1
    return attraction, repulsion.mean(0)


@pytest.mark.parametrize("chunk_size", [0, 4])
@pytest.mark.parametrize("scale", [None, 1.5])
@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("queue_size", [None, 5])
@pytest.mark.parametrize("with_keys", [False, True])
def test_per_sample_terms_match_explicit_loops(with_keys, queue_size, views, scale, chunk_size):
    if queue_size is None and with_keys:
        pytest.skip("keys alone are the teacher form, tested by itself")
    z = 2 * features(views)
    keys = features(views, seed=1) if with_keys else None
    queue = features(1, queue_size, seed=2)[0] if queue_size else None
    cost = {} if scale is None else {"cost": "rbf", "rbf_scale": scale}
    terms = cacr_terms(
        z, queue, keys=keys, attraction_temperature=0.7, repulsion_temperature=1.3,
        reduction="none", chunk_size=chunk_size, **cost,
    )  # fmt: skip
    loops = expected(z, queue, keys, 0.7, 1.3, scale)
    torch.testing.assert_close(tuple(terms), loops, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("queue_size", [None, 5])
@pytest.mark.parametrize("debias", [0.0, 0.1])
def test_temperatures_per_sample_match_explicit_loops(queue_size, debias):
    z, own = features(), torch.tensor([0.0, 0.3, 1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    queue = features(1, queue_size, seed=2)[0] if queue_size else None
    terms = cacr_terms(z, queue, repulsion_temperature=own, reduction="none", debias=debias)
    for i, push in enumerate(own.tolist()):
        repulsion = expected(z, queue, None, 1.0, push, debias=debias)[1]
        torch.testing.assert_close(terms.repulsion[i], repulsion[i], rtol=1e-10, atol=1e-12)

    def losses(z, own):
        return cacr_terms(z, queue, repulsion_temperature=own, reduction="none").repulsion

    z = features(2, 4, 3).requires_grad_()
    queue = None if queue is None else queue[:, :3]
    assert torch.autograd.gradcheck(losses, (z, own[1:5].clone().requires_grad_()))


@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_one_temperature_for_all_is_a_temperature_per_sample(cost):
    z = features()
    same = torch.full((6,), 1.3, dtype=torch.float64)
    one = cacr_terms(z, cost=cost, repulsion_temperature=1.3, reduction="none")
    for own in (same, torch.tensor(1.3)):
        each = cacr_terms(z, cost=cost, repulsion_temperature=own, reduction="none")
        torch.testing.assert_close(tuple(each), tuple(one))


@pytest.mark.parametrize("queue_size", [None, 5])
def test_debiased_repulsion_and_uniform_weights_match_explicit_loops(queue_size):
    z = features()
    queue = features(1, queue_size, seed=2)[0] if queue_size else None
    options = {"attraction": "uniform", "repulsion": "uniform", "debias": 0.1}
    terms = cacr_terms(z, queue, reduction="none", **options)
    loops = expected(z, queue, None, 0.0, 0.0, debias=0.1)
    torch.testing.assert_close(tuple(terms), loops, rtol=1e-10, atol=1e-12)


def expected_teacher(z, keys, pull, push, scale):
    """Momentum-teacher form by loops: (attraction, repulsion), each (B,)."""
    z, keys = unit(z), unit(keys)
    B, G = z.shape[1], len(keys)
    attraction, repulsion = torch.zeros(B).double(), torch.zeros(B).double()
    for i in range(B):
        for g in range(G):
            rows = [v for v in range(len(z)) if v != g]
            near = torch.tensor([distance(z[v, i], keys[g, i]) for v in rows])
            weights = (pull * near).softmax(0)
            for v, w, c in zip(rows, weights, near, strict=True):
                if scale is None:
                    far = [distance(z[v, i], keys[g, j]) for j in range(B) if j != i]
                    value = -softmax_mean(far, -push)
                else:
                    every = [math.exp(-scale * distance(z[v, i], k)) for k in keys[g]]
                    value = math.log(sum(every)) / scale
                attraction[i] += float(w * c) / G
                repulsion[i] += float(w) * value / G
    return attraction, repulsion


@pytest.mark.parametrize("chunk_size", [0, 4])
@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize(("views", "teachers"), [(2, 2), (5, 2), (3, 3), (2, 1)])
def test_the_momentum_teacher_form_with_local_views(views, teachers, scale, chunk_size):
    z, keys = features(views), features(teachers, seed=1)
    cost = {} if scale is None else {"cost": "rbf", "rbf_scale": scale}
    terms = cacr_terms(
        z, keys=keys, repulsion_temperature=1.3, reduction="none", chunk_size=chunk_size, **cost
    )
    loops = expected_teacher(z, keys, 1.0, 1.3, scale)
    torch.testing.assert_close(tuple(terms), loops, rtol=1e-6, atol=1e-6)


def test_the_mocov3_preset_is_weighted_cross_entropy():
    """As released: cross-entropy at T = 1 times 2 T, over the queries of the other view."""
    q, k = unit(features(2)), unit(features(2, seed=1))
    loss = CACRLoss.paper("imagenet-mocov3")(q, keys=k)
    target = torch.arange(q.shape[1])
    parts = [torch.nn.functional.cross_entropy(q[a] @ k[b].T, target) for a, b in ((0, 1), (1, 0))]
    # c = 2 - 2 cos leaves a constant: log sum exp(-c / 2) = log sum exp(cos) - 1.
    torch.testing.assert_close(loss, 2 * sum(parts) / 2)


@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
@pytest.mark.parametrize("form", ["views", "queue", "teacher"])
def test_the_mean_of_the_per_sample_terms_and_of_their_gradients_is_the_loss(form, cost):
    z = features().requires_grad_()
    queue = features(1, 7, seed=1)[0] if form == "queue" else None
    keys = features(seed=2) if form == "teacher" else None
    means, sums, none = (
        sum(cacr_terms(z, queue, keys=keys, cost=cost, reduction=reduction))
        for reduction in ("mean", "sum", "none")
    )
    torch.testing.assert_close(none.mean(), means)
    torch.testing.assert_close(none.sum(), sums)
    grads = [torch.autograd.grad(value, z)[0] for value in (means, none.mean(), sums / 6)]
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2])


def test_rbf_terms_grow_with_the_closeness_of_a_samples_negatives():
    z = features()
    own = softmax_costs(z)
    terms = cacr_terms(z[:2], cost="rbf", reduction="none")
    assert terms.repulsion.argsort().equal(own.argsort())


def softmax_costs(z):
    u = unit(z)
    c = (u[0][:, None] - u[1]).square().sum(-1)  # (B, B)
    weights = (-2 * c).fill_diagonal_(-torch.inf).softmax(1)
    return (weights * (-2 * c).exp()).sum(1)


# Laws


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 4), st.integers(2, 7), st.integers(2, 5), st.floats(0, 5), st.floats(0, 5),
    st.sampled_from(["euclidean", "rbf"]), st.integers(0, 10**6),
)  # fmt: skip
def test_laws(views, batch, dim, pull, push, cost, seed):
    z = features(views, batch, dim, seed)
    options = {
        "attraction_temperature": pull, "repulsion_temperature": push, "cost": cost,
        "reduction": "none",
    }  # fmt: skip
    terms = cacr_terms(z, **options)
    assert bool((terms.attraction >= 0).all())
    if cost == "euclidean":
        assert bool((terms.repulsion <= 0).all())
        assert bool((terms.repulsion >= -4).all())

    def same(other):
        torch.testing.assert_close(tuple(other), tuple(terms), rtol=1e-9, atol=1e-11)

    order = torch.randperm(batch)
    permuted = cacr_terms(z[:, order], chunk_size=2, **options)
    same(part[order.argsort()] for part in permuted)
    same(cacr_terms(z * torch.logspace(-3, 3, batch).double()[:, None], **options))


def test_as_released_the_queries_of_a_pair_of_views_are_those_of_the_first():
    z = features(2)
    assert cacr_terms(z).repulsion != cacr_terms(z.flip(0)).repulsion


def test_limits_of_the_temperatures():
    z = features(4, 6)
    u = unit(z)
    near = torch.stack(
        [
            torch.stack([(u[a] - u[b]).square().sum(-1) for b in range(4) if b != a])
            for a in range(4)
        ]
    )
    far = (u[0][:, None] - u[1]).square().sum(-1)
    own = torch.eye(6, dtype=torch.bool)
    hot = cacr_terms(z, attraction_temperature=1e4, reduction="none")
    torch.testing.assert_close(hot.attraction, near.amax(1).mean(0))
    cold = cacr_terms(z, attraction_temperature=0.0, reduction="none")
    torch.testing.assert_close(cold.attraction, near.mean(1).mean(0))
    uniform = cacr_terms(z, attraction="uniform", reduction="none")
    torch.testing.assert_close(uniform.attraction, cold.attraction)
    for chunk_size in (0, 2):
        options = {"reduction": "none", "chunk_size": chunk_size}
        nearest = cacr_terms(z[:2], repulsion_temperature=1e4, **options)
        torch.testing.assert_close(nearest.repulsion, -far.masked_fill(own, 9).amin(1))
        even = cacr_terms(z[:2], repulsion_temperature=0.0, **options)
        torch.testing.assert_close(even.repulsion, -far.masked_fill(own, 0).sum(1) / 5)
    one = cacr_terms(z[:2], reduction="none").attraction  # K = 1 has weight 1
    torch.testing.assert_close(one, near[0, 0])


HARD = {
    "identical": lambda: torch.ones(3, 4, 3),
    "opposite": lambda: torch.tensor([1.0, -1.0, 1.0])[:, None, None] * torch.ones(3, 4, 3),
    "zero": lambda: torch.zeros(3, 4, 3),
    "one zero row": lambda: torch.eye(4) * torch.tensor([[0.0], [1], [1], [1]]).expand(3, 4, 1),
    "huge": lambda: 1e38 * torch.rand(3, 4, 3),
    "tiny": lambda: 1e-38 * torch.rand(3, 4, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("chunk_size", [0, 3])
@pytest.mark.parametrize("name", HARD)
def test_hard_vectors_give_finite_losses_and_gradients(name, chunk_size, dtype):
    largest = torch.finfo(dtype).max
    vectors = HARD[name]().clamp(-largest, largest).to(dtype)
    grid = product((0.0, 2.0, 1e5), ("views", "queue", "teacher"), ("euclidean", "rbf"))
    for temperature, form, cost in grid:
        z = vectors.clone().requires_grad_()
        queue = torch.eye(z.shape[-1])[:2] if form == "queue" else None
        keys = z.detach() if form == "teacher" else None
        loss = CACRLoss(temperature, temperature, cost, chunk_size=chunk_size, reduction="none")
        losses = loss(z, queue, keys)
        assert losses.dtype == torch.float32
        assert bool(losses.isfinite().all())
        losses.mean().backward()
        if name != "tiny":  # the gradient of a direction is the inverse of the length
            assert bool(z.grad.isfinite().all())


# Queue


def test_the_momentum_encoder_moves_towards_the_other():
    student = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    teacher = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    student(torch.randn(4, 2))
    old, new = teacher[0].weight.clone(), student[0].weight.clone()
    momentum_update(teacher, student, 0.9)
    torch.testing.assert_close(teacher[0].weight, 0.9 * old + 0.1 * new)
    assert teacher[1].running_mean.equal(student[1].running_mean)
    with pytest.raises(InputError, match=r"differ in the parameters \['0\.bias'"):
        momentum_update(torch.nn.Linear(2, 2), student)
    with pytest.raises(InputError, match="momentum"):
        momentum_update(teacher, student, 1.5)


# Bad input

BAD = [
    (lambda z: cacr_terms(z[0]), r"views must be of shape \(V, B, D\)"),
    (lambda z: cacr_terms(z[:1]), "a single view has no positives"),
    (lambda z: cacr_terms(z[:, :1]), "at least 2, or 1 and a queue"),
    (lambda z: cacr_terms(z.long()), "floating point"),
    (lambda z: cacr_terms(z, z[0, :, :2]), "width 4 and negatives 2"),
    (lambda z: cacr_terms(z[:, :0], z[0]), "a batch of 0 sample"),
    (lambda z: cacr_terms(z, z[0, :0]), r"at least one key, got \(0, 4\); pass None"),
    (lambda z: cacr_terms(z, z), r"negatives must be of shape \(Q, D\)"),
    (lambda z: cacr_terms(z, z[0].to("meta")), "negatives on meta"),
    (lambda z: cacr_terms(z, keys=z.to("meta")), "keys on meta"),
    (lambda z: cacr_terms(z, z[0].clone().requires_grad_()), "gradient"),
    (lambda z: cacr_terms(z, keys=z[:, :4]), "same 6 samples"),
    (lambda z: cacr_terms(z, z[0], keys=z[:2]), "same 6 samples and 3 views"),
    (lambda z: cacr_terms(z[:2], keys=z), "same 6 samples and 2 views"),
    (lambda z: cacr_terms(z, keys=z[..., :2]), "width 4 and keys 2"),
    (lambda z: cacr_terms(z, attraction_temperature=-1.0), "attraction_temperature"),
    (lambda z: cacr_terms(z, repulsion_temperature=-1.0), "at least 0, got -1.0"),
    (lambda z: cacr_terms(z, repulsion_temperature=float("inf")), "repulsion_temperature"),
    (lambda z: cacr_terms(z, rbf_scale=0.0), "rbf_scale"),
    (lambda z: cacr_terms(z, cost="rbff"), "did you mean 'rbf'"),
    (lambda z: cacr_terms(z, attraction="conditonal"), "did you mean 'conditional'"),
    (lambda z: cacr_terms(z, repulsion="unifrom"), "did you mean 'uniform'"),
    (lambda z: cacr_terms(z, constant_weights="some"), "unknown constant_weights"),
    (lambda z: cacr_terms(z, reduction="avg"), "unknown reduction"),
    (lambda z: cacr_terms(z, debias=1.0), r"debias must lie in \[0, 1\)"),
    (lambda z: cacr_terms(z, debias=0.1, cost="rbf"), "debias is defined only for"),
    (lambda z: cacr_terms(z, chunk_size=True), "chunk_size"),
    (lambda z: CACRLoss(repulsion_weight=-1), "repulsion_weight"),
    (lambda z: CACRLoss(attraction_temperature=-1), "attraction_temperature"),
    (lambda z: MomentumQueue(0, 2), "size must be an integer"),
    (lambda z: MomentumQueue(2, 2.0), "dim must be an integer"),
    (lambda z: MomentumQueue(4, 2).enqueue(z[0]), r"of shape \(B, 2\)"),
    (lambda z: MomentumQueue(4, 4).enqueue(z), "one view at a time"),
    (lambda z: MomentumQueue(4, 4).enqueue(["key"]), "keys must be a tensor, an array or a list"),
    (lambda z: CACRLoss(cost="rbff"), "did you mean 'rbf'"),
    (lambda z: CACRLoss(attraction="unifrom"), "did you mean 'uniform'"),
    (lambda z: CACRLoss(repulsion="unifrom"), "did you mean 'uniform'"),
    (lambda z: CACRLoss(constant_weights="some"), "unknown constant_weights"),
    (lambda z: CACRLoss(reduction="avg"), "unknown reduction"),
    (lambda z: CACRLoss(chunk_size=-1), "chunk_size"),
    (lambda z: CACRLoss.paper("imagenet-mocov3", debias=0.1), "debias is defined only for"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(features())


def test_one_sample_is_enough_with_a_queue():
    assert bool(CACRLoss()(features()[:, :1], features(1, 4)[0]).isfinite())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("chunk_size", [0, 3])
@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_values_that_are_not_finite_show_in_the_loss(bad, chunk_size, cost):
    z = features()
    z[0, 2, 1] = bad
    assert bool(CACRLoss(cost=cost, chunk_size=chunk_size)(z).isnan())
