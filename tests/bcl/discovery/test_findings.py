import numpy as np
import pytest
import torch

from bcl.core.errors import InputError
from bcl.discovery.findings import MAIN, DiscoverOptions, describe_classes, find
from bcl.discovery.quality import MEASURES
from bcl.discovery.table import Table

QUICK = DiscoverOptions(projection="pca", clusters=3, label_first=4)
SIZES = (30, 20, 4)


def make(**columns):
    """Three groups of falling size; the last two images are copies."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(3).repeat_interleave(torch.tensor(SIZES))
    x = torch.eye(6)[groups] + 0.05 * torch.randn(len(groups), 6, generator=generator)
    x[-1] = x[-2] + 1e-4
    n = len(x)
    base = {"id": np.arange(n), "path": np.array([f"{i}.jpg" for i in range(n)])}
    return Table(base | columns, x.numpy()), groups


def test_findings_of_an_embedding_alone():
    table, groups = make()
    found = find(table, QUICK)
    assert list(found.scores) == ["neighbor_distance_10", "neighbor_distance_1"]
    assert set(found.rarest(MAIN, 4)) == {50, 51, 52, 53}
    assert torch.equal(found.clusters.of, groups)
    assert (found.groups >= 0).nonzero().flatten().tolist() == [52, 53]
    assert found.flags == {}
    assert found.classes is None
    columns = found.columns()
    assert {len(values) for values in columns.values()} == {54}
    assert columns["label_first"][found.chosen].tolist() == [0, 1, 2, 3]


def test_signals_and_flags_of_the_table():
    loss = np.linspace(0, 1, 54, dtype=np.float32)
    loss[7] = np.nan  # never seen
    quality = {name: np.full(54, 4.0, np.float32) for name in MEASURES}
    quality["brightness"][50] = 0.01
    table, _ = make(momentum_loss=loss, **quality)
    found = find(table, QUICK)
    assert found.rarest("momentum_loss", 2) == [53, 52]
    assert found.scores["momentum_loss"][7] == 0
    assert found.flags["dark"].nonzero().flatten().tolist() == [50]
    assert 50 not in found.chosen.tolist()


def test_labels_say_how_well_the_tail_was_found_and_change_nothing_else():
    table, groups = make()
    labels = [("many", "medium", "few")[g] for g in groups.tolist()]
    found, blind = find(table, QUICK, labels), find(table, QUICK)
    assert found.classes.counts == {"many": 30, "medium": 20, "few": 4}
    assert found.classes.found[MAIN].auc.value == 1
    assert torch.equal(found.chosen, blind.chosen)
    assert torch.equal(found.clusters.of, blind.clusters.of)


def test_auroc_as_by_pairs():
    labels = ["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["", ""]
    scores = torch.tensor([1.0, 2, 3, 4, 5, 9, 9, 9, 3, 4.5, 7, 7])
    wins = [(x > y) + 0.5 * (x == y) for x in (3, 4.5) for y in (1, 2, 3, 4, 5)]
    found = describe_classes(labels, {"s": scores}).found["s"].auc.value
    assert found == pytest.approx(sum(wins) / len(wins))
    assert describe_classes(["a", "a"], {"s": scores[:2]}).found == {}
    assert describe_classes(["a", "b", "c"], {"s": scores[:3]}).found == {}  # none is rarer
    two = describe_classes(["b", "a", "a", ""], {"s": torch.tensor([5.0, 1, 2, 3])})
    assert two.group == {"a": "many", "b": "few"}
    assert two.found["s"].auc.value == 1


def test_more_clusters_than_images():
    with pytest.raises(InputError, match="99 clusters"):
        find(make()[0], DiscoverOptions(clusters=99))
