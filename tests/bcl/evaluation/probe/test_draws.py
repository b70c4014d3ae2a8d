"""The validation part of a training set."""

import torch

from bcl.evaluation.probe.draws import split_validation


def test_validation_part_is_stratified_and_spares_single_images():
    labels = torch.tensor([0] * 10 + [1] * 5 + [2])
    fit, held = split_validation(labels, 0.2, 0)
    assert torch.bincount(labels[held], minlength=3).tolist() == [2, 1, 0]
    assert torch.cat([fit, held]).sort().values.equal(torch.arange(16))
