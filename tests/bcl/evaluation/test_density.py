"""Signals of features: explicit loops, check values, samples of large collections, bad input."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from bcl import InputError
from bcl.evaluation import feature_signals


def by_loops(x, k, bandwidth):
    """Mean cosine distance to the k nearest, and minus the log density, an image at a time."""
    x = normalize(x.double(), dim=1)
    near, sparse = [], []
    for i in range(len(x)):
        others = torch.cat([x[:i], x[i + 1 :]])
        near.append((1 - others @ x[i]).sort().values[:k].mean())
        kernel = (-(others - x[i]).square().sum(1) / (2 * bandwidth**2)).exp()
        sparse.append(-kernel.mean().log())
    return torch.stack(near).float(), torch.stack(sparse).float()


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_equal_to_explicit_loops(monkeypatch, block):
    monkeypatch.setattr("bcl.evaluation.density.BLOCK_BYTES", 4 * 130 * block)
    x = torch.randn(130, 6, generator=torch.Generator().manual_seed(0))
    found = feature_signals(x, bandwidth=0.7)
    for name, k in (("neighbors_1", 1), ("neighbors", 10), ("neighbors_100", 100)):
        near, sparse = by_loops(x, k, 0.7)
        torch.testing.assert_close(found[name], near, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["sparseness"], sparse, rtol=1e-5, atol=1e-5)
    ids = torch.tensor([5, 129, 0])
    some = feature_signals(x, ("sparseness", "neighbors"), ids=ids, bandwidth=0.7)
    assert list(some) == ["sparseness", "neighbors"]
    torch.testing.assert_close(some["neighbors"], found["neighbors"][ids])


def test_densities_of_a_worked_example():
    """Computed independently: Gaussian kernel of width 0.5, the image itself included."""
    x = torch.tensor([[1, 0], [0.95, 0.1], [0.9, -0.2], [-1, 0.3]])
    without = (-feature_signals(x, ("sparseness",))["sparseness"]).exp()
    expected = torch.tensor([0.721951, 0.697824, 0.680515, 0.250298])
    torch.testing.assert_close((3 * without + 1) / 4, expected, rtol=0, atol=2e-6)


def test_a_narrow_kernel_tells_far_images_apart():
    x = torch.tensor([[1.0, 0, 0], [1, 0.01, 0], [0, 1, 0], [-1, -1, 0]])
    near, _, far, farther = feature_signals(x, ("sparseness",), bandwidth=0.1)[
        "sparseness"
    ].tolist()
    unit = normalize(x.double(), dim=1)
    squared = torch.cdist(unit, unit)[2].square() / (2 * 0.1**2)
    expected = math.log(3) - torch.logsumexp(-squared[[0, 1, 3]], 0).item()
    assert far == pytest.approx(expected, rel=1e-5)
    assert near < far < farther < math.inf


def test_a_large_collection_is_compared_with_a_sample():
    x = torch.randn(600, 64, generator=torch.Generator().manual_seed(1))
    x[30:, 0] += 30  # all but the first 30 are alike
    exact, sampled = feature_signals(x), feature_signals(x, exact_rows=300)
    for name, values in sampled.items():
        assert values[:30].min() > values[30:].max(), name
        assert not torch.equal(values, exact[name]), name
    for name in ("neighbors_1", "neighbors", "neighbors_100"):  # of fewer, so farther away
        assert bool((sampled[name] >= exact[name] - 1e-6).all()), name
    again = feature_signals(x, exact_rows=300)
    assert all(torch.equal(values, again[name]) for name, values in sampled.items())


@pytest.mark.parametrize(
    ("x", "names", "message"),
    [
        (torch.eye(12), "neighbors", "got 'neighbors'"),
        (torch.eye(12), ("projected_neighbors",), "some of neighbors_1"),
        (torch.eye(12), (), "some of neighbors_1"),
        (torch.eye(10), ("neighbors",), "more than 10 images"),
        (torch.eye(1), ("sparseness",), "more than 1 images"),
        (torch.eye(3) / 0, ("sparseness",), "not finite"),
        (torch.eye(3).long(), ("sparseness",), "floating point"),
    ],
)
def test_bad_input_is_refused(x, names, message):
    with pytest.raises(InputError, match=message):
        feature_signals(x, names)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_ids_of_any_whole_type_are_rows(dtype):
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    every = feature_signals(x, ("neighbors_1",))["neighbors_1"]
    found = feature_signals(x, ("neighbors_1",), ids=torch.arange(12, dtype=dtype))
    assert torch.equal(found["neighbors_1"], every)


@pytest.mark.parametrize("bandwidth", [0.0, 0.001, 100.0])
def test_a_kernel_that_float32_cannot_hold_is_refused(bandwidth):
    with pytest.raises(InputError, match=r"bandwidth must be a number in \[0.01, 10.0\]"):
        feature_signals(torch.eye(3), ("sparseness",), bandwidth=bandwidth)


@pytest.mark.parametrize("ids", [[0.5], [], [[0, 1]], [True], [1j]])
def test_ids_must_be_whole_numbers(ids):
    with pytest.raises(InputError, match="whole numbers"):
        feature_signals(torch.eye(12), ("neighbors",), ids=torch.tensor(ids))


@pytest.mark.parametrize("ids", [[0, 12], [-1]])
def test_ids_must_be_rows(ids):
    with pytest.raises(InputError, match=r"\[0, 12\)"):
        feature_signals(torch.eye(12), ("neighbors",), ids=torch.tensor(ids))
