"""A loss gets what its forward names."""

import pytest
import torch
from torch import nn

from bcl import InputError, NTXentLoss
from bcl.losses.context import call_loss, in_epochs


class Known(nn.Module):
    def forward(self, views, *, ids, epochs, scale=1):
        return ids, epochs, scale


def test_a_loss_gets_what_it_names_and_nothing_else():
    views = torch.eye(3).expand(2, 3, 3)
    known = {"ids": torch.arange(3), "epoch": 4, "epochs": 9}
    ids, epochs, scale = call_loss(Known(), views, **known, scale=2)
    assert (ids.tolist(), epochs, scale) == ([0, 1, 2], 9, 2)
    assert call_loss(NTXentLoss(), views, **known) == NTXentLoss()(views)


def test_a_number_below_one_is_a_share_of_the_run():
    assert in_epochs("start", 0.5, 80) == 40
    assert in_epochs("start", 0, None) == 0
    assert in_epochs("start", 1, 80) == 1
    with pytest.raises(InputError, match="is a share"):
        in_epochs("start", 0.5, None)
    with pytest.raises(InputError, match="epochs must be a finite number above 0, got 0"):
        in_epochs("start", 0.5, 0)
