"""The op table, the schemes that turn scores into strengths, and how strength shows in images."""

import numpy as np
import pytest
import torch
from places import GOLDEN

from bcl.augment import OPS, SCHEMES, BoostedRandAugment, op_grid
from bcl.augment.policy import op_index, op_values
from bcl.augment.sampling import Strength
from bcl.core.errors import InputError

HERE = GOLDEN
pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = [0, 5, 10, 15, 20, 25, 30]


def distances(images, policy):
    """(15, 7) mean distance in levels from the image, at growing magnitudes."""
    total = torch.zeros(len(OPS), len(STEPS))
    for image in images:
        total += (op_grid(image, STEPS, policy) * 255 - image).abs().mean(dim=(2, 3, 4))
    return total / len(images)


def test_every_monotone_op_moves_real_images_farther_with_magnitude():
    images = torch.from_numpy(np.load(HERE / "randaugment.npz")["images"]).permute(0, 3, 1, 2)
    moved = distances(images, "monotone")
    assert moved[:, 0].max() == 0
    for name, row in zip(OPS, moved, strict=True):
        assert (row.diff() > 0).all(), (name, row)


def test_no_monotone_op_steps_back_between_neighboring_magnitudes():
    images = torch.from_numpy(np.load(HERE / "randaugment.npz")["images"]).permute(0, 3, 1, 2)
    ops = list(OPS)
    for image in images:
        moved = op_grid(image, range(31), "monotone", ops) * 255 - image
        growth = moved.abs().mean(dim=(2, 3, 4)).diff(dim=1)
        assert growth[ops.index("Posterize")].min() > 0
        assert growth.mean(dim=1).min() > 0
        # Nearest sampling moves single pixels; beyond 45 degrees the black corners would shrink.
        assert growth[ops.index("Rotate")].min() > -0.1
        for name in (
            "AutoContrast",
            "Equalize",
            "Contrast",
            "Color",
            "Brightness",
            "Sharpness",
        ):
            assert growth[ops.index(name)].min() >= 0, name


def test_every_monotone_op_does_so_on_all_recorded_images(golden):
    data = np.load(golden / "randaugment_pil.npz")["images"]
    moved = distances(torch.from_numpy(data).permute(0, 3, 1, 2), "monotone")
    assert (moved.diff(dim=1) > 0).all()


def test_nine_reference_ops_do_not():
    images = torch.from_numpy(np.load(HERE / "randaugment.npz")["images"]).permute(0, 3, 1, 2)
    grows = (distances(images, "reference").diff(dim=1) > 0).all(dim=1)
    assert [name for name, up in zip(OPS, grows, strict=True) if up] == [
        "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Cutout",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "magnitude", "value"),
    [("ShearX", 30, 0.6), ("Rotate", 10, 20), ("Solarize", 30, 110), ("Posterize", 15, 6)],
)
def test_values_are_the_released_codes(op, magnitude, value):
    found = op_values(
        torch.tensor([op_index(op)]), torch.tensor([float(magnitude)]), torch.ones(1), "reference"
    )
    assert found.item() == pytest.approx(value)


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


def test_unknown_op_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'Solarize'"):
        op_index("Solarise")
    with pytest.raises(InputError, match="did you mean 'AutoContrast'"):
        op_index("AUTOCONTRAST")
    with pytest.raises(InputError, match="magnitude"):
        op_grid(torch.zeros(3, 4, 4), [31])
    with pytest.raises(InputError, match="at least one"):
        op_grid(torch.zeros(3, 4, 4), [])
    with pytest.raises(InputError, match="values from 200"):
        op_grid(torch.full((3, 4, 4), 200.0), [10])
