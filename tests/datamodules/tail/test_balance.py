"""Notes on sets that should be balanced."""

import torch

from datamodules.tail.balance import balance_notes, listed


def test_empty_classes_and_unequal_sizes_are_told_and_balance_is_not():
    assert balance_notes("test set", torch.tensor([0, 0, 1, 1]), ["ant", "bee"]) == []
    empty, unequal = balance_notes("test set", torch.tensor([0, 0, 2]), ["ant", "bee", "cat"])
    assert "bee" in empty
    assert "1 to 2" in unequal


def test_long_lists_of_names_are_cut():
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abc"), most=2) == "a, b ..."
