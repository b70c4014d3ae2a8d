"""SogCLR and iSogCLR against check values, an explicit loop, ranks, training and bad input."""

import pytest
import torch
from ranks import pool
from small_runs import SIZE, TINY, train
from tensors import check_features, pair

from bcl import InputError, SimCLR, SogCLRLoss
from bcl.core.distributed import sum_over_ranks
from bcl.memorization.tracker import learned_trackers
from bcl.training.checkpoints import KEY, load_method


@pytest.mark.parametrize("chunk_size", [0, 1, 3, None])
def test_two_steps_have_the_check_values(chunk_size):
    views, ids = torch.stack(check_features()), torch.tensor([3, 0, 1, 2])
    loss = SogCLRLoss(5, reduction="none", chunk_size=chunk_size)
    steps = [
        (
            [0.074489, 0.160841, 0.093735, 0.131753],
            [4250.6700, 3865.5339, 4250.6665, 3865.5373],
            [-0.836291, -0.897159, -0.849566, -0.880458],
            [0.112544, 0.113457, 0.112743, 0.113207],
        ),
        (
            [-0.488837, -0.426815, -0.472031, -0.455879],
            [2016.7523, 1771.6187, 1999.3271, 1790.3353],
            [2.031074, 2.068772, 2.019844, 2.101341],
            [0.088350, 0.089155, 0.088818, 0.088290],
        ),
    ]
    momentum = torch.zeros(4)
    for losses, denominators, slopes, temperatures in steps:
        found = loss(views, ids)
        torch.testing.assert_close(found, found.new_tensor(losses), rtol=0, atol=6e-7)
        momentum = 0.5 * momentum + 0.5 * torch.tensor(slopes)
        for state, known, atol in (
            (loss.denominators, torch.tensor(denominators), 6e-4),  # float32
            (loss.momenta, momentum, 1e-6),
            (loss.temperatures, torch.tensor(temperatures), 6e-7),
        ):
            torch.testing.assert_close(state[ids], known, rtol=0, atol=atol)
    assert loss.state.seen.tolist() == [True] * 4 + [False]
    assert loss.temperatures[4] == pytest.approx(0.1)


def by_loops(views, denominator, temperature, gamma):
    """Loss per sample at given state, one row at a time; weights have no gradient."""
    u = torch.nn.functional.normalize(views, dim=-1)
    losses = []
    for i in range(u.shape[1]):
        total = 0
        for v in (0, 1):
            cosines = torch.stack(
                [u[v, i] @ u[w, j] for j in range(u.shape[1]) if j != i for w in (0, 1)]
            )
            powers = (cosines.detach() / temperature[i]).exp()
            d = (1 - gamma) * denominator[i] + gamma * powers.mean()
            total = total + (powers / d * cosines).mean() - u[v, i] @ u[1 - v, i]
        losses.append(total)
    return torch.stack(losses)


@pytest.mark.parametrize("chunk_size", [0, 3, None])
def test_value_and_gradient_match_explicit_loops(chunk_size):
    views = torch.stack(pair()).requires_grad_()
    ids, loss = torch.arange(7), SogCLRLoss(7, reduction="none", gamma=0.3, chunk_size=chunk_size)
    loss(views.detach().flip(-1), ids)  # a first step on other features
    state = loss.state.values.clone().double()
    found = loss(views, ids)
    expected = by_loops(views, state[:, 0], state[:, 1], 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    weights = torch.linspace(0.5, 2, 7).double()
    grads = [torch.autograd.grad((each * weights).sum(), views)[0] for each in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-11)


def test_the_state_changes_in_training_alone_and_temperatures_stay_if_asked():
    views, ids = torch.stack(pair()), torch.arange(7)
    loss = SogCLRLoss(7, learn_temperature=False).eval()
    loss(views, ids)
    assert not loss.state.seen.any()
    loss.train()(views, ids)
    assert loss.state.seen.all()
    assert bool((loss.temperatures == torch.tensor(0.1)).all())
    before = loss.state.values.clone()
    bad = views.clone()
    bad[0, 2, 0] = torch.nan
    assert not loss(bad, ids).isfinite()
    assert loss.state.values.isfinite().all()
    assert before.isfinite().all()


def two_steps(rank, split):
    views = torch.stack(pair(12, 5))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    loss = SogCLRLoss(12)
    for scale in (1, 2):  # unequal features per step
        z = (views + scale).split(split, 1)[rank].clone().requires_grad_()
        value = loss(z, order.split(split)[rank])
        value.backward()
    return value.detach(), z.grad, loss.state.values, sum_over_ranks(torch.ones(()))


@pytest.mark.parametrize("split", [(6, 6), (7, 5)])
def test_ranks_together_are_one_process(split):
    results = pool(2).run(two_steps, split)
    value, grad, state, _ = two_steps(0, (12,))
    torch.testing.assert_close(sum(each[0] for each in results) / 2, value)
    # A rank's gradient is that of the sum of both losses, twice the mean.
    torch.testing.assert_close(torch.cat([each[1] for each in results], 1), 2 * grad)
    for each in results:
        torch.testing.assert_close(each[2], state)
        assert each[2].equal(results[0][2])


def test_a_method_gives_it_ids_and_saves_it():
    loss = SogCLRLoss(reduction="none")
    method = SimCLR(TINY, views=SIZE, loss=loss)
    trainer = train(method)
    assert loss.state.seen.all()
    assert loss.state.num_samples == 24
    mean = float(trainer.callback_metrics["temperature"])
    assert mean == pytest.approx(float(loss.temperatures.mean()))
    again = SimCLR(TINY, views=SIZE, loss=SogCLRLoss(reduction="none"))
    # As `bcl fit` resumes: the size of the training set is not known yet.
    load_method(again, {"state_dict": method.state_dict(), KEY: {"record": {}}}, "run.ckpt")
    assert again.loss.state.values.equal(loss.state.values)
    assert "loss.state.values" in method._ddp_params_and_buffers_to_ignore
    with pytest.raises(InputError, match="9 samples"):
        SimCLR(TINY, views=SIZE, loss=SogCLRLoss(9, reduction="none"), num_samples=24)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"num_samples": 0}, "num_samples"),
        ({"temperature": 0.0}, "temperature"),
        ({"gamma": 0.0}, "gamma"),
        ({"momentum": 1.5}, "momentum"),
        ({"rho": -1.0}, "rho"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"gamma": "a"}, "gamma must be .* got 'a'"),
        ({"bounds": (0.2, 1.0)}, "bounds .*move the bounds"),
        ({"bounds": 0.5}, "bounds must be two temperatures, got 0.5; give the lowest and"),
        ({"bounds": (0.05, 0.5, 1.0)}, r"bounds must be two temperatures, got \(0.05, 0.5, 1.0\)"),
        ({"bounds": None}, "bounds must be two temperatures, got None"),
        ({"bounds": ("a", 1.0)}, "bounds must be .* got 'a'"),
        ({"bounds": (0.001, 1.0)}, "bounds"),
        ({"bounds": (0.1, 0.05)}, "bounds"),
        ({"reduction": "avg"}, "avg"),
    ],
)
def test_bad_settings_are_refused(change, word):
    with pytest.raises(InputError, match=word):
        SogCLRLoss(**{"num_samples": 4, **change})


def test_numbers_per_sample_are_refused_while_their_size_is_not_known():
    for call in (lambda each: each.figures(0, 1), lambda each: each.temperatures):
        with pytest.raises(InputError, match="build it with num_samples=N"):
            call(SogCLRLoss())


def test_another_number_of_views_is_refused_without_naming_another_loss():
    with pytest.raises(InputError, match=r"this loss takes two views.*\(3, 4, 5\)"):
        SogCLRLoss(4)(torch.rand(3, 4, 5), ids=torch.arange(4))


def test_calls_without_ids_are_refused():
    with pytest.raises(InputError, match="ids"):
        SogCLRLoss(4)(torch.eye(4).expand(2, 4, 4))


def test_gradcheck_where_the_weights_are_constant():
    """Weights have no gradient: the loss is compared with one that holds them."""
    start = torch.stack(pair(4, 3))
    loss = SogCLRLoss(4, reduction="none").eval()

    def unit_views(z):
        return torch.nn.functional.normalize(z, dim=-1)

    u = unit_views(start)
    every = u.flatten(0, 1)
    powers = (every @ every.T / loss.temperatures[0].double()).exp()
    own = torch.arange(8) % 4
    powers = powers.masked_fill(own[:, None] == own, 0)  # a sample's own two views
    weights = powers / powers.sum(1, keepdim=True)

    def holding(z):
        rows = unit_views(z).flatten(0, 1)
        cosines = rows @ rows.T
        positive = (rows * rows.roll(4, 0)).sum(1)
        return ((weights * cosines).sum(1) - positive).view(2, 4).sum(0)

    views = start.clone().requires_grad_()
    assert torch.autograd.gradcheck(holding, (views,))
    found, expected = loss(views, torch.arange(4)), holding(views)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    grads = [torch.autograd.grad(each.sum(), views)[0] for each in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-11)


def test_learned_temperatures_can_be_read_as_a_signal():
    method = SimCLR(TINY, views=SIZE, loss=SogCLRLoss(reduction="none"))
    assert learned_trackers(method) == {}
    train(method, epochs=1, limit_train_batches=1)
    found = learned_trackers(method)["temperature"]
    assert found.momentum_loss.equal(method.loss.temperatures)
    assert found.seen.equal(method.loss.state.seen)
    assert 0 < int(found.seen.sum()) < 24
    assert learned_trackers(SimCLR(TINY, views=SIZE)) == {}
    fixed = SogCLRLoss(24, learn_temperature=False, reduction="none")
    assert learned_trackers(SimCLR(TINY, views=SIZE, loss=fixed)) == {}
