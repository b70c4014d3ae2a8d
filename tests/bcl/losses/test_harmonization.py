"""Geometric harmonization: the simplex, the assignment, the loss, its memory, ranks and methods."""

import warnings

import pytest
import torch
from ranks import pool
from small_runs import SIZE, TINY, train
from tensors import check_features, pair

from bcl import (
    BCL,
    SDCLR,
    GeometricHarmonization,
    InputError,
    NTXentLoss,
    SimCLR,
    SogCLRLoss,
    nt_xent,
    simplex_etf,
    sinkhorn,
)
from cacr import CACR, CACRLoss

Q1 = [(0.799998, 0.200002, 0), (0.199999, 0.000001, 0.8), (0.000003, 0.999997, 0), (1, 0, 0)]


@pytest.mark.parametrize(("clusters", "features"), [(2, 1), (3, 3), (5, 4), (100, 128)])
@pytest.mark.parametrize("seed", [None, 0])
def test_the_simplex_has_equal_angles(clusters, features, seed):
    simplex = simplex_etf(clusters, features, seed).double()
    gram = torch.full((clusters, clusters), -1 / (clusters - 1)).double().fill_diagonal_(1)
    torch.testing.assert_close(simplex @ simplex.T, gram, rtol=0, atol=1e-6)


def assignment_by_loops(scores, sizes, epsilon, iterations, power):
    """Scalings in the exponential domain, one number at a time."""
    kernel = (scores / epsilon).exp().tolist()
    rows, columns = range(len(kernel)), range(len(kernel[0]))
    u = [1 / len(kernel) for _ in rows]
    for _ in range(iterations):
        v = [(float(sizes[k]) / sum(kernel[i][k] * u[i] for i in rows)) ** power for k in columns]
        u = [1 / len(kernel) / sum(kernel[i][k] * v[k] for k in columns) for i in rows]
    mass = [[u[i] * kernel[i][k] * v[k] for k in columns] for i in rows]
    return len(kernel) * scores.new_tensor(mass)


@pytest.mark.parametrize("relax", [None, 0.1])
def test_the_assignment_matches_explicit_loops(relax):
    scores = pair(6, 4)[0].cos()
    sizes = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    power = 1 if relax is None else relax / (relax + 0.1)
    expected = assignment_by_loops(scores, sizes, 0.1, 20, power)
    found = sinkhorn(scores, sizes, 0.1, 20, relax)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.sum(1), torch.ones(6).double())


def test_nothing_has_a_gradient():
    scores, sizes = torch.rand(4, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a marginal with a gradient, read as a number
        assert not sinkhorn(scores, sizes / 2).requires_grad


def test_the_assignment_has_the_check_values():
    z1, _ = check_features()
    scores = torch.nn.functional.normalize(z1 @ simplex_etf(3, 3).double().T, dim=1)
    sizes = torch.tensor([0.5, 0.3, 0.2]).double()
    found = sinkhorn(scores, sizes)
    torch.testing.assert_close(found, found.new_tensor(Q1), rtol=0, atol=2e-6)
    torch.testing.assert_close(found.mean(0), sizes, rtol=0, atol=1e-6)
    # float32 and extreme scores stay finite.
    assert sinkhorn(100 * scores.float(), sizes.float()).isfinite().all()


def harmonized(inner=None, clusters=3, features=3, samples=4, **settings):
    settings = {"start": 0, "ramp": 0, "seed": None, **settings}
    inner = inner or NTXentLoss(reduction="none")
    return GeometricHarmonization(inner, samples, clusters, features, **settings)


def test_the_loss_has_the_check_values():
    views, ids = torch.stack(check_features()), torch.arange(4)
    loss = harmonized().eval()
    base = nt_xent(*views, reduction="none")
    mean = (loss(views, ids=ids, epoch=0) - base).mean()
    assert float(mean) == pytest.approx(4.534440, abs=2e-6)  # of uniform sizes
    loss.marginal.copy_(torch.tensor([0.5, 0.3, 0.2]))
    found = loss(views, ids=ids, epoch=0) - base
    known = found.new_tensor([2.366304, 8.248573, 0.814641, 0.798765])
    torch.testing.assert_close(found, known, rtol=0, atol=5e-6)


def test_the_ramp_has_the_check_values():
    loss = harmonized(start=500, ramp=10)
    weights = [loss.weight(epoch) for epoch in (0, 499, 500, 501, 505, 510, 511)]
    assert weights == pytest.approx([0, 0, 0, 0.1, 0.5, 1, 1])
    share = harmonized(start=0.5, ramp=0.01)
    assert share.weight(505, epochs=1000) == pytest.approx(0.5)
    assert [harmonized(start=2, ramp=0).weight(epoch) for epoch in (1, 2)] == [0, 1]


def test_sizes_come_from_the_means_and_an_empty_cluster_counts_one_sample():
    loss = harmonized(samples=5)
    rows = torch.tensor([[0.9, 0.1, -1], [0.2, 0.1, -0.3], [-0.5, 0.8, -0.3], [0.6, 0.2, -0.8]])
    loss.state.write(torch.arange(4), rows)
    assert loss.shares().tolist() == [0.75, 0.25, 0.0]
    assert harmonized().shares().tolist() == [0.0, 0.0, 0.0]  # none was seen
    loss._refresh(0)
    torch.testing.assert_close(loss.marginal, torch.tensor([3.0, 1, 1]) / 5)


def test_means_move_and_sizes_are_taken_when_due():
    views, ids = torch.stack(pair(4, 3)), torch.arange(4)
    loss = harmonized(start=2, ramp=1, refresh=3)
    scores = torch.nn.functional.normalize(views @ loss.simplex.double().T, dim=-1)[0].float()
    refreshed = []
    for epoch in range(9):
        loss(views, ids=ids, epoch=epoch)
        refreshed.append(int(loss.refreshed))
        if epoch == 0:  # the first scores are the first means
            torch.testing.assert_close(loss.state.values, scores)
        loss(-views, ids=ids, epoch=epoch)
        if epoch == 0:
            torch.testing.assert_close(loss.state.values, 0.9 * scores - 0.1 * scores)
        loss.state.write(ids, scores)
    assert refreshed == [-1, -1, 2, 2, 2, 5, 5, 5, 8]
    again = harmonized(start=2, ramp=1, refresh=3, samples=None)
    again.load_state_dict(loss.state_dict())
    assert (again._refreshed, again.state.num_samples) == (8, 4)
    assert not again._due(9, 2)


def test_sizes_are_taken_once_where_epochs_are_fractions():
    views, ids = torch.stack(pair(4, 3)), torch.arange(4)
    loss = harmonized(start=2.5, ramp=1, refresh=3)
    loss(views, ids=ids, epoch=2.5)
    loss.marginal.fill_(0.5)
    loss(views, ids=ids, epoch=2.75)
    assert loss.marginal.tolist() == [0.5] * 3
    loss(views, ids=ids, epoch=5.5)
    assert loss.marginal.tolist() != [0.5] * 3


@pytest.mark.parametrize("views", [2, 3])
def test_value_and_gradient_match_explicit_loops(views):
    z = (
        torch.randn(views, 6, 4, generator=torch.Generator().manual_seed(0))
        .double()
        .requires_grad_()
    )
    loss = harmonized(CACRLoss(reduction="none"), 5, 4, 6, epsilon=0.2)
    found = loss(z, ids=torch.arange(6), epoch=0) - loss.loss(z)
    scores = torch.nn.functional.normalize(z @ loss.simplex.double().T, dim=-1)
    sizes = torch.full((5,), 0.2).double()
    assigned = [sinkhorn(each.detach(), sizes, 0.2) for each in scores]
    expected = torch.stack([
        sum(
            -(assigned[v][i] * (scores[w, i] / 0.1).log_softmax(0)).sum()
            for v in range(views)
            for w in range(views)
            if v != w
        )
        * 2 / (views * (views - 1))
        for i in range(6)
    ])  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # the simplex is float32
    weights = torch.linspace(0.5, 2, 6).double()
    totals = [(each * weights).sum() for each in (found, expected)]
    grads = [torch.autograd.grad(each, z, retain_graph=True)[0] for each in totals]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)


def two_steps(rank, split):
    views = torch.stack(pair(12, 4))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    loss = GeometricHarmonization(NTXentLoss(), 12, 5, 4, start=1, ramp=0)
    for epoch in (0, 1):
        z = (views + epoch).split(split, 1)[rank].clone().requires_grad_()
        value = loss(z, ids=order.split(split)[rank], epoch=epoch)
        value.backward()
    return value.detach(), z.grad, loss.state.values, loss.marginal


@pytest.mark.parametrize("split", [(6, 6), (7, 5)])
def test_ranks_together_are_one_process(split):
    results = pool(2).run(two_steps, split)
    value, grad, state, marginal = two_steps(0, (12,))
    assert marginal.max() > marginal.min()
    torch.testing.assert_close(sum(each[0] for each in results) / 2, value)
    torch.testing.assert_close(torch.cat([each[1] for each in results], 1), 2 * grad)
    for each in results:
        torch.testing.assert_close(each[2], state)
        torch.testing.assert_close(each[3], marginal)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [SimCLR, BCL, SDCLR, CACR])
def test_every_method_takes_it(cls):
    inner = CACRLoss(reduction="none") if cls is CACR else NTXentLoss(reduction="none")
    loss = GeometricHarmonization(inner, num_clusters=2, start=0.25, ramp=0.25)
    method = cls(TINY, views=SIZE, loss=loss)
    trainer = train(method, epochs=4)
    assert loss.state.seen.all()
    assert int(loss.refreshed) == 1
    assert float(trainer.callback_metrics["harmonization"]) == 1
    assert bool(method.tracker.momentum_loss.isfinite().all())


@pytest.mark.parametrize("start", [0, 500])
def test_a_batch_smaller_than_the_clusters_is_warned_about_once_and_at_once(start):
    views, ids = torch.stack(pair(4, 5)), torch.arange(4)
    loss = harmonized(clusters=5, features=5, start=start)
    with pytest.warns(UserWarning, match="4 samples cannot fill 5 clusters") as told:
        loss(views, ids=ids, epoch=0)
    assert told[0].filename == __file__  # the call, not a file of PyTorch
    loss(views, ids=ids, epoch=0)


SIZES = torch.tensor([0.5, 0.3, 0.2])
BAD = [
    (lambda: simplex_etf(5, 3), "num_clusters=5"),
    (lambda: simplex_etf(1, 3), "num_clusters"),
    (lambda: simplex_etf(3, 3, seed=0.5), "seed must be an integer of at least 0, got 0.5"),
    (lambda: GeometricHarmonization(None), "loss must be a module, such as .* got None"),
    (
        lambda: sinkhorn(torch.rand(4, 3), torch.tensor([0.5, 0.5, 0.0])),
        r"marginal\[2\].*one sample",
    ),
    (lambda: sinkhorn(torch.rand(4, 3), 2 * SIZES), "sum to 1"),
    (lambda: sinkhorn(torch.rand(4, 3), SIZES[:2]), "marginal"),
    (lambda: sinkhorn(torch.rand(4), SIZES), "scores"),
    (lambda: sinkhorn(torch.rand(0, 3), SIZES), "one sample or more"),
    (lambda: sinkhorn(torch.rand(4, 3), SIZES, epsilon=0.0), "epsilon"),
    (lambda: sinkhorn(torch.rand(4, 3), SIZES, iterations=0), "iterations"),
    (lambda: sinkhorn(torch.rand(4, 3), SIZES, relax=0.0), "relax"),
    (lambda: harmonized(clusters=9), "num_clusters=9"),
    (lambda: harmonized(start=-1), "start"),
    (lambda: GeometricHarmonization(NTXentLoss(), None).shares(), "build it with num_samples=N"),
    (lambda: harmonized(refresh=0), "refresh"),
    (lambda: harmonized()(torch.rand(2, 4, 3), epoch=0), "ids"),
    (lambda: harmonized()(torch.rand(2, 4, 3), ids=torch.arange(4)), "epoch"),
    (lambda: harmonized()(torch.rand(2, 4, 6), ids=torch.arange(4), epoch=0), "features=6"),
    (lambda: harmonized(start=0.5)(torch.rand(2, 4, 3), ids=torch.arange(4), epoch=1), "start"),
    (
        lambda: harmonized(start=500)(
            torch.rand(2, 4, 3), ids=torch.arange(4), epoch=1, epochs=100
        ),
        "start=500 lies beyond the 100 epochs of the run; set it lower, such as 0.5 for half",
    ),
    (lambda: harmonized().weight(None), "epoch"),
]


def test_a_refused_call_leaves_the_inner_loss_as_it_was():
    inner = SogCLRLoss(4)
    loss_of = GeometricHarmonization(inner, 4, num_clusters=3, features=4)
    for call in ({"epoch": 0}, {"ids": torch.arange(4)}, {"ids": torch.arange(4), "epoch": 0}):
        with pytest.raises(InputError):
            loss_of(torch.rand(2, 4, 3), **call)
    assert not inner.state.seen.any()


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_gradcheck_where_the_assignment_is_constant(monkeypatch):
    """Assignments have no gradient, so they are held while the views move."""
    views, ids = torch.stack(pair(5, 4)), torch.arange(5)
    loss_of = GeometricHarmonization(NTXentLoss(), 5, num_clusters=3, features=4, start=0, ramp=0)
    loss_of.eval().double()
    loss_of(views, ids=ids, epoch=1)
    scores = torch.nn.functional.normalize(views @ loss_of.simplex.double().T, dim=-1)
    held = torch.stack([sinkhorn(each, loss_of.marginal) for each in scores])
    monkeypatch.setattr("bcl.losses.harmonization._sinkhorn", lambda *_: held)
    views.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss_of(z, ids=ids, epoch=1), (views,))
