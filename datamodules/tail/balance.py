"""What to tell of a probe or test set that should be balanced and is not."""

from collections.abc import Sequence

import torch
from torch import Tensor


def balance_notes(what: str, labels: Tensor, classes: Sequence[str]) -> list[str]:
    """Tell of classes without an image, and of classes of different size.

    A mean over the images of such a set is not the mean over its classes.

    Args:
        what: the set, such as ``"test set"``.
        labels: (N,) int64 classes.
        classes: C names.

    Returns:
        Notes, none for a balanced set.

    Example:
        >>> balance_notes("test set", torch.tensor([0, 0, 1]), ["ant", "bee"])
        ['the test set is not balanced: 1 to 2 images a class']
    """
    counts = torch.bincount(labels, minlength=len(classes))  # (C,)
    notes = []
    if empty := (counts == 0).nonzero()[:, 0].tolist():
        listed = ", ".join(classes[index] for index in empty[:10])
        more = " ..." if len(empty) > 10 else ""
        notes.append(f"{len(empty)} class(es) without an image in the {what}: {listed}{more}")
    filled = counts[counts > 0].tolist()
    if filled and min(filled) < max(filled):
        notes.append(
            f"the {what} is not balanced: {min(filled):,} to {max(filled):,} images a class"
        )
    return notes
