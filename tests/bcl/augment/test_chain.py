"""The base chain: crops, blur and its settings."""

import pytest
import torch

from bcl.augment import ChainSettings
from bcl.augment.ops.blur import gaussian_blur
from bcl.augment.sampling import draw_chain

pytestmark = pytest.mark.usefixtures("one_thread")


def test_crops_follow_their_settings():
    ids = torch.arange(20000)
    settings = ChainSettings(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    p = draw_chain(settings, ids, (64, 48), 1, 0, range(1))
    area = (p.height * p.width).float() / (64 * 48)
    ratio = p.width.float() / p.height
    assert area.min() > 0.18
    assert area.max() < 0.53
    assert area.mean() == pytest.approx(0.35, abs=0.01)
    assert ratio.min() > 0.45
    assert ratio.max() < 2.2
    assert ratio.log().mean() == pytest.approx(0, abs=0.03)
    assert (p.top + p.height).max() == 64
    assert (p.left + p.width).max() == 48
    assert p.top.min() == p.left.min() == 0
    assert p.flip.float().mean() == pytest.approx(0.5, abs=0.02)
    assert (p.hue != 0).float().mean() == pytest.approx(0.8, abs=0.02)
    assert p.brightness.min() == pytest.approx(0.6, abs=0.01)
    assert p.brightness.max() == pytest.approx(1.4, abs=0.01)
    assert p.order.sort(dim=1).values.equal(torch.arange(4).expand(20000, -1))
    firsts = p.order[:, 0].bincount()
    assert (firsts - 5000).abs().max() < 350


def test_a_crop_that_cannot_fit_takes_the_largest_in_the_middle():
    settings = ChainSettings(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    p = draw_chain(settings, torch.arange(3), (10, 30), 0, 0, range(1))
    assert p.height.tolist() == p.width.tolist() == [10] * 3
    assert p.left.tolist() == [10] * 3


def test_blur_keeps_flat_images_and_spreads_a_point():
    flat = torch.full((2, 3, 9, 7), 77.0)
    assert torch.allclose(gaussian_blur(flat, torch.tensor([0.1, 2.0]), exact=True), flat)
    point = torch.zeros(1, 1, 11, 11)
    point[0, 0, 5, 5] = 255
    blurred = gaussian_blur(point, torch.tensor([1.0]), exact=False)[0, 0]
    assert blurred.sum().item() == pytest.approx(255, rel=1e-3)
    assert (blurred[5, 6] / blurred[5, 5]).item() == pytest.approx(2.718281828**-0.5, rel=1e-3)
