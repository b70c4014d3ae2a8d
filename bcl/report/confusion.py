"""Which answers test images get, class by class."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from bcl.evaluation.shots import ShotGroups

CLASSES = 20  # rows and columns that a page has room for


@dataclass
class Confusion:
    """Shares of answers by true class, and the images of each confusion that can be shown.

    Attributes:
        groups: by group, the share of right answers and where the wrong ones go.
        rows: true classes, the rarest first; those that were tested.
        columns: answers, in the same order: all classes, or those given most often to the rows.
        shares: (R, C) of each row's test images.
        others: (R,) answers that are in no column.
        images: rows of the page's images by true class and answer.
    """

    groups: list[dict[str, float | str]]
    rows: list[int]
    columns: list[int]
    shares: list[list[float]]
    others: list[float]
    images: dict[tuple[int, int], list[int]] = field(default_factory=dict)


def confusion(predictions: Tensor, labels: Tensor, groups: ShotGroups) -> Confusion:
    """From (draws, M) predicted and (M,) true labels; classes that were not tested are left out."""
    counts = groups.class_counts
    answers, truth = predictions.flatten(), labels.repeat(len(predictions))
    matrix = multiclass_confusion_matrix(
        answers, truth, num_classes=len(counts), validate_args=False
    )  # (C, C), rows are true
    share = matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)
    tested = matrix.sum(1) > 0
    rarest = torch.sort(counts, stable=True).indices
    rows = rarest[tested[rarest]][:CLASSES]
    given = torch.sort(share[rows].sum(0), descending=True, stable=True).indices[:CLASSES]
    columns = rarest[torch.isin(rarest, given)]
    others = (matrix[rows].sum(1) - matrix[rows][:, columns].sum(1)) / matrix[rows].sum(1)
    return Confusion(
        _by_group(share, tested, groups),
        rows.tolist(),
        columns.tolist(),
        share[rows][:, columns].tolist(),
        others.tolist(),
    )


def _by_group(share: Tensor, tested: Tensor, groups: ShotGroups) -> list[dict[str, float | str]]:
    """Mean over a group's classes of right answers, and of wrong ones by the group they go to."""
    right, wrong = share.diagonal(), share - share.diag().diag()
    return [
        {
            "group": name,
            "right": float(right[rows].mean()),
            **{o: float(wrong[rows][:, i].sum(1).mean()) for o, i in groups.as_dict().items()},
        }
        for name, ids in groups.as_dict().items()
        if len(rows := ids[tested[ids]])
    ]
