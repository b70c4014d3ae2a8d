"""Equality with recorded outputs of Pillow: a few in the repository, all beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bcl.augment.boost import apply_op
from bcl.augment.colour import luminance
from bcl.augment.jitter import JitterPlan, apply_jitter
from bcl.augment.params import BoostParams, ViewParams
from bcl.augment.policy import OPS, op_index
from bcl.augment.resize import CropPlan, crop_resize_flip

HERE = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def levels(array):
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().contiguous()


def run_op(images, key, centres):
    """``ShearX_m17_n`` is ShearX at magnitude 17 of 30 with sign -1."""
    op, magnitude, sign = key.split("_")
    rows, side = images.shape[0], images.shape[3]
    centres = torch.zeros(rows, 2) if centres is None else torch.from_numpy(centres)
    params = BoostParams(
        op=torch.full((rows,), op_index(op)),
        active=torch.ones(rows, dtype=torch.bool),
        magnitude=torch.full((rows,), float(magnitude[1:])),
        sign=torch.full((rows,), -1.0 if sign == "n" else 1.0),
        centre_x=centres[:, 0] / side,
        centre_y=centres[:, 1] / side,
    )
    return apply_op(images.clone(), params, "reference")


def check_ops(data, name):
    images = levels(data["images"])
    keys = [key for key in data if key.startswith(f"{name}_") and not key.endswith("centres")]
    assert keys
    for key in keys:
        centres = data.get(f"{key}_centres")
        assert run_op(images, key, centres).equal(levels(data[key])), key


@pytest.mark.parametrize("name", OPS)
def test_every_op_equals_pillow(name):
    check_ops(np.load(HERE / "randaugment.npz"), name)


@pytest.mark.parametrize("name", OPS)
def test_every_op_equals_pillow_on_all_recorded_cases(golden, name):
    check_ops(np.load(golden / "randaugment_pil.npz"), name)
    cases = json.loads((golden / "randaugment_cases.json").read_text())
    assert any(case["op"] == name for case in cases)


def check_views(data):
    images = levels(data["images"])
    boxes = torch.from_numpy(data["crop_box_top_left_height_width"])
    table = torch.from_numpy(data["jitter_brightness_contrast_saturation_hue_order"])
    none = torch.zeros(len(table), dtype=torch.bool)
    params = ViewParams(
        *boxes.unbind(1), torch.from_numpy(data["flip"]),
        *table[:, :4].float().unbind(1), table[:, 4:].long(),
        none, torch.zeros(len(table)), none,
    )  # fmt: skip
    plan = CropPlan.of(params, (32, 32), (32, 32))
    cropped = crop_resize_flip(images.to(torch.uint8), plan, (32, 32), exact=True)
    difference = (cropped - levels(data["crop_flip_bicubic"])).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3

    jittered = apply_jitter(images, JitterPlan.of(params), exact=True)
    difference = (jittered - levels(data["jitter"])).abs()
    assert (difference > 1).float().mean() < 1e-3
    assert luminance(images, exact=True).expand_as(images).equal(levels(data["gray"]))


def test_crop_jitter_and_grey_equal_pillow():
    check_views(np.load(HERE / "views.npz"))


def test_crop_jitter_and_grey_equal_pillow_on_all_recorded_cases(golden):
    check_views(np.load(golden / "views_pil.npz"))
