"""The default probe against a float64 minimum, on easy, ill-conditioned and degenerate features."""

import os
import random

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from bcl import fit_linear_probe
from bcl.evaluation.probe.lbfgs import Preconditioner, SoftmaxProblem, minimize


def features(kind):
    generator = torch.Generator().manual_seed(0)
    n, dims, classes = 300, 12, 6
    y = torch.arange(n) % classes
    centers = torch.randn(classes, dims, generator=generator)
    x = centers[y] + torch.randn(n, dims, generator=generator)
    if kind == "scales":  # spread over six decades, rectified, far from zero
        x = x.relu() * torch.logspace(-3, 3, dims) + 5
    elif kind == "long tail":
        y = torch.tensor([0] * 200 + [1] * 60 + [2] * 25 + [3] * 10 + [4] * 4 + [5])
        x = centers[y] + torch.randn(n, dims, generator=generator)
    elif kind == "degenerate":  # twice the same feature, a constant one, rows that repeat
        x = torch.cat([x, x[:, :3], torch.full((n, 1), 7.0)], 1)
        x, y = x.repeat(2, 1), y.repeat(2)
    elif kind == "wide":
        x, y = torch.randn(40, 90, generator=generator), y[:40]
        x += centers[y].repeat(1, 8)[:, :90]
    elif kind == "separable":
        x = 6 * centers[y] + 0.1 * torch.randn(n, dims, generator=generator)
    return x, y


def float64_minimum(x, y, l2):
    """Weights for standardized features by SciPy, from this file's own formula."""
    x = x.double().numpy()
    deviation = x.std(0)
    deviation[np.ptp(x, axis=0) <= 1e-6 * np.abs(x).max(0)] = 1
    x = (x - x.mean(0)) / deviation
    n, dims = x.shape
    classes = int(y.max()) + 1
    one_hot = np.eye(classes)[y.numpy()]

    def objective(flat):
        w = flat.reshape(dims + 1, classes)
        z = x @ w[:-1] + w[-1]
        z -= z.max(1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        value = -(one_hot * log_p).sum() / n + l2 / 2 * (w[:-1] ** 2).sum()
        rest = (np.exp(log_p) - one_hot) / n
        return value, np.concatenate([x.T @ rest + l2 * w[:-1], rest.sum(0)[None]]).ravel()

    found = optimize.minimize(
        objective, np.zeros((dims + 1) * classes), jac=True, method="L-BFGS-B",
        options={"maxiter": 20000, "maxfun": 50000, "ftol": 0, "gtol": 1e-10, "maxcor": 50},
    )  # fmt: skip
    w = torch.as_tensor(found.x.reshape(dims + 1, classes))
    return found.fun, torch.as_tensor(x) @ w[:-1] + w[-1]


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
@pytest.mark.parametrize(
    "kind", ["plain", "scales", "long tail", "degenerate", "wide", "separable"]
)
def test_reaches_the_minimum(kind, l2):
    x, y = features(kind)
    _, expected = float64_minimum(x, y, l2)
    result = fit_linear_probe(x, y, x, y, l2=l2, tolerance=1e-8)
    assert result.chosen["gap"] < 1e-7
    logits = x.double() @ result.weight.double() + result.bias.double()
    logits -= logits.mean(1, keepdim=True)
    expected = expected - expected.mean(1, keepdim=True)
    # 1e-8 of the objective is that much in the logits, which are large where l2 is tiny.
    near = 2e-3 * max(1, float(expected.abs().max()))
    assert float((logits - expected).abs().max()) < near
    first, second = expected.topk(2).values.unbind(1)
    decided = first - second > 2 * near  # elsewhere either class may win
    assert decided.float().mean() > 0.97
    assert result.predictions[decided].equal(expected.argmax(1)[decided])


@pytest.mark.slow
def test_says_how_near_it_came_where_float32_or_patience_ends():
    x, y = features("scales")
    result = fit_linear_probe(x, y, x, y, l2=1e-7)
    assert 1e-5 < result.chosen["gap"] < 0.1
    assert "the minimum was only approached" in result.notes[0]
    assert fit_linear_probe(x, y, x, y, l2=1e-2).notes == []


@pytest.mark.slow
def test_draws_together_reach_the_minima_of_each():
    x, y = features("plain")
    rows = torch.stack([torch.randperm(300, generator=torch.Generator().manual_seed(s))[:150]
                        for s in range(4)])  # fmt: skip
    l2 = torch.tensor([1e-1, 1e-2, 1e-3, 1e-4])
    together = minimize(SoftmaxProblem.of(x[rows], y[rows], 6), l2, tolerance=1e-8)
    for draw in range(4):
        alone = minimize(
            SoftmaxProblem.of(x[rows[draw]][None], y[rows[draw]][None], 6),
            l2[draw, None],
            tolerance=1e-8,
        )
        difference = (together.weight[draw] - alone.weight[0]).abs().max()
        assert float(difference) < 2e-3 * float(alone.weight.abs().max())


def test_pairs_of_another_penalty_help():
    x, y = features("plain")
    problem = SoftmaxProblem.of(((x - x.mean(0)) / x.std(0))[None], y[None], 6)
    first = minimize(problem, torch.tensor([1e-2]), tolerance=1e-8)
    warm = minimize(problem, torch.tensor([8e-3]), first, tolerance=1e-8)
    cold = minimize(problem, torch.tensor([8e-3]), tolerance=1e-8)
    assert warm.steps < cold.steps
    assert torch.allclose(warm.weight, cold.weight, atol=1e-3)


@pytest.mark.slow
def test_preconditioner_spares_steps(monkeypatch):
    x, y = features("plain")
    mixed = torch.randn(12, 12, generator=torch.Generator().manual_seed(2))
    x = x @ (torch.logspace(0, -2, 12)[:, None] * mixed)  # correlated, as features are
    problem = SoftmaxProblem.of(((x - x.mean(0)) / x.std(0))[None], y[None], 6)
    l2 = torch.tensor([1e-3])
    here = minimize(problem, l2, tolerance=1e-8)
    monkeypatch.setattr(Preconditioner, "at", lambda problem, _=None: start)
    start = Preconditioner(
        torch.zeros(1, 12, 6), torch.ones(1, 6), torch.eye(6)[None], torch.ones(1, 1, 6),
        torch.ones(12), torch.eye(12),
    )  # fmt: skip
    plain = minimize(problem, l2, tolerance=1e-8)
    assert torch.allclose(plain.weight, here.weight, atol=5e-3)
    assert here.steps < 0.7 * plain.steps


def test_curvature_of_the_start():
    x, y = features("long tail")
    x = (x - x.mean(0)) / x.std(0)
    problem = SoftmaxProblem.of(x[None], y[None], 6)
    known, measured = Preconditioner.at(problem), Preconditioner.at(problem, problem.start())
    assert torch.allclose(known.class_values, measured.class_values, atol=1e-5)
    assert float(measured.center.abs().max()) < 1e-4


def excess(features, labels, num_classes, l2, found):
    """Share of the objective, in float64, by which it lies above scikit-learn's minimum."""
    x, y = features.double().numpy(), labels.numpy()
    model = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-10, max_iter=100_000).fit(x, y)

    def objective(weight, bias):
        z = x @ weight + bias
        losses = logsumexp(z, 1) - z[range(len(y)), y]
        return losses.mean() + 0.5 * l2 * (weight**2).sum()

    ours = objective(found.weight[0].double().numpy(), found.bias[0].double().numpy())
    return (ours - objective(model.coef_.T, model.intercept_)) / ours


@pytest.mark.slow
@pytest.mark.parametrize(("l2", "most"), [(1e-4, 1.2e-4), (1e-3, 4e-6), (1e-2, 2e-6)])
def test_the_minimum_is_as_near_as_the_documentation_says(l2, most):
    """Problems of all shapes, from classes that nothing tells apart to ones that lie apart."""
    generator = torch.Generator().manual_seed(1)
    draw = random.Random(1)
    for _ in range(int(os.environ.get("PROBLEMS", "12"))):
        n, d, c = int(20 * 25 ** draw.random()), draw.randint(2, 16), draw.randint(3, 10)
        y = torch.cat([torch.arange(c), torch.randint(c, (n - c,), generator=generator)])
        centers = 2 * torch.rand(1, generator=generator) * torch.randn(c, d, generator=generator)
        x = torch.randn(n, d, generator=generator) + centers[y]
        x = (x - x.mean(0)) / x.std(0)
        found = minimize(SoftmaxProblem.of(x[None], y[None], c), torch.tensor([l2]))
        assert excess(x, y, c, l2, found) < most
