import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bcl import fit_linear_probe
from bcl.core.errors import InputError
from bcl.evaluation.probe.gradient import train_heads
from bcl.evaluation.probe.lbfgs import SoftmaxProblem, minimize
from bcl.evaluation.probe.linear import fit_heads
from bcl.evaluation.probe.options import ProbeOptions, gradient_settings
from bcl.evaluation.probe.ridge import RidgeSystem


def blobs(n, classes=7, dims=12, seed=0):
    centers = torch.randn(classes, dims, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed + 1)
    labels = torch.arange(n) % classes
    return centers[labels] + 0.8 * torch.randn(n, dims, generator=generator), labels


@pytest.fixture(scope="module")
def features():
    return (*blobs(700), *blobs(350, seed=1))


def test_same_minimum_as_scikit_learn(features):
    x, y, test_x, test_y = features
    result = fit_linear_probe(*features, l2=1e-2)
    mean, std = x.mean(0), x.std(0, correction=0)
    peer = LogisticRegression(C=1 / (1e-2 * len(x)), tol=1e-8, max_iter=5000)
    peer.fit(((x - mean) / std).numpy(), y.numpy())
    assert result.accuracy == pytest.approx(
        peer.score(((test_x - mean) / std).numpy(), test_y.numpy()), abs=0.004
    )
    theirs = torch.tensor(peer.coef_).T.float()
    assert torch.allclose(result.weight * std[:, None], theirs, atol=0.02)


def test_same_result_every_time(features):
    first, second = fit_linear_probe(*features), fit_linear_probe(*features)
    assert first.weight.equal(second.weight)
    assert first.chosen["choice"] == "validation part"
    assert 0 < first.chosen["validation_accuracy"] <= 1


def test_choice_never_sees_the_test_labels(features):
    x, y, test_x, test_y = features
    shuffled = test_y[torch.randperm(test_y.numel(), generator=torch.Generator().manual_seed(0))]
    assert fit_linear_probe(x, y, test_x, shuffled).chosen == fit_linear_probe(*features).chosen


def test_absent_classes_are_said(features):
    x, y, test_x, test_y = features
    result = fit_linear_probe(x[y != 2], y[y != 2], test_x[test_y != 4], test_y[test_y != 4])
    assert not bool((result.predictions == 2).any())
    assert result.per_class_accuracy[2] == 0
    assert result.per_class_accuracy[4].isnan()
    assert "no training image of classes 2" in result.notes[0]
    assert "no test image of classes 4" in result.notes[1]


def test_one_image_a_class_leaves_no_validation_part():
    x, y = blobs(7)
    result = fit_linear_probe(x, y, *blobs(70, seed=1))
    assert result.chosen["choice"].startswith("fixed")
    assert result.chosen["l2"] == 0.01
    assert result.chosen["validation_accuracy"] is None


def test_more_dimensions_than_images_and_a_constant_feature():
    x, y = blobs(70)
    wide = torch.cat([x, x.repeat(1, 20), torch.full((70, 1), 3.0)], 1).half()
    result = fit_linear_probe(wide, y, wide, y)
    assert result.accuracy > 0.9
    assert bool(result.weight.isfinite().all())


def test_scales_of_the_features_do_not_matter(features):
    # Also of one beside another: noise of a huge scale leaves the others as they are.
    x, y, test_x, test_y = features
    plain = fit_linear_probe(*features)
    for scale in (1e-25, 1e-6, 1e10):
        scaled = fit_linear_probe(x * scale, y, test_x * scale, test_y)
        assert scaled.accuracy == pytest.approx(plain.accuracy, abs=0.004)
    noise = 1e12 * torch.randn(1050, 1, generator=torch.Generator().manual_seed(5))
    beside = fit_linear_probe(
        torch.cat([x, noise[:700]], 1), y, torch.cat([test_x, noise[700:]], 1), test_y, l2=0.03
    )
    assert beside.accuracy > plain.accuracy - 0.03


@pytest.mark.parametrize("solver", ["lbfgs", "ridge"])
def test_a_constant_feature_gets_no_weight(features, solver):
    # 1234.5678 has no exact mean in float32; what is left must not become a feature, whose value
    # in a test image would then decide everything.
    x, y, test_x, test_y = features
    plain = fit_linear_probe(*features, solver=solver, l2=0.03)
    with_constant = fit_linear_probe(
        torch.cat([x, torch.full((700, 2), 1234.5678)], 1), y,
        torch.cat([test_x, torch.full((350, 2), 1e6)], 1), test_y, solver=solver, l2=0.03,
    )  # fmt: skip
    assert with_constant.weight[12:].eq(0).all()
    assert (with_constant.predictions != plain.predictions).sum() <= 1


def test_constant_features_alone_predict_the_commonest_class():
    y = torch.tensor([0, 0, 0, 1, 1])
    result = fit_linear_probe(torch.full((5, 3), 7.7), y, torch.randn(4, 3), y[:4])
    assert result.predictions.tolist() == [0] * 4


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_features_that_want_gradients_are_taken_without(features, solver):
    x, y, test_x, test_y = features
    options = {"solver": solver, "epochs": 2 if solver == "adam" else None}
    wanting = fit_linear_probe(
        x.clone().requires_grad_(), y, test_x.clone().requires_grad_(), test_y, **options
    )
    assert not wanting.weight.requires_grad
    assert wanting.weight.equal(fit_linear_probe(*features, **options).weight)


def test_top5_never_counts_a_class_that_was_not_trained(features):
    x, y, test_x, test_y = features
    few = y < 3
    result = fit_linear_probe(x[few], y[few], test_x, test_y)
    assert result.top5 == pytest.approx(float((test_y < 3).double().mean()))


def test_numbers_of_numpy_and_tensors_are_numbers(features):
    expected = fit_linear_probe(*features, l2=0.5).weight
    for value in (np.float64(0.5), np.float32(0.5), torch.tensor(0.5)):
        result = fit_linear_probe(*features, l2=value)
        assert result.chosen["choice"] == "given"
        assert result.weight.equal(expected)
    listed = fit_linear_probe(*features, l2=torch.tensor([0.5, 1e-2]))
    assert listed.chosen["choice"] == "validation part"


def test_a_looser_tolerance_is_no_failure(features):
    result = fit_linear_probe(*features, tolerance=1e-2, l2=1e-2)
    assert result.chosen["gap"] > 1e-5
    assert result.notes == []


@pytest.mark.parametrize("solver", ["lbfgs", "ridge"])
def test_without_a_validation_part_the_middle_of_a_list_is_taken(solver):
    x, y = blobs(7)
    result = fit_linear_probe(x, y, *blobs(70, seed=1), solver=solver, l2=[0.1, 1e-3, 1e-2])
    assert result.chosen["l2"] == 0.01
    assert result.chosen["choice"] == "fixed: too few images for a validation part"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_features": torch.zeros(3)}, r"\(N, D\)"),
        ({"train_features": torch.zeros(4, 0)}, r"\(N, D\)"),
        ({"train_labels": ["a", "a", "b", "b"]}, "names in one set and numbers in another"),
        ({"train_features": torch.full((4, 2), 1e20)}, "too huge"),
        ({"test_features": torch.full((4, 2), 1e60, dtype=torch.float64)}, "too huge"),
        ({"train_features": torch.eye(4)[:, :2] > 0}, "real numbers.*bool"),
        ({"test_features": torch.eye(4)[:, :2] * 1j}, "real numbers.*complex"),
        ({"test_labels": torch.tensor([0, 1, 1, 10**9])}, "label 1,000,000,000 .* 8 images"),
        ({"l2": 1e300}, "between 1e-30 and 1e"),
        ({"l2": [0.1, 1e-40]}, "between 1e-30 and 1e"),
        ({"l2": "0.1"}, "list of numbers.* got '0.1'"),
        ({"learning_rate": 0.1}, "learning_rate is for the solvers adam, sgd, moco, cacr"),
        ({"epochs": 3}, "epochs is for the solvers adam, sgd, moco, cacr"),
        ({"l2": 0.1, "solver": "adam"}, "l2 is for the solvers lbfgs, ridge"),
        ({"train_features": torch.full((4, 2), torch.nan)}, "not finite in 4 rows, first in row 0"),
        ({"test_features": torch.zeros(4, 3)}, "same layer"),
        ({"train_labels": torch.tensor([0, -1, 1, 1])}, "integers from 0"),
        ({"train_labels": torch.zeros(4)}, "integers"),
        ({"train_labels": torch.zeros(4, dtype=torch.int64)}, "single class"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"solver": "lbgfs"}, "did you mean 'lbfgs'"),
        ({"l2": [0.0]}, "positive"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "train_features": torch.eye(4)[:, :2],
        "train_labels": torch.tensor([0, 0, 1, 1]),
        "test_features": torch.eye(4)[:, :2],
        "test_labels": torch.tensor([0, 0, 1, 1]),
        **change,
    }
    with pytest.raises(InputError, match=message):
        fit_linear_probe(**arguments)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_type(features, dtype):
    x, y, test_x, test_y = features
    narrow = fit_linear_probe(x, y.to(dtype), test_x, test_y.to(dtype))
    assert narrow.accuracy == fit_linear_probe(x, y, test_x, test_y).accuracy


def uneven():
    """9 rows of three classes, and the same with rows repeated until classes are of one size."""
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])
    x = torch.randn(9, 4, generator=generator) + y[:, None]
    rows = torch.repeat_interleave(torch.arange(9), 6 // torch.bincount(y)[y])
    return x[None], y[None], x[rows][None], y[rows][None]


def test_balanced_weights_are_repeated_rows_to_every_solver():
    x, y, many_x, many_y = uneven()
    l2 = torch.tensor([0.03])
    ours = minimize(SoftmaxProblem.of(x, y, 3, balanced=True), l2)
    theirs = minimize(SoftmaxProblem.of(many_x, many_y, 3), l2)
    plain = minimize(SoftmaxProblem.of(x, y, 3), l2)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-2, atol=2e-3)
    assert (plain.weight - theirs.weight).abs().max() > 0.05
    part = SoftmaxProblem.of(x, y, 3, balanced=True).rows(7)  # without the last class
    assert part.row_weights[0, :, 0].tolist() == pytest.approx([7 / 12] * 6 + [3.5])
    weighted = RidgeSystem(x, y, 3, balanced=True).solve(0.1)
    repeated = RidgeSystem(many_x, many_y, 3).solve(0.1)
    for one, other in zip(weighted, repeated, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    settings = gradient_settings(ProbeOptions("adam", epochs=5), images=9)
    weighted = train_heads(x, y, 3, settings, 0.01, balanced=True)
    repeated = train_heads(many_x, many_y, 3, settings, 0.01)
    torch.testing.assert_close(weighted[0], repeated[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", ["lbfgs", "ridge", "adam", "svc"])
def test_balanced_weights_help_rare_classes_and_are_named(solver):
    generator = torch.Generator().manual_seed(0)
    y = torch.repeat_interleave(torch.arange(3), torch.tensor([200, 40, 8]))
    x = torch.randn(248, 6, generator=generator) + 0.8 * torch.eye(3, 6)[y]
    rare = {}
    for weights in ("none", "balanced"):
        options = ProbeOptions(solver, epochs=30 if solver == "adam" else None,
                               class_weights=weights)  # fmt: skip
        (found,) = fit_heads(x, y, [torch.arange(248)], x, y, num_classes=3, options=options)
        assert found.chosen["class_weights"] == weights
        rare[weights] = float(found.per_class_accuracy[2])
    assert rare["balanced"] > rare["none"]


def test_unknown_class_weights():
    with pytest.raises(InputError, match="class_weights"):
        ProbeOptions(class_weights="even")
