"""Notes on classes without images and on sets that should be balanced and are not."""

from collections.abc import Sequence

import torch
from torch import Tensor


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names, separated by commas, with dots for the rest."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def balance_notes(what: str, labels: Tensor, classes: Sequence[str]) -> list[str]:
    """Notes on classes without images and unequal sizes in a set that should be balanced."""
    counts = torch.bincount(labels, minlength=len(classes)).tolist()  # C
    notes = []
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        notes.append(f"{len(empty)} class(es) without an image in the {what}: {listed(empty)}")
    filled = [count for count in counts if count] or [0]
    if min(filled) < max(filled):
        sizes = f"{min(filled):,} to {max(filled):,}"
        notes.append(f"the {what} is not balanced: {sizes} images per class")
    return notes
