"""Many, Medium and Few: which classes of a long-tailed training set belong to which group."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError, unknown_name

RULES = ("thirds", "thresholds")
GROUPS = ("many", "medium", "few")
MORE_THAN, FEWER_THAN = 100, 20  # training images, the bounds of the "thresholds" rule


@dataclass(frozen=True)
class ShotGroups:
    """Classes by group, with the rule that made them.

    Attributes:
        rule: name of the rule, one of `RULES`.
        class_counts: (C,) int64, training images per class.
        many: class ids of the group, most frequent first.
        medium: likewise.
        few: likewise.

    Example:
        >>> groups = shot_groups([450, 30, 4, 120, 60, 8])
        >>> groups.of_class()
        ['many', 'medium', 'few', 'many', 'medium', 'few']
        >>> {name: ids.tolist() for name, ids in groups.as_dict().items()}
        {'many': [0, 3], 'medium': [4, 1], 'few': [5, 2]}
    """

    rule: str
    class_counts: Tensor
    many: Tensor
    medium: Tensor
    few: Tensor

    @property
    def description(self) -> str:
        """One line for reports: the rule in words, and how many classes it put where."""
        words = {
            "thirds": "thirds of the classes sorted by training images, leftover classes to Many",
            "thresholds": f"more than {MORE_THAN}, {FEWER_THAN} to {MORE_THAN}, fewer than "
            f"{FEWER_THAN} training images",
        }
        sizes = "/".join(str(ids.numel()) for ids in self.as_dict().values())
        return f"{self.rule}: {words[self.rule]}; {sizes} classes"

    def as_dict(self) -> dict[str, Tensor]:
        """Group name to class ids, in the order Many, Medium, Few."""
        return {"many": self.many, "medium": self.medium, "few": self.few}

    def of_class(self) -> list[str]:
        """Group name of every class, by class id."""
        names = [""] * self.class_counts.numel()
        for group, ids in self.as_dict().items():
            for class_id in ids.tolist():
                names[class_id] = group
        return names


def shot_groups(class_counts: Any, rule: str = "thirds") -> ShotGroups:
    r"""Split classes into Many, Medium and Few by their number of training images.

    ``"thirds"``: classes sorted by count (equal counts by class id), :math:`\lfloor C/3 \rfloor`
    for Few and for Medium, the others to Many; 34/33/33 of 100 and 4/3/3 of 10. This is the rule
    of the CIFAR results. ``"thresholds"``: :math:`n_c > 100`, :math:`20 \le n_c \le 100`,
    :math:`n_c < 20`, the rule of ImageNet-LT and Places-LT; a group may be empty.

    Args:
        class_counts: (C,) images per class of the long-tailed training set, any sequence.
        rule: ``"thirds"`` or ``"thresholds"``.

    Returns:
        The groups.

    Raises:
        InputError: unknown rule, counts that are negative, not whole or not one row, or fewer
            than three classes for ``"thirds"``.

    Source: SDCLR (arXiv 2106.02990), Liu et al. 2019 (arXiv 1904.05160).

    Example:
        >>> groups = shot_groups([450, 30, 4, 120, 60, 8, 15, 200, 90, 5])
        >>> groups.many.tolist(), groups.few.tolist()
        ([0, 7, 3, 8], [5, 9, 2])
        >>> shot_groups([450, 30, 4], rule="thresholds").medium.tolist()
        [1]
    """
    if rule not in RULES:
        raise unknown_name("grouping rule", rule, RULES)
    counts = torch.as_tensor(class_counts).detach().cpu()
    if counts.ndim != 1 or counts.numel() == 0:
        raise InputError(
            f"class_counts must be one row of counts, got shape {tuple(counts.shape)}; pass the "
            "datamodule's class_counts."
        )
    if counts.is_floating_point() and not bool((counts == counts.round()).all()):
        raise InputError("class_counts must be whole numbers of images, not shares.")
    counts = counts.to(torch.int64)
    if bool((counts < 0).any()):
        raise InputError(f"class_counts must not be negative, got {int(counts.min())}.")
    order = torch.sort(counts, descending=True, stable=True).indices
    if rule == "thresholds":
        ordered = counts[order]
        many = order[ordered > MORE_THAN]
        few = order[ordered < FEWER_THAN]
        medium = order[(ordered <= MORE_THAN) & (ordered >= FEWER_THAN)]
        return ShotGroups(rule, counts, many, medium, few)
    third = counts.numel() // 3
    if third == 0:
        raise InputError(f"'thirds' needs at least three classes, got {counts.numel()}.")
    head = counts.numel() - 2 * third
    return ShotGroups(rule, counts, order[:head], order[head : head + third], order[head + third :])
