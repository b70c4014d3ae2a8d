"""Equality with recorded outputs of Pillow: a few in the repository, all beside it."""

import json

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageOps
from places import GOLDEN

from bcl.augment import ChainSettings, ContrastiveViews
from bcl.augment.chain import apply_ops
from bcl.augment.ops.color import jitter, luminance, shift_hue
from bcl.augment.ops.crop import crop_resize_flip, rows_come_first
from bcl.augment.ops.tone import auto_contrast
from bcl.augment.params import BoostParams
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
        op=torch.full((rows, 1), op_index(op)),
        active=torch.ones(rows, 1, dtype=torch.bool),
        magnitude=torch.full((rows, 1), float(magnitude[1:])),
        sign=torch.full((rows, 1), -1.0 if sign == "n" else 1.0),
        center_x=centers[:, :1] / side,
        center_y=centers[:, 1:] / side,
    )
    return apply_ops(images.clone(), params, "reference", whole=True)


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
    boxes = torch.cat([boxes, torch.from_numpy(data["flip"]).long()[:, None]], dim=1)
    cropped = crop_resize_flip(images.to(torch.uint8), boxes, (32, 32), exact=True)
    difference = (cropped - levels(data["crop_flip_bicubic"])).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3

    jittered = jitter(images.clone(), table[:, :4].float(), table[:, 4:].long(), exact=True)
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


def whole_image(array, size):
    """Our resize of a whole image, in levels."""
    rows, cols = array.shape[:2]
    off = dict.fromkeys(
        ("flip_probability", "color_jitter_probability", "grayscale_probability"), 0.0
    )
    chain = ChainSettings(scale=(1.0, 1.0), ratio=(cols / rows, cols / rows), **off)
    images = torch.from_numpy(array).permute(2, 0, 1)[None]
    view = ContrastiveViews(size, 1, chain)(images, ids=torch.zeros(1, dtype=torch.int64))[0, 0]
    return (view * 255).permute(1, 2, 0).numpy()


# Rows and columns of the image, size of the view: small ones by sums, large by torch's kernel.
TALL = [((48, 33), (32, 32)), ((40, 20), (30, 36)), ((250, 120), (224, 224)), ((61, 52), (48, 48))]
WIDE = [((40, 38), (32, 32)), ((30, 47), (32, 24))]


@pytest.mark.parametrize(
    ("image", "size", "steps"),
    [*((*case, "rows first") for case in TALL), *((*case, "columns first") for case in WIDE)],
)
def test_crops_are_resized_in_the_order_of_pillow_13(image, size, steps):
    array = noise(*image)
    found, wanted = whole_image(array, size), resized(array, size, steps)
    difference = np.abs(found - wanted)
    assert (difference > 1.01).mean() < 1e-3
    assert (difference > 0.01).mean() < 0.03
    if steps == "rows first":
        assert (np.abs(found - resized(array, size, "columns first")) > 0.01).mean() > 0.05


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="of Pillow 13")
@pytest.mark.parametrize(("image", "size"), [*TALL, *WIDE])
def test_the_installed_pillow_resizes_in_that_order(image, size):
    array, (height, width) = noise(*image), size
    whole = Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC)
    first = rows_come_first(*(torch.tensor([side]) for side in image), size)
    steps = "rows first" if bool(first) else "columns first"
    assert np.array_equal(np.asarray(whole), resized(array, size, steps))


def test_auto_contrast_equals_pillow_on_every_range_of_levels():
    """The scale must not be rounded twice: the product may fall just under an integer."""
    levels = np.arange(256, dtype=np.uint8)
    for low, high in [(0, 254), (3, 200), (17, 23), *((0, high) for high in range(50, 250, 7))]:
        array = np.repeat(levels[low : high + 1, None, None], 3, axis=2)
        wanted = np.asarray(ImageOps.autocontrast(Image.fromarray(array)))
        images = torch.from_numpy(array).permute(2, 0, 1)[None].float()
        found = auto_contrast(images, torch.ones(1))[0].permute(1, 2, 0)
        assert np.array_equal(found.numpy(), wanted), (low, high)


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
