import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

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


def test_more_neighbors_than_images_uses_all():
    x, y = points(12, 1)
    assert knn_predict(x, y, x, (200,))[200].shape == (12,)


def test_narrow_labels_and_gradients():
    x, y = points(60, 1)
    expected = knn_predict(x, y, x, (5,))[5]
    assert knn_predict(x.clone().requires_grad_(), y.to(torch.uint8), x, (5,))[5].equal(expected)
