"""The loss as a module."""

import pytest
import torch
from tensors import features

from bcl import InputError
from cacr import CACRLoss, CACRSettings, cacr_terms


def test_presets_and_module():
    views = features()
    terms = cacr_terms(views)
    loss = CACRLoss(attraction_weight=2.0, repulsion_weight=0.5)(views)
    torch.testing.assert_close(loss, 2 * terms.attraction + 0.5 * terms.repulsion)
    cifar = sum(cacr_terms(views, repulsion_temperature=0.9))
    torch.testing.assert_close(CACRLoss.paper("cifar10")(views), cifar)
    for name in ("cifar100", "stl10", "imagenet-moco"):
        assert CACRLoss.paper(name).repulsion_temperature == 2.0
    assert CACRLoss.paper("cifar10", reduction="none")(views).shape == (6,)
    settings = CACRSettings(repulsion_temperature=0.9)
    assert sum(cacr_terms(views, settings=settings)).equal(cifar)
    assert CACRLoss().state_dict() == {}
    assert "cost='euclidean'" in repr(CACRLoss())
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        CACRLoss.paper("cifar-10")


def test_settings_and_single_ones_are_refused_together():
    views = torch.randn(2, 4, 8)
    with pytest.raises(InputError, match="debias"):
        cacr_terms(views, settings=CACRSettings(), debias=0.1)
