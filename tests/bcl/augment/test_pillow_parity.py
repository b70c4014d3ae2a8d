"""Equality with recorded outputs of Pillow: a few in the repository, all beside it."""

import json

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from places import GOLDEN

from bcl.augment import ContrastiveViews, views
from bcl.augment.boost import apply_op
from bcl.augment.ops import blocks as rows
from bcl.augment.ops import crop as resize
from bcl.augment.ops.color import luminance, shift_hue
from bcl.augment.ops.crop import CropPlan, crop_resize_flip, rows_come_first
from bcl.augment.ops.jitter import JitterPlan, apply_jitter
from bcl.augment.params import BoostParams, ViewParams
from bcl.augment.policy import OPS, op_index

pytestmark = pytest.mark.usefixtures("one_thread")
HERE = GOLDEN


def levels(array):
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().contiguous()


def run_op(images, key, centers):
    """``ShearX_m17_n`` is ShearX at magnitude 17 of 30 with sign -1."""
    op, magnitude, sign = key.split("_")
    rows, side = images.shape[0], images.shape[3]
    centers = torch.zeros(rows, 2) if centers is None else torch.from_numpy(centers)
    params = BoostParams(
        op=torch.full((rows,), op_index(op)),
        active=torch.ones(rows, dtype=torch.bool),
        magnitude=torch.full((rows,), float(magnitude[1:])),
        sign=torch.full((rows,), -1.0 if sign == "n" else 1.0),
        center_x=centers[:, 0] / side,
        center_y=centers[:, 1] / side,
    )
    return apply_op(images.clone(), params, "reference")


def check_ops(data, name):
    images = levels(data["images"])
    keys = [key for key in data if key.startswith(f"{name}_") and not key.endswith("centres")]
    assert keys
    for key in keys:
        centers = data.get(f"{key}_centres")
        assert run_op(images, key, centers).equal(levels(data[key])), key


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


def test_crop_jitter_and_gray_equal_pillow():
    check_views(np.load(HERE / "views.npz"))


def test_crop_jitter_and_gray_equal_pillow_on_all_recorded_cases(golden):
    check_views(np.load(golden / "views_pil.npz"))


def noise(rows, cols, seed=0):
    """The hardest image for a resize: neighboring levels have nothing in common."""
    return np.random.default_rng(seed).integers(0, 256, (rows, cols, 3), dtype=np.uint8)


def resized(array, size, order):
    """Pillow's bicubic resize, one direction after the other in a given order."""
    image, (rows, cols) = Image.fromarray(array), size
    between = (image.width, rows) if order == "rows first" else (cols, image.height)
    for side in (between, (cols, rows)):
        image = image.resize(side, Image.Resampling.BICUBIC)
    return np.asarray(image)


def whole_image(array, size, order):
    """Our resize of a whole image, in levels."""
    rows, cols = array.shape[:2]
    settings = {"scale": (1.0, 1.0), "ratio": (cols / rows, cols / rows)}
    off = dict.fromkeys(("flip", "jitter_probability", "grayscale_probability"), 0.0)
    make = ContrastiveViews(size, num_views=1, resize_order=order, **settings, **off)
    images = torch.from_numpy(array).permute(2, 0, 1)[None]
    view = make(images, ids=torch.zeros(1, dtype=torch.int64))[0, 0]
    return (view * 255).permute(1, 2, 0).numpy()


# Rows and columns of the image, size of the view: small ones by sums, large by torch's kernel.
TALL = [((48, 33), (32, 32)), ((40, 20), (30, 36)), ((250, 120), (224, 224)), ((61, 52), (48, 48))]


@pytest.mark.parametrize(("image", "size"), TALL)
def test_tall_crops_are_resized_in_the_order_of_the_named_pillow(image, size):
    array = noise(*image)
    found = {}
    for order, steps in (("pillow-13", "rows first"), ("pillow-12", "columns first")):
        found[order] = whole_image(array, size, order)
        difference = np.abs(found[order] - resized(array, size, steps))
        assert (difference > 1.01).mean() < 1e-3
        assert (difference > 0.01).mean() < 0.03
    shows = np.abs(found["pillow-13"] - found["pillow-12"]) > 0.01
    assert shows.mean() > 0.05


@pytest.mark.parametrize(("image", "size"), [*TALL, ((40, 38), (32, 32)), ((30, 47), (32, 24))])
def test_the_installed_pillow_resizes_in_its_own_order(image, size):
    """The rule by which Pillow 13 chooses an order, and Pillow 12 does not."""
    array, (height, width) = noise(*image), size
    whole = Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC)
    order = "pillow-13" if int(PIL.__version__.split(".")[0]) >= 13 else "pillow-12"
    first = rows_come_first(*(torch.tensor([side]) for side in image), size, order)
    steps = "rows first" if bool(first) else "columns first"
    assert np.array_equal(np.asarray(whole), resized(array, size, steps))


def test_tall_crops_get_the_same_order_where_all_rows_are_masked(monkeypatch):
    array, size = noise(48, 33), (32, 32)
    for module in (resize, rows, views):
        monkeypatch.setattr(module, "waits_for_nothing", lambda x: True)
    difference = np.abs(whole_image(array, size, "pillow-13") - resized(array, size, "rows first"))
    assert (difference > 0.01).mean() < 0.01


@pytest.mark.parametrize("turn", [0.0, 0.04, -0.1, 0.37, -0.5, 0.5])
def test_hue_equals_pillow_on_every_kind_of_color(turn):
    """Saturated noise, and grays with a little color, whose hues often are whole levels."""
    gray = np.random.default_rng(1).integers(0, 230, (128, 256, 1), dtype=np.uint8)
    array = np.concatenate([noise(128, 256), gray + noise(128, 256) // 10])
    hue, saturation, value = Image.fromarray(array).convert("HSV").split()
    turned = (np.asarray(hue).astype(int) + int(turn * 255)).astype(np.uint8)
    bands = (Image.fromarray(turned), saturation, value)
    wanted = np.asarray(Image.merge("HSV", bands).convert("RGB"))
    images = torch.from_numpy(array).permute(2, 0, 1)[None].float().contiguous()
    found = shift_hue(images, torch.tensor([turn]), exact=True)[0].permute(1, 2, 0)
    assert np.array_equal(found.numpy(), wanted)
