"""What tail classes are taken for."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from bcl.evaluation.shots import GROUPS

RAREST = 12  # tail classes listed
TAKEN_FOR = 3  # wrong answers listed for each


def tail_confusion(
    predictions: Tensor, labels: Tensor, groups: dict[str, list[int]], class_counts: list[int]
) -> dict[str, Any]:
    """Confusions between the groups, and the commonest wrong answers for the rarest classes.

    Args:
        predictions: (draws, M) predicted labels.
        labels: (M,).
        groups: group name to class ids.
        class_counts: training images by class.

    Returns:
        ``groups``: for each true group the share of test images that were answered rightly and
        the shares of wrong answers by group; ``classes``: the rarest tested classes with their
        commonest wrong answers and shares.
    """
    num_classes = len(class_counts)
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for draw in predictions:
        matrix += multiclass_confusion_matrix(
            draw, labels, num_classes=num_classes, validate_args=False
        )
    share = matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)  # (C, C), rows are true
    wrong = share.clone()
    wrong.fill_diagonal_(0)
    tested = matrix.sum(1) > 0
    table = []
    for name in GROUPS:
        rows = [c for c in groups[name] if bool(tested[c])]
        if not rows:
            continue
        table.append(
            {
                "group": name,
                "right": float(share.diagonal()[rows].mean()),
                **{other: float(wrong[rows][:, groups[other]].sum(1).mean()) for other in GROUPS},
            }
        )
    rare = sorted((c for c in range(num_classes) if bool(tested[c])), key=lambda c: class_counts[c])
    classes = []
    for class_id in rare[:RAREST]:
        values, others = wrong[class_id].topk(min(TAKEN_FOR, num_classes))
        classes.append(
            {
                "class": class_id,
                "right": float(share[class_id, class_id]),
                "taken_for": [
                    {"class": int(other), "share": float(value)}
                    for value, other in zip(values, others, strict=True)
                    if value > 0
                ],
            }
        )
    return {"groups": table, "classes": classes}
