"""The kernels of `bcl.augment.kernels.launch` against the same views in PyTorch.

On a GPU: ``pytest tests/helpers/kernel_cases.py``. Elsewhere Triton interprets the kernels if
``TRITON_INTERPRET=1`` is set before it is loaded, as tests/bcl/augment/test_kernels.py does.
"""

import copy
import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bcl import MemorizationTracker
from bcl.augment import OPS, BoostedRandAugment, ChainSettings, ContrastiveViews
from bcl.augment import boost as boost_module
from bcl.augment import views as views_module
from bcl.augment.kernels.launch import KERNELS, PLAIN
from bcl.augment.params import BoostParams
from bcl.core.errors import InputError
from bcl.memorization import tracker as memorization

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MANY = 16 if DEVICE == "cuda" else 1  # an interpreted kernel takes a second a view


class Event:
    """Of a device that has done all that it was given."""

    def record(self):
        """Nothing to note."""

    def synchronize(self):
        """Nothing to wait for."""


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Let the interpreter stand in for a GPU."""
    if DEVICE == "cpu":
        monkeypatch.setattr(memorization, "runs_triton", lambda x: True)
        for module in (views_module, boost_module):
            monkeypatch.setattr(module, "path_for", lambda x: KERNELS)
        monkeypatch.setattr(torch.cuda, "device", lambda x: nullcontext())
        monkeypatch.setattr(torch.cuda, "Event", Event)


def by_pytorch(monkeypatch, make, *arguments, **keywords):
    """The same on the CPU, without kernels."""
    with monkeypatch.context() as patch:
        for module in (views_module, boost_module):
            patch.setattr(module, "path_for", lambda x: PLAIN)
        return make(*arguments, **keywords)


def random_images(count, height, width, seed=0):
    """Smooth images with some noise, (B, 3, height, width) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noise = torch.rand(count, 3, height, width, generator=generator) - 0.5
    return ((smooth + 0.3 * noise).clamp(0, 1) * 255).to(torch.uint8)


@pytest.mark.parametrize("momentum", [0.97, 0.3])
def test_a_step_of_the_tracker_is_the_same(monkeypatch, momentum):
    generator = torch.Generator().manual_seed(0)
    one, other = (MemorizationTracker(300, momentum) for _ in range(2))
    other.to(DEVICE)
    for epoch in range(3):
        for _ in range(2):
            ids = torch.randint(0, 300, (150,), generator=generator)  # some twice
            losses = torch.rand(150, generator=generator) * 7
            other.update(ids.to(DEVICE), losses.to(DEVICE))
            with monkeypatch.context() as patch:
                patch.setattr(memorization, "runs_triton", lambda x: False)
                one.update(ids, losses)
        assert int(one.epoch) == epoch
        one.refresh(), other.refresh()
        for name, buffer in one.named_buffers():
            found = other.get_buffer(name).cpu()  # PyTorch rounds a lerp once less
            assert torch.allclose(buffer.double(), found.double(), rtol=1e-6, atol=1e-6), name
    before = {name: buffer.clone() for name, buffer in other.named_buffers()}
    ids, losses = torch.arange(100), torch.ones(100)
    for place, bad_id, bad_loss, text in (
        (70, 300, 1.0, "sample id 300 lies outside"),
        (99, -1, 1.0, "sample id -1 lies outside"),
        (3, 3, float("nan"), r"not finite for sample ids \[3\]"),
        (98, 98, float("inf"), r"not finite for sample ids \[98\]"),
    ):
        wrong_ids, wrong = ids.clone(), losses.clone()
        wrong_ids[place], wrong[place] = bad_id, bad_loss
        with pytest.raises(InputError, match=text):
            other.update(wrong_ids.to(DEVICE), wrong.to(DEVICE))
        other.update(wrong_ids.to(DEVICE), wrong.to(DEVICE), wait=False)
        with pytest.raises(InputError, match=text):
            [other.flush, other.refresh, lambda: other.update(ids.to(DEVICE), losses.to(DEVICE))][
                place % 3
            ]()
        other.flush()  # said once
        other.update(wrong_ids.to(DEVICE), wrong.to(DEVICE), wait=False)
        with pytest.raises(InputError, match=text):
            copy.deepcopy(other)
        other.update(wrong_ids.to(DEVICE), wrong.to(DEVICE), wait=False)
        other.load_state_dict(before)
        other.flush()  # nothing is left of that step
        assert all(before[name].equal(buffer) for name, buffer in other.named_buffers())


def same_fields(one, other):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(a):
            same_fields(a, b)
        elif a is not None:
            assert (a.dtype, a.shape) == (b.dtype, b.shape), field.name
            assert a.equal(b.cpu()), field.name


@pytest.mark.parametrize(
    ("scheme", "image", "settings"),
    [
        ("bcl-i", (32, 32), {"blur_probability": 0.5, "solarize_probability": 0.3}),
        # Boxes that often, and boxes that never fit; jitter that is cut off at 0.
        (
            "bcl-d",
            (20, 40),
            {"scale": (0.5, 1.0), "ratio": (3.0, 4.0), "color_jitter": (1.2, 0.3, 0.0, 0.5)},
        ),
        ("imagenet", (20, 10), {"scale": (0.9, 1.0), "ratio": (3.0, 4.0)}),
    ],
)
def test_draws_are_equal_to_the_bit(monkeypatch, scheme, image, settings):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(-(2**62), 2**62, (150,), generator=generator)
    ids[:5] = torch.arange(5)
    scores = torch.rand(150, generator=generator)
    for seed, epoch in ((0, 0), (5, 17), (-3, 2**40)):
        make = ContrastiveViews(
            8, num_views=3, boost=BoostedRandAugment(scheme), num_local=1, local_size=4,
            seed=seed, chain=ChainSettings(**settings),
        )  # fmt: skip
        found = make.sample(ids.to(DEVICE), image, scores.to(DEVICE), epoch)
        wanted = by_pytorch(monkeypatch, make.sample, ids, image, scores, epoch)
        assert len(found) == len(wanted) == 2
        for one, other in zip(wanted, found, strict=True):
            same_fields(one, other)


@pytest.mark.parametrize("policy", ["reference", "monotone"])
@pytest.mark.parametrize("whole", [True, False])
def test_every_op_is_equal(policy, whole):
    strengths = torch.tensor([0.0, 7.3, 30.0] if whole else [17.0])
    count = len(OPS) * len(strengths)
    op = torch.arange(len(OPS)).repeat(len(strengths))
    u = torch.rand(3, count, generator=torch.Generator().manual_seed(1))
    params = BoostParams(
        op=op[:, None],
        active=torch.ones(count, 1, dtype=torch.bool),
        magnitude=strengths.repeat_interleave(len(OPS))[:, None],
        sign=torch.where(u[0] < 0.5, 1.0, -1.0)[:, None],
        center_x=u[1][:, None],
        center_y=u[2][:, None],
    )
    x = random_images(count, 12, 10).float()  # of which Cutout's side is whole pixels too
    if not whole:
        x = x * 0.93
    wanted = PLAIN.apply_ops(x.clone(), params, policy, whole)
    views, params = x.to(DEVICE), params.to(DEVICE)
    found = KERNELS.apply_ops(views.clone(), params, policy, whole).cpu()
    for name, one, other in zip(OPS * len(strengths), found, wanted, strict=True):
        assert one.equal(other), name
    still = dataclasses.replace(params, active=~params.active)
    assert KERNELS.apply_ops(views.clone(), still, policy, whole).equal(views)  # bit for bit


@pytest.mark.parametrize(
    ("count", "image", "size", "changes"),
    [
        (5, (12, 12), (12, 12), {"blur_probability": 1.0}),
        (4, (21, 9), (8, 12), {"solarize_probability": 1.0}),
        (4, (14, 12), (12, 12), {"blur_probability": 0.5, "arithmetic": "fast"}),
        (2, (40, 40), (72, 70), {"scale": (0.9, 1.0)}),  # more pixels than a program takes at once
        (2, (48, 46), (8, 12), {}),  # crops that shrink a lot
    ],
)
@pytest.mark.parametrize("kind", ["uint8", "float", "channels last"])
def test_views_are_the_same(monkeypatch, count, image, size, changes, kind):
    if kind != "uint8" and size == (72, 70):
        pytest.skip("slow to interpret; the smaller ones show the same")
    changes = dict(changes)
    images = random_images(count * MANY, *image)
    images = images / 255 if kind == "float" else images
    if kind == "channels last":
        images = images.contiguous(memory_format=torch.channels_last)
    make = ContrastiveViews(
        size, num_views=1, boost=BoostedRandAugment("bcl-d"), mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.25), arithmetic=changes.pop("arithmetic", "exact"),
        chain=ChainSettings(**changes),
    )  # fmt: skip
    ids, scores = torch.arange(len(images)), torch.linspace(0.3, 1, len(images))
    found = make(images.to(DEVICE), scores.to(DEVICE), ids.to(DEVICE), epoch=1).cpu()
    wanted = by_pytorch(monkeypatch, make, images, scores, ids, epoch=1)
    step = 1 / 255 / 0.2  # what a level is at most after the normalization
    differ = (found - wanted).abs()
    # A sum in another order now and then rounds the other way, which later steps may amplify.
    assert (differ > 1e-4).float().mean() < 5e-3
    assert (differ > 1.01 * step).float().mean() < 1e-3


def test_views_of_bad_values_are_nan():
    make = ContrastiveViews(8, num_views=2, boost=BoostedRandAugment("bcl-d"))
    images = random_images(3, 8, 8).float() / 255
    images[1, 0, 3, 3] = float("nan")
    scores = torch.tensor([0.5, 0.5, float("nan")])
    ids = torch.arange(3, device=DEVICE)
    out = make(images.to(DEVICE), scores.to(DEVICE), ids).isnan().flatten(2)
    assert out.all(2).tolist() == out.any(2).tolist() == 2 * [[False, True, True]]
    scores[2] = 1.5
    out = make(random_images(3, 8, 8).to(DEVICE), scores.to(DEVICE), ids).isnan().flatten(2).all(2)
    assert out.tolist() == 2 * [[False, False, True]]


class NoWaiting(TorchDispatchMode):
    """Refuse what makes the host wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "is_nonzero")
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(DEVICE == "cuda", reason="tests/integration/test_cuda.py asks CUDA itself")
def test_a_step_asks_for_no_value(monkeypatch):
    launched = []

    class Launch:
        def __getitem__(self, grid):
            return lambda *args, **keywords: launched.append(grid)

    from bcl.augment.kernels import boost, color, crop, draws

    for module, name in (
        (draws, "draw_chain_kernel"), (draws, "draw_ops_kernel"), (crop, "crop_kernel"),
        (color, "color_kernel"), (boost, "boost_kernel"), (color, "finish_kernel"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, Launch())
    make = ContrastiveViews(
        8, boost=BoostedRandAugment("bcl-d"), mean=(0.5,) * 3, std=(0.2,) * 3, num_local=1,
        local_size=4,
    )  # fmt: skip
    make(random_images(2, 8, 8) / 255, torch.ones(2), torch.arange(2))  # constants are kept
    launched.clear()
    with NoWaiting():
        make(random_images(2, 8, 8) / 255, torch.ones(2), torch.arange(2), epoch=1)
    assert len(launched) == 2 * 7  # of the large and the local views; two ops each


def test_blur_wider_than_the_view_mirrors_once_at_each_edge(monkeypatch):
    images = random_images(2, 8, 6)
    make = ContrastiveViews(
        (8, 6),
        num_views=1,
        chain=ChainSettings(blur_probability=1.0, blur_sigma=(9.0, 9.0)),
        arithmetic="fast",
    )
    ids = torch.arange(2)
    found = make(images.to(DEVICE), ids=ids.to(DEVICE)).cpu()
    assert torch.allclose(found, by_pytorch(monkeypatch, make, images, ids=ids), atol=1e-4)


@pytest.mark.parametrize(("image", "size"), [((8, 3), (8, 1)), ((3, 8), (1, 8)), ((1, 1), (1, 1))])
def test_images_and_views_one_pixel_wide(monkeypatch, image, size):
    images, ids, scores = random_images(4, *image), torch.arange(4), torch.linspace(0.3, 1, 4)
    make = ContrastiveViews(
        size, num_views=1, boost=BoostedRandAugment(), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25),
        chain=ChainSettings(blur_probability=0.5),
    )  # fmt: skip
    found = make(images.to(DEVICE), scores.to(DEVICE), ids.to(DEVICE)).cpu()
    wanted = by_pytorch(monkeypatch, make, images, scores, ids)
    assert torch.allclose(found, wanted, atol=1.01 / 255 / 0.2)


def test_draws_of_huge_images_and_of_numpy_keys_are_equal(monkeypatch):
    ids = torch.arange(20)
    make = ContrastiveViews(8, num_views=1, seed=np.int64(5))
    for size, epoch in (((70000, 50000), 0), ((32, 32), np.int32(3)), ((32, 32), torch.tensor(3))):
        [found] = make.sample(ids.to(DEVICE), size, epoch=epoch)
        [wanted] = by_pytorch(monkeypatch, make.sample, ids, size, epoch=epoch)
        same_fields(wanted, found)


def test_stored_parameters_of_other_types_give_the_same_views():
    make = ContrastiveViews(
        8, num_views=1, boost=BoostedRandAugment(), chain=ChainSettings(blur_probability=0.5)
    )
    images = random_images(8, 12, 12).to(DEVICE)
    ids = torch.arange(8, device=DEVICE)
    [params] = make.sample(ids, (12, 12), torch.ones(8, device=DEVICE))
    other = {torch.int64: torch.int32, torch.float32: torch.float64, torch.bool: torch.uint8}
    stored = params.map(lambda x: x.to(other[x.dtype]).repeat_interleave(2, dim=0)[::2])
    assert make.transform(images, [stored]).equal(make.transform(images, [params]))
    for changed in (
        dataclasses.replace(params, order=params.order[:, :3]),
        dataclasses.replace(params, hue=params.hue[:, None][:, :0]),
        dataclasses.replace(params, top=params.top + 1000),
        dataclasses.replace(
            params, boost=dataclasses.replace(boost := params.boost, op=boost.op + 15)
        ),
    ):
        with pytest.raises(InputError):
            make.transform(images, [changed])
