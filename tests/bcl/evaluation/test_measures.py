import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from bcl.core.errors import InputError
from bcl.evaluation.measures import (
    alignment,
    class_spread,
    representation_measures,
    tail_discovery,
    uniformity,
)
from bcl.evaluation.metrics import (
    auroc,
    class_accuracy,
    confidence_interval,
    group_accuracy,
    spearman,
    top_k_accuracy,
)
from bcl.evaluation.shots import shot_groups


def test_uniformity_and_alignment_by_their_definition():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    y = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    a, b = (torch.nn.functional.normalize(z, dim=1) for z in (x, y))
    assert uniformity(x) == pytest.approx(
        torch.pdist(a).square().mul(-2).exp().mean().log().item(), abs=1e-5
    )
    assert alignment(x, y) == pytest.approx((a - b).norm(dim=1).square().mean().item(), abs=1e-5)
    with pytest.raises(InputError, match="two images"):
        uniformity(x[:1])


def test_spread_grows_with_the_noise():
    labels = torch.arange(600) % 3
    centers = torch.eye(3)[labels]
    noise = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    spread = class_spread(
        centers + noise * torch.tensor([0.1, 0.3, 0.9])[labels][:, None], labels, 4
    )
    assert spread[0] < spread[1] < spread[2]
    assert spread[3].isnan()
    measures = representation_measures(centers + noise, labels, shot_groups([9, 5, 1]))
    assert measures["alignment"] is None
    assert 0 < measures["spread"]["all"] < 1


def test_tail_discovery_with_a_known_answer():
    counts = torch.tensor([50, 20, 5])
    labels = torch.repeat_interleave(torch.arange(3), counts)
    loss = 10.0 - counts[labels].float().log() + torch.linspace(0, 0.1, 75)
    seen = torch.ones(75, dtype=torch.bool)
    found = tail_discovery(loss, loss / 20, seen, labels, counts)
    assert found["spearman_classes"] == pytest.approx(-1)
    assert found["auroc_tail"] == pytest.approx(1)
    assert sum(found["score_histogram"]) == 75
    only_head = tail_discovery(loss, loss / 20, labels == 0, labels, counts)
    assert math.isnan(only_head["auroc_tail"])
    assert only_head["by_class"][2]["mean"] is None


def test_rank_statistics_equal_those_of_the_peers():
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 9, (200,), generator=generator).double()  # with ties
    b = a + torch.randn(200, generator=generator)
    positive = torch.rand(200, generator=generator) < 0.3
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert auroc(a, positive) == pytest.approx(roc_auc_score(positive, a))
    assert math.isnan(spearman(a, torch.zeros(200)))
    assert math.isnan(auroc(a, torch.zeros(200, dtype=torch.bool)))


def test_intervals_equal_students_t():
    from scipy.stats import t

    for n in (2, 5, 31, 32, 50, 200):
        values = torch.randn(n, generator=torch.Generator().manual_seed(n)).double()
        mean, half = confidence_interval(values.tolist())
        assert mean == pytest.approx(values.mean().item())
        assert half == pytest.approx(t.ppf(0.975, n - 1) * values.std().item() / n**0.5, rel=1e-9)
    assert math.isnan(confidence_interval([0.5])[1])


def test_group_accuracy_of_a_published_row():
    # BCL-D on CIFAR-100-LT: 53.92/51.77/50.07, Std 1.93 (over n - 1), All 51.95.
    groups = shot_groups(torch.arange(100, 0, -1))
    per_class = torch.tensor([53.92] * 34 + [51.77] * 33 + [50.07] * 33, dtype=torch.float64)
    result = group_accuracy(per_class, groups)
    assert round(result["std_sample"], 2) == 1.93
    assert round(result["class_mean"], 2) == 51.94
    with pytest.raises(InputError, match="same data set"):
        group_accuracy(per_class[:50], groups)


def test_absent_classes_and_top_k():
    labels = torch.tensor([0, 0, 2])
    assert class_accuracy(torch.tensor([0, 1, 2]), labels, 4).tolist()[:1] == [0.5]
    assert class_accuracy(torch.tensor([0, 1, 2]), labels, 4).isnan().tolist() == [
        False, True, False, True,
    ]  # fmt: skip
    logits = torch.tensor([[3.0, 2, 1, 0], [1, 2, 3, 0], [0, 1, 2, 3]])
    assert top_k_accuracy(logits, labels, 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(logits, labels, 2) == pytest.approx(2 / 3)
    assert top_k_accuracy(logits, labels, 5) == 1.0
