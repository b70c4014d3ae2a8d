import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from bcl.core.errors import InputError
from bcl.evaluation import knn
from bcl.evaluation.knn import knn_predict


def points(n, seed):
    centers = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 6
    return centers[labels] + torch.randn(n, 9, generator=generator), labels


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [1 << 10, 64 << 20])
def test_equals_scikit_learn(metric, block, monkeypatch):
    monkeypatch.setattr(knn, "BLOCK_BYTES", block)
    monkeypatch.setattr(knn, "TEST_ROWS", 50)
    x, y = points(300, 1)
    test, _ = points(120, 2)
    found = knn_predict(x, y, test, (1, 10, 200), metric=metric)
    for k, predictions in found.items():
        peer = KNeighborsClassifier(k, metric=metric).fit(x.numpy(), y.numpy())
        votes = torch.as_tensor(peer.predict_proba(test.numpy()))
        ours = votes.gather(1, predictions[:, None])[:, 0]
        assert torch.equal(ours, votes.max(1).values)  # one of the classes with most votes


def test_nearer_neighbor_breaks_ties():
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    y = torch.tensor([1, 0, 1, 0])
    found = knn_predict(x, y, torch.tensor([[0.9]]), (2,), metric="euclidean")
    assert found[2].item() == 0


def test_votes_by_similarity():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    y = torch.tensor([0, 1, 1])
    test = torch.tensor([[1.0, 0.05]])
    assert knn_predict(x, y, test, (3,))[3].item() == 1
    assert knn_predict(x, y, test, (3,), temperature=0.07)[3].item() == 0


def test_more_neighbors_than_images_uses_all():
    x, y = points(12, 1)
    assert knn_predict(x, y, x, (200,))[200].shape == (12,)


def test_a_low_temperature_overflows_nothing():
    x, y = points(300, 1)
    test, _ = points(50, 2)
    found = knn_predict(x, y, test, (1, 30), temperature=1e-4)
    assert found[30].equal(found[1])  # the nearest alone counts


def test_narrow_labels_and_gradients():
    x, y = points(60, 1)
    expected = knn_predict(x, y, x, (5,))[5]
    assert knn_predict(x.clone().requires_grad_(), y.to(torch.uint8), x, (5,))[5].equal(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "cosin"}, "did you mean 'cosine'"),
        ({"ks": (0,)}, "at least 1"),
        ({"temperature": 0.0}, "temperature"),
        ({"test_features": torch.zeros(5, 3)}, r"\(12, 9\), \(12,\) and \(5, 3\)"),
        ({"test_features": torch.zeros(0, 9)}, "neighbors need"),
        ({"train_labels": torch.zeros(11).long()}, "neighbors need"),
        (
            {"train_features": torch.full((12, 9), torch.nan)},
            "train features are not finite in 12 rows",
        ),
        (
            {"test_features": torch.full((2, 9), torch.inf)},
            "test features are not finite in 2 rows",
        ),
    ],
)
def test_bad_input(options, message):
    x, y = points(12, 1)
    with pytest.raises(InputError, match=message):
        knn_predict(**{"train_features": x, "train_labels": y, "test_features": x, **options})
