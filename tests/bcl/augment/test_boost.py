"""The boost: schemes, draws and magnitudes."""

import pytest
import torch

from bcl.augment import SCHEMES, BoostedRandAugment
from bcl.augment.sampling import Strength
from bcl.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_schemes_turn_scores_into_magnitudes():
    scores, ids = torch.tensor([0.0, 0.5, 1.0]), torch.arange(3)
    drawn = BoostedRandAugment("bcl-i").sample(scores, ids)
    assert drawn.magnitude.tolist() == [[10], [20], [30]]
    scores, ids = torch.ones(20000), torch.arange(20000)
    for scheme, low, high in (("bcl-d", 5, 30), ("imagenet", 0, 30)):
        magnitude = BoostedRandAugment(scheme).sample(scores, ids).magnitude
        assert magnitude.shape[1] == 2
        assert low <= magnitude.min() < low + 0.1
        assert high - 0.1 < magnitude.max() <= high
        assert magnitude.mean() == pytest.approx((low + high) / 2, abs=0.2)


def test_given_arguments_replace_the_schemes():
    boost = BoostedRandAugment(num_ops=3, max_magnitude=20, scheme="bcl-d")
    assert boost.strength == Strength(3, 5, 20, random_magnitude=True)
    assert set(SCHEMES) == {"bcl-i", "bcl-d", "imagenet"}


def test_zeta_is_shared_by_views_and_ops_and_coins_are_not():
    boost = BoostedRandAugment("bcl-d")
    scores, ids = torch.full((1000,), 0.5), torch.arange(1000)
    one, two = boost.sample(scores, ids, view=0), boost.sample(scores, ids, view=1)
    assert one.magnitude.equal(two.magnitude)
    assert (one.magnitude[:, 0] == one.magnitude[:, 1]).all()
    assert not one.op.equal(two.op)
    assert not one.active.equal(two.active)
    other = boost.sample(scores, ids, epoch=1)
    assert not one.magnitude.equal(other.magnitude)


def test_ops_are_drawn_evenly_and_the_score_is_their_probability():
    ids = torch.arange(30000)
    scores = torch.full((30000,), 0.3)
    drawn = BoostedRandAugment().sample(scores, ids)
    counts = drawn.op.flatten().bincount(minlength=15)
    assert (counts - 2000).abs().max() < 5 * 45  # five standard deviations
    assert drawn.active.float().mean() == pytest.approx(0.3, abs=0.02)
    assert drawn.sign.mean() == pytest.approx(0, abs=0.03)


def test_boost_keeps_dtype_and_leaves_score_zero_alone():
    generator = torch.Generator().manual_seed(0)
    bytes_ = torch.randint(0, 256, (40, 3, 9, 7), dtype=torch.uint8, generator=generator)
    scores = torch.tensor([0.0, 1.0]).repeat(20)
    boost = BoostedRandAugment("bcl-d", "monotone")
    for images in (bytes_, bytes_ / 255 * 0.999, (bytes_ / 255).half()):
        before = images.clone()
        out = boost(images, scores, torch.arange(40))
        assert out.dtype == images.dtype
        assert out[::2].equal(images[::2])
        assert not out[1::2].equal(images[1::2])
        assert images.equal(before)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"policy": "monoton"}, "did you mean 'monotone'"),
        ({"policy": None}, "unknown policy 'None'"),
        ({"scheme": "bcl_d"}, "did you mean 'bcl-d'"),
        ({"scheme": "BCL-D"}, "did you mean 'bcl-d'"),
        ({"scheme": ["bcl-d"]}, "unknown scheme"),
        ({"num_ops": 0}, "num_ops"),
        ({"num_ops": True}, "num_ops"),
        ({"min_magnitude": 31}, "magnitude"),
        ({"min_magnitude": 20, "max_magnitude": 10}, "magnitude"),
        ({"max_magnitude": float("nan")}, "magnitude"),
        ({"min_magnitude": "10"}, "magnitude"),
        ({"random_magnitude": 1}, "random_magnitude"),
        ({"seed": None}, "seed must be an integer"),
    ],
)
def test_bad_settings_are_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        BoostedRandAugment(**arguments)
