"""The op table, the schemes that turn scores into strengths, and how strength shows in images."""

import numpy as np
import pytest
import torch
from places import GOLDEN

from bcl.augment import OPS, op_grid
from bcl.augment.policy import op_index, op_values
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
