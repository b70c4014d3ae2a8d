import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bcl import fit_linear_probe
from bcl.errors import InputError
from bcl.evaluation.linear import split_validation


def blobs(n, classes=7, dims=12, seed=0):
    centres = torch.randn(classes, dims, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed + 1)
    labels = torch.arange(n) % classes
    return centres[labels] + 0.8 * torch.randn(n, dims, generator=generator), labels


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
    assert first.chosen["rule"] == "validation part"
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
    assert "no training picture of classes 2" in result.notes[0]
    assert "no test picture of classes 4" in result.notes[1]


def test_validation_part_is_stratified_and_spares_single_pictures():
    labels = torch.tensor([0] * 10 + [1] * 5 + [2])
    fit, held = split_validation(labels, 0.2, 0)
    assert torch.bincount(labels[held], minlength=3).tolist() == [2, 1, 0]
    assert torch.cat([fit, held]).sort().values.equal(torch.arange(16))


def test_one_picture_a_class_leaves_no_validation_part():
    x, y = blobs(7)
    result = fit_linear_probe(x, y, *blobs(70, seed=1))
    assert result.chosen["rule"].startswith("fixed")
    assert result.chosen["l2"] == 0.01
    assert result.chosen["validation_accuracy"] is None


def test_more_dimensions_than_pictures_and_a_constant_feature():
    x, y = blobs(70)
    wide = torch.cat([x, x.repeat(1, 20), torch.full((70, 1), 3.0)], 1).half()
    result = fit_linear_probe(wide, y, wide, y)
    assert result.accuracy > 0.9
    assert bool(result.weight.isfinite().all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_features": torch.zeros(3)}, r"\(N, D\)"),
        ({"train_features": torch.full((4, 2), torch.nan)}, "NaN or infinity, first row 0"),
        ({"test_features": torch.zeros(4, 3)}, "same layer"),
        ({"train_labels": torch.tensor([0, -1, 1, 1])}, "label for every picture"),
        ({"train_labels": torch.zeros(4)}, "integers"),
        ({"train_labels": torch.zeros(4, dtype=torch.int64)}, "single class"),
        ({"num_classes": 1}, "num_classes is 1"),
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
