"""The papers' gradient solvers, step by step; and that every solver learns."""

import math

import pytest
import torch
from blobs import blobs

from bcl import fit_linear_probe
from bcl.core.errors import InputError
from bcl.evaluation.probe.gradient import train_heads
from bcl.evaluation.probe.options import GRADIENT_SOLVERS, SOLVERS, ProbeOptions, gradient_settings


@pytest.fixture(scope="module")
def features():
    return (*blobs(400), *blobs(200, seed=1))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_learns_and_repeats_itself(features, solver):
    epochs = 20 if solver in GRADIENT_SOLVERS else None
    rate = {"adam": 0.1, "sgd": 0.5, "moco": 0.5, "cacr": 0.05}.get(solver)
    options = {"solver": solver, "epochs": epochs, "learning_rate": rate, "seed": 3}
    first = fit_linear_probe(*features, **options)
    assert first.accuracy > 0.8
    assert first.chosen["solver"] == solver
    assert first.weight.equal(fit_linear_probe(*features, **options).weight)


def settings(solver, **options):
    return gradient_settings(ProbeOptions(solver, **options))


def plain_loop(x, y, classes, rule, seed, fresh=None):
    """The same training by torch.optim and autograd, one head, from the same start and order."""
    from bcl.core.random import permutation, uniform

    d = x.shape[1]
    start = (uniform(seed, 0x11EAD, torch.arange((d + 1) * classes)) * 2 - 1) / math.sqrt(d)
    layer = torch.nn.Linear(d, classes)
    with torch.no_grad():
        layer.weight.copy_(start[: d * classes].view(d, classes).T)
        layer.bias.copy_(start[d * classes :])
    if rule.optimizer == "adam":
        optimizer = torch.optim.Adam(
            layer.parameters(), rule.learning_rates[0], rule.betas, weight_decay=rule.weight_decay
        )
    else:
        optimizer = torch.optim.SGD(layer.parameters(), rule.learning_rates[0], rule.momentum)
    if rule.last_rate is not None:
        gamma = (rule.last_rate / rule.learning_rates[0]) ** (1 / rule.epochs)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
    else:
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, rule.milestones, rule.factor)
    for epoch in range(rule.epochs):
        order = permutation(len(x), seed, epoch, 0x0BDE5)
        now = x if fresh is None else fresh(epoch)
        for rows in order.split(rule.batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(now[rows]), y[rows]).backward()
            optimizer.step()
        schedule.step()
    return layer.weight.detach().T, layer.bias.detach()


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("solver", GRADIENT_SOLVERS)
def test_steps_equal_torch_optim(features, solver, anew):
    x, y, *_ = features
    rate = 0.5 if solver in ("sgd", "moco") else None
    rule = settings(solver, epochs=6, learning_rate=rate)

    def each(epoch):  # features of its own in every epoch
        return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(epoch))

    fresh = (lambda epoch: each(epoch)[None]) if anew else None
    w, b, _ = train_heads(x[None], y[None], 5, rule, rule.learning_rates[0], 1, fresh=fresh)
    their_w, their_b = plain_loop(x, y, 5, rule, 1, each if anew else None)
    assert torch.allclose(w[0], their_w, atol=2e-4)
    assert torch.allclose(b[0], their_b, atol=2e-4)


def test_draws_trained_together_equal_draws_trained_alone(features):
    x, y, test_x, test_y = features
    draws = torch.stack([x[:200], x[200:]]), torch.stack([y[:200], y[200:]])
    rule = settings("cacr", epochs=4)
    together = train_heads(*draws, 5, rule, 0.1, test=(test_x, test_y))
    for index in range(2):
        alone = train_heads(*(d[index, None] for d in draws), 5, rule, 0.1, test=(test_x, test_y))
        for one, other in zip(together, alone, strict=True):
            assert torch.allclose(one[index], other[0], atol=1e-5)


def test_choice_of_rates_is_made_on_the_validation_part(features):
    x, y, test_x, test_y = features
    rates = [1e-8, 0.1]
    shuffled = test_y.flip(0)
    options = {"solver": "sgd", "learning_rate": rates, "epochs": 10}
    result = fit_linear_probe(x, y, test_x, test_y, **options)
    assert result.chosen["learning_rate"] == 0.1
    assert result.chosen["choice"] == "validation part"
    assert fit_linear_probe(x, y, test_x, shuffled, **options).chosen == result.chosen


def test_the_papers_settings():
    sgd, few, moco = settings("sgd"), settings("sgd", few_shot=True), settings("moco")
    assert (sgd.epochs, sgd.milestones, sgd.batch_size) == (30, (10, 20), 128)
    assert (few.epochs, few.milestones) == (100, (40, 60))
    assert (moco.epochs, moco.milestones, moco.batch_size) == (100, (60, 80), 256)
    assert {each.learning_rates for each in (sgd, few, moco)} == {(30.0,)}
    assert gradient_settings(ProbeOptions("sgd"), images=50_001).batch_size == 512


def test_best_test_epoch_is_flagged(features):
    result = fit_linear_probe(*features, solver="cacr", epochs=5, selection="best_test")
    last = fit_linear_probe(*features, solver="cacr", epochs=5)
    assert result.accuracy >= last.accuracy
    assert "BEST EPOCH ON THE TEST SET" in result.chosen["settings"]
    assert "optimistic" in result.notes[-1]
    assert last.notes == []


def test_divergence_is_an_error_with_a_way_out(features):
    x, y, test_x, test_y = features
    with pytest.raises(InputError, match="diverged at learning rate 1e\\+30"):
        fit_linear_probe(x * 1e6, y, test_x, test_y, solver="sgd", learning_rate=1e30, epochs=3)
