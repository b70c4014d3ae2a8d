"""Which classes the tail is confused with."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from bcl.evaluation.shots import ShotGroups

RAREST = 12  # tail classes listed
TAKEN_FOR = 3  # wrong answers listed for each


def tail_confusion(predictions: Tensor, labels: Tensor, groups: ShotGroups) -> dict[str, Any]:
    """Shares of right and wrong answers by group, and the rarest classes with their confusions.

    From (draws, M) predicted and (M,) true labels; classes and groups that were not tested are
    left out.
    """
    counts = groups.class_counts.tolist()
    answers, truth = predictions.flatten(), labels.repeat(len(predictions))
    matrix = multiclass_confusion_matrix(
        answers, truth, num_classes=len(counts), validate_args=False
    )  # (C, C), rows are true
    share = matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)
    right = share.diagonal().clone()
    wrong = share.fill_diagonal_(0)
    tested = matrix.sum(1) > 0
    table = [
        {
            "group": name,
            "right": float(right[rows].mean()),
            **{o: float(wrong[rows][:, i].sum(1).mean()) for o, i in groups.as_dict().items()},
        }
        for name, ids in groups.as_dict().items()
        if len(rows := ids[tested[ids]])
    ]
    rare = sorted(torch.nonzero(tested).flatten().tolist(), key=counts.__getitem__)[:RAREST]
    classes = []
    for class_id in rare:
        found = zip(*wrong[class_id].topk(min(TAKEN_FOR, len(counts))), strict=True)
        taken = [{"class": int(c), "share": float(value)} for value, c in found if value > 0]
        classes.append({"class": class_id, "right": float(right[class_id]), "taken_for": taken})
    return {"groups": table, "classes": classes}
