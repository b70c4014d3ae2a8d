"""Many, Medium and Few: which classes of a long-tailed training set belong to which group."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bcl.core.checks import check_choice
from bcl.core.errors import InputError

GROUPINGS = ("thirds", "thresholds", "fifths")
REPORTED = ("thirds", "thresholds")  # in every report
GROUPS = ("many", "medium", "few")
MORE_THAN, FEWER_THAN = 100, 20  # training images, the bounds of "thresholds"
DESCRIPTIONS = {
    "thirds": "thirds of the classes sorted by training images, leftover classes to Many",
    "thresholds": f"more than {MORE_THAN}, {FEWER_THAN} to {MORE_THAN}, fewer than {FEWER_THAN} "
    "training images",
    "fifths": "the fifth of the classes with the most training images, the others, the fifth with "
    "the fewest",
}


@dataclass(frozen=True)
class ShotGroups:
    """Class ids by group, the most frequent class first.

    Attributes:
        grouping: one of `GROUPINGS`.
        class_counts: (C,) int64, training images per class.
        many: class ids.
        medium: class ids.
        few: class ids.

    Example:
        >>> groups = shot_groups([450, 30, 4, 120, 60, 8])
        >>> groups.of_class()
        ['many', 'medium', 'few', 'many', 'medium', 'few']
        >>> {name: ids.tolist() for name, ids in groups.as_dict().items()}
        {'many': [0, 3], 'medium': [4, 1], 'few': [5, 2]}
    """

    grouping: str
    class_counts: Tensor
    many: Tensor
    medium: Tensor
    few: Tensor

    @property
    def description(self) -> str:
        """The grouping in words, and how many classes each group has."""
        sizes = "/".join(str(ids.numel()) for ids in self.as_dict().values())
        return f"{self.grouping}: {DESCRIPTIONS[self.grouping]}; {sizes} classes"

    def as_dict(self) -> dict[str, Tensor]:
        """Group name to class ids, in the order Many, Medium, Few."""
        return {"many": self.many, "medium": self.medium, "few": self.few}

    def of_class(self) -> list[str]:
        """Group name of every class, by class id."""
        names = {c: group for group, ids in self.as_dict().items() for c in ids.tolist()}
        return [names[c] for c in range(self.class_counts.numel())]


def shot_groups(class_counts: Any, grouping: str = "thirds") -> ShotGroups:
    r"""Split classes into Many, Medium and Few by their number of training images.

    ``"thirds"``: classes sorted by count (equal counts by class id), :math:`\lfloor C/3 \rfloor`
    for Few and for Medium, the rest to Many: 34/33/33 of 100 and 4/3/3 of 10. CIFAR results use
    it. ``"thresholds"``: :math:`n_c > 100`, :math:`20 \le n_c \le 100`, :math:`n_c < 20`, as on
    ImageNet-LT and Places-LT; a group may be empty. ``"fifths"``: :math:`\lfloor C/5 \rfloor` most
    and least frequent classes, whose gap the theory of pruned contrastive learning reports.

    Args:
        class_counts: (C,) images per class of the long-tailed training set, any sequence.
        grouping: ``"thirds"``, ``"thresholds"`` or ``"fifths"``.

    Returns:
        The groups.

    Raises:
        InputError: unknown grouping; counts that are negative, fractional or not in one row; fewer
            than three classes for ``"thirds"``, than five for ``"fifths"``.

    Source: SDCLR (arXiv 2106.02990), Liu et al. 2019 (arXiv 1904.05160).

    Example:
        >>> groups = shot_groups([450, 30, 4, 120, 60, 8, 15, 200, 90, 5])
        >>> groups.many.tolist(), groups.few.tolist()
        ([0, 7, 3, 8], [5, 9, 2])
        >>> shot_groups([450, 30, 4], grouping="thresholds").medium.tolist()
        [1]
    """
    check_choice("grouping", grouping, GROUPINGS)
    try:
        given = torch.as_tensor(class_counts).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        given = torch.empty(0)
    if given.ndim != 1 or given.numel() == 0:
        raise InputError(
            f"class_counts must be one row of counts, got {class_counts!r:.80}; pass the "
            "datamodule's class_counts."
        )
    counts = given.to(torch.int64)
    if bool(((counts != given) | (counts < 0)).any()):
        raise InputError(f"class_counts must be whole numbers, none negative, got {class_counts}.")
    order = torch.sort(counts, descending=True, stable=True).indices
    if grouping == "thresholds":
        many = int((counts > MORE_THAN).sum())
        few = int((counts < FEWER_THAN).sum())
    else:
        parts = 3 if grouping == "thirds" else 5
        few = counts.numel() // parts
        many = few if grouping == "fifths" else counts.numel() - 2 * few
        if few == 0:
            least = "three" if grouping == "thirds" else "five"
            raise InputError(
                f"'{grouping}' needs at least {least} classes, got {counts.numel()}; take "
                "'thresholds', which needs none."
            )
    medium = counts.numel() - many - few
    return ShotGroups(grouping, counts, *torch.split(order, [many, medium, few]))
