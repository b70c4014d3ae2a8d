"""The matrix of confusions."""

import pytest
import torch

from bcl.evaluation.shots import shot_groups
from bcl.report import confusion as module
from bcl.report.confusion import confusion


def test_confusion_of_a_known_case():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    predictions = torch.tensor([[0, 0, 1, 0, 0, 1]])
    found = confusion(predictions, labels, shot_groups([9, 5, 1]))
    assert found.groups[2] == {"group": "few", "right": 0, "many": 0.5, "medium": 0.5, "few": 0}
    assert found.rows == found.columns == [2, 1, 0]  # the rarest first
    assert found.shares == [[0, 0.5, 0.5], [0, 0.5, 0.5], [0, 0, 1]]
    assert found.others == [0, 0, 0]


def test_draws_are_averaged_and_untested_classes_left_out():
    labels = torch.tensor([0, 0, 2, 2])
    predictions = torch.tensor([[0, 2, 2, 2], [0, 0, 1, 2]])
    found = confusion(predictions, labels, shot_groups([9, 5, 1]))
    assert found.rows == [2, 0]
    assert found.columns == [2, 1, 0]
    assert found.shares == [[0.75, 0.25, 0], [0.25, 0, 0.75]]
    assert [row["group"] for row in found.groups] == ["many", "few"]


def test_of_many_classes_the_rarest_and_their_answers_are_shown(monkeypatch):
    monkeypatch.setattr(module, "CLASSES", 2)
    labels = torch.tensor([0] * 4 + [1] * 4 + [2] * 4 + [3] * 4)
    predictions = torch.tensor([[0] * 4 + [1] * 4 + [0, 0, 0, 1] + [3, 3, 0, 2]])
    found = confusion(predictions, labels, shot_groups([9, 7, 5, 1]))
    assert found.rows == [3, 2]
    assert found.columns == [3, 0]  # given most often to these rows, the rarest first
    assert found.shares == [[0.5, 0.25], [0, 0.75]]
    assert found.others == pytest.approx([0.25, 0.25])
