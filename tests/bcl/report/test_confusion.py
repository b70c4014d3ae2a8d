"""The matrix of confusions."""

import torch

from bcl.evaluation.shots import shot_groups
from bcl.report.confusion import tail_confusion


def test_confusion_of_a_known_case():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    predictions = torch.tensor([[0, 0, 1, 0, 0, 1]])
    found = tail_confusion(predictions, labels, shot_groups([9, 5, 1]))
    assert found["groups"][2] == {"group": "few", "right": 0, "many": 0.5, "medium": 0.5, "few": 0}
    assert found["classes"][0]["class"] == 2
    assert found["classes"][0]["taken_for"][0]["share"] == 0.5
    assert found["classes"][2]["taken_for"] == []
