import dataclasses
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bcl.augment import (
    BoostedRandAugment,
    ChainSettings,
    ContrastiveViews,
    ViewParams,
)
from bcl.augment import views as views_module
from bcl.augment.chain import gaussian_blur
from bcl.augment.checks import ValueChecks
from bcl.augment.ops import blocks as rows
from bcl.augment.ops import crop as resize
from bcl.augment.ops.color import gray_mean
from bcl.augment.sampling import sample_chain
from bcl.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def random_images(count=6, rows=32, cols=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 4, 4, generator=generator)
    big = torch.nn.functional.interpolate(small, (rows, cols), mode="bilinear")
    return (big * 255).to(torch.uint8)


@pytest.mark.parametrize(
    ("rows", "cols", "size"), [(8, 8, 8), (8, 8, 32), (64, 64, 32), (3, 5, (6, 4))]
)
@pytest.mark.parametrize("arithmetic", ["exact", "fast"])
def test_any_image_size_gives_views_in_range(rows, cols, size, arithmetic):
    views = ContrastiveViews(size, boost=BoostedRandAugment(), arithmetic=arithmetic)
    out = views(random_images(6, rows, cols), scores=torch.linspace(0, 1, 6), ids=torch.arange(6))
    height, width = (size, size) if isinstance(size, int) else size
    assert out.shape == (2, 6, 3, height, width)
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("arithmetic", ["exact", "fast"])
@pytest.mark.parametrize("policy", ["reference", "monotone"])
def test_score_zero_leaves_the_base_chain_bit_for_bit(arithmetic, policy):
    images, ids = random_images(32), torch.arange(32)
    boost = BoostedRandAugment(rule="bcl-d", policy=policy)
    with_boost = ContrastiveViews(32, boost=boost, arithmetic=arithmetic)
    without = ContrastiveViews(32, arithmetic=arithmetic)
    scores = torch.ones(32)
    scores[::2] = 0
    boosted, plain = with_boost(images, scores, ids), without(images, ids=ids)
    assert boosted[:, ::2].equal(plain[:, ::2])
    assert not boosted[:, 1::2].equal(plain[:, 1::2])


def test_a_view_depends_on_seed_epoch_id_and_view_alone():
    images = random_images(8)
    scores = torch.full((8,), 0.7)
    views = ContrastiveViews(32, boost=BoostedRandAugment(), seed=3)
    whole = views(images, scores, torch.arange(8), epoch=2)
    part = views(images[5:6], scores[5:6], torch.tensor([5]), epoch=2)
    assert whole[:, 5:6].equal(part)
    assert not whole.equal(views(images, scores, torch.arange(8), epoch=3))
    assert not whole[0].equal(whole[1])
    other = ContrastiveViews(32, boost=BoostedRandAugment(), seed=4)
    assert not whole.equal(other(images, scores, torch.arange(8), epoch=2))


def test_parameters_can_be_stored_and_replayed(tmp_path):
    images, ids, scores = random_images(5), torch.arange(5), torch.linspace(0, 1, 5)
    views = ContrastiveViews(32, boost=BoostedRandAugment(rule="bcl-d"))
    params = views.sample(ids, (32, 32), scores, epoch=1)
    torch.save([p.state_dict() for p in params], tmp_path / "params.pt")
    stored = torch.load(tmp_path / "params.pt", weights_only=True)
    again = views.transform(images, [ViewParams.from_state_dict(p) for p in stored])
    assert again.equal(views(images, scores, ids, epoch=1))


def test_multi_crop_gives_a_list():
    views = ContrastiveViews(32, num_local=3, local_size=16)
    out = views(random_images(4), ids=torch.arange(4))
    assert [tuple(view.shape) for view in out] == [(4, 3, 32, 32)] * 2 + [(4, 3, 16, 16)] * 3


def test_missing_scores_and_ids_are_named():
    views = ContrastiveViews(32, boost=BoostedRandAugment())
    with pytest.raises(InputError, match="ids"):
        views(random_images(), scores=torch.zeros(6))
    with pytest.raises(InputError, match="score"):
        views(random_images(), ids=torch.arange(6))


def at_once(monkeypatch):
    """Take the path of a GPU on this machine: no row is picked by its values."""
    for module in (resize, rows, views_module):
        monkeypatch.setattr(module, "waits_for_nothing", lambda x: True)


@pytest.mark.parametrize("rule", ["bcl-i", "bcl-d"])
@pytest.mark.parametrize("policy", ["reference", "monotone"])
def test_rows_by_need_and_all_rows_masked_give_the_same(monkeypatch, rule, policy):
    images, ids, scores = random_images(64, 24, 20), torch.arange(64), torch.linspace(0, 1, 64)
    boost = BoostedRandAugment(rule=rule, policy=policy)
    views = ContrastiveViews(
        (16, 28), boost=boost, blur_probability=0.3, solarize_probability=0.2, num_local=1,
        local_size=8,
    )  # fmt: skip
    by_need = views(images, scores, ids)
    at_once(monkeypatch)
    masked = views(images, scores, ids)
    for one, two in zip(by_need, masked, strict=True):
        # The sums of a resize run in another order, which now and then rounds the other way.
        assert ((one - two).abs() > 1.5 / 255).float().mean() < 1e-3
        assert (one != two).float().mean() < 0.02


def test_score_zero_is_bit_for_bit_on_the_masked_path_too(monkeypatch):
    at_once(monkeypatch)
    images, ids = random_images(16), torch.arange(16)
    for arithmetic in ("exact", "fast"):
        boosted = ContrastiveViews(32, boost=BoostedRandAugment(), arithmetic=arithmetic)
        plain = ContrastiveViews(32, arithmetic=arithmetic)
        assert boosted(images, torch.zeros(16), ids).equal(plain(images, ids=ids))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("arithmetic", ["exact", "fast"])
@pytest.mark.parametrize("size", [16, 64])
def test_values_that_nobody_looks_at_are_not_mended_in_silence(
    monkeypatch, masked, arithmetic, size
):
    """As on a device after the first batch: a bad image or score gives NaN, and only there."""
    if masked:
        at_once(monkeypatch)
    good, scores, ids = random_images(6, 24, 20) / 255, torch.linspace(0, 1, 6), torch.arange(6)
    boost = BoostedRandAugment(rule="bcl-d", check_values="never")
    views = ContrastiveViews(size, boost=boost, arithmetic=arithmetic, check_values="never")
    wanted, alone = views(good, scores, ids), boost(good, scores, ids)
    images, marks = good.clone(), scores.clone()
    images[1, 0, 3, 3], images[2, 2] = float("nan"), 3.0
    images[3, 1, 0, 0], marks[5] = float("-inf"), 1.5
    marks[4] = float("nan")
    for out, before in ((views(images, marks, ids), wanted), (boost(images, marks, ids), alone)):
        made, first = out.view(-1, 6, *out.shape[-3:]), before.view(-1, 6, *out.shape[-3:])
        assert made[:, 0].equal(first[:, 0])
        assert made[:, 1:].isnan().all()


def test_a_device_is_looked_at_in_its_first_batch():
    there, here = torch.empty(1, device="meta"), torch.empty(1)
    checks = ValueChecks("first")
    assert checks.looks_at(there)
    checks.passed(here)
    assert checks.looks_at(there)
    checks.passed(there)
    assert not checks.looks_at(there)
    assert checks.looks_at(here)
    assert checks.looks_at(there, here)
    assert ValueChecks("always").looks_at(there)
    assert not ValueChecks("never").looks_at(here)


class NoWaitingCopies(TorchFunctionMode):
    """Refuse the constructors that copy a list to a device and wait for the copy."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.new_tensor or (
            func is torch.tensor and kwargs.get("device") not in (None, "cpu")
        ):
            raise AssertionError(f"{func.__name__} waits for the device")
        return func(*args, **kwargs)


@pytest.mark.parametrize("arithmetic", ["exact", "fast"])
def test_a_step_on_a_device_waits_for_no_value(arithmetic):
    """A fake CUDA device has shapes but no values: asking for one raises."""
    views = ContrastiveViews(
        16, boost=BoostedRandAugment(rule="bcl-d", check_values="never"), arithmetic=arithmetic,
        num_local=2, local_size=8, blur_probability=0.5, solarize_probability=0.1,
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2),
    )  # fmt: skip
    views._checks.passed(torch.empty(0, device="meta"))  # the first batch has been looked at
    with FakeTensorMode(), NoWaitingCopies():
        images = torch.empty(8, 3, 16, 16, dtype=torch.uint8, device="cuda")
        scores, ids = torch.empty(8, device="cuda"), torch.arange(8, device="cuda")
        out = views(images, scores, ids, epoch=3)
        assert [tuple(view.shape) for view in out] == [(8, 3, 16, 16)] * 2 + [(8, 3, 8, 8)] * 2
        assert all(view.device.type == "cuda" for view in out)
        assert views.boost(images, scores, ids).dtype == torch.uint8
        assert views(images / 255, scores, ids)[0].dtype == torch.float32
        assert len(views.transform(images, views.sample(ids, (16, 16), scores))) == 4


class NoFloatSums(TorchDispatchMode):
    """Refuse what CUDA refuses under ``torch.use_deterministic_algorithms``."""

    seen = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.cumsum.default:
            self.seen = True
            assert not args[0].is_floating_point()
        return func(*args, **(kwargs or {}))


def test_a_step_on_a_device_is_deterministic():
    boost = BoostedRandAugment(check_values="never")
    with FakeTensorMode(), NoFloatSums() as sums:
        images = torch.empty(8, 3, 16, 16, dtype=torch.uint8, device="cuda")
        boost(images, torch.empty(8, device="cuda"), torch.arange(8, device="cuda"))
    assert sums.seen


@pytest.mark.parametrize("size", [16, 64])
def test_another_default_device_does_not_matter(size):
    resize._tap_table.cache_clear()
    images, ids, scores = random_images(6, 24, 20), torch.arange(6), torch.linspace(0, 1, 6)
    views = ContrastiveViews(size, boost=BoostedRandAugment(rule="bcl-d"), blur_probability=0.5)
    with torch.device("meta"):
        made = views(images, scores, ids)
    assert made.equal(views(images, scores, ids))


def test_the_mean_of_a_large_image_is_exact():
    gray = torch.full((1, 1, 480, 640), 127.0)
    gray[:, :, :240] = 128
    assert gray_mean(gray, exact=True).item() == 128  # of 127.5
    gray[0, 0, 0, 0] = 127
    assert gray_mean(gray, exact=True).item() == 127  # a little less, which float32 cannot tell
    assert gray_mean(gray, exact=True).dtype == torch.float32


class Peak(TorchDispatchMode):
    """Bytes of the tensors that are alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.users, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.meet(tensor)
        return out

    def meet(self, tensor):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.users:
            self.users[key] = 0
            self.now += size
            self.peak = max(self.peak, self.now)
        self.users[key] += 1
        weakref.finalize(tensor, self.leave, key, size)

    def leave(self, key, size):
        self.users[key] -= 1
        if self.users[key] == 0:
            del self.users[key]
            self.now -= size


# Drawing the parameters takes a little whatever the size; 1 MiB is 42 views of 32 px.
_ALLOWANCE = 1 << 20


@pytest.mark.parametrize(
    ("device", "count", "source", "size"),
    [
        ("cpu", 1, 32, 32),
        ("cpu", 16, 32, 32),
        ("cpu", 256, 32, 32),
        ("cpu", 1, 256, 224),
        ("cpu", 3, 256, 224),
        ("cuda", 1, 32, 32),
        ("cuda", 64, 32, 32),
        ("cuda", 4096, 32, 32),
        ("cuda", 64, 40, 32),
        ("cuda", 2, 256, 224),
    ],
)
def test_memory_stays_under_four_times_the_output(device, count, source, size):
    views = ContrastiveViews(
        size, boost=BoostedRandAugment(rule="bcl-d"), check_values="never", blur_probability=0.5
    )
    views(torch.zeros(1, 3, source, source), torch.zeros(1), torch.arange(1))  # tables are kept
    mode = FakeTensorMode() if device == "cuda" else nullcontext()
    with mode:
        shape = (count, 3, source, source)
        images = torch.zeros(shape, dtype=torch.uint8, device=device)
        scores, ids = torch.ones(count, device=device), torch.arange(count, device=device)
        with Peak() as memory:
            out = views(images, scores, ids)
    assert memory.peak < 4 * out.numel() * 4 + _ALLOWANCE


@pytest.mark.slow
def test_the_whole_module_compiles_into_one_graph():
    images, ids, scores = random_images(4, 12, 12), torch.arange(4), torch.linspace(0, 1, 4)
    views = ContrastiveViews(8, boost=BoostedRandAugment())
    torch.compiler.reset()
    compiled = torch.compile(views, fullgraph=True, backend="aot_eager")
    assert (compiled(images, scores, ids, 1) - views(images, scores, ids, 1)).abs().max() < 1e-5


@pytest.mark.slow
def test_compiled_parts_give_the_same_views():
    images, ids, scores = random_images(16, 12, 12), torch.arange(16), torch.linspace(0, 1, 16)
    views = ContrastiveViews(12, boost=BoostedRandAugment())
    want = views(images, scores, ids)
    torch.compiler.reset()
    difference = (views.compile_parts()(images, scores, ids) - want).abs()
    assert (difference > 1.5 / 255).float().mean() < 1e-3
    assert (difference > 1e-6).float().mean() < 0.01


def test_float_images_give_nearly_the_views_of_their_bytes():
    images, ids = random_images(16, 40, 30), torch.arange(16)
    for size in (24, 64):
        views = ContrastiveViews(size, jitter_probability=0)
        difference = (views(images, ids=ids) - views(images / 255, ids=ids)).abs()
        assert (difference > 1.5 / 255).float().mean() < 1e-3
    assert views(images.half() / 255, ids=ids).dtype == torch.float32


def test_large_images_equal_the_matrix_form_within_a_level():
    images, ids = random_images(8, 70, 52), torch.arange(8)
    views = ContrastiveViews((40, 64), jitter_probability=0, grayscale_probability=0)
    one_by_one = views(images, ids=ids)
    params = views.sample(ids, (70, 52))[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, "_SMALL_SIDE", 100)
        plan = resize.CropPlan.of(params, (70, 52), (40, 64))
        whole = resize.crop_resize_flip(images.repeat(2, 1, 1, 1), plan, (40, 64), exact=True)
    difference = (one_by_one.flatten(0, 1) * 255 - whole).abs()
    assert (difference > 1.01).float().mean() < 1e-3


@pytest.mark.parametrize("size", [32, 64])
def test_the_input_is_not_changed(size):
    for images in (random_images(8, size, size), random_images(8, size, size) / 255):
        before = images.clone()
        ContrastiveViews(size, boost=BoostedRandAugment())(images, torch.ones(8), torch.arange(8))
        assert images.equal(before)


@pytest.mark.parametrize("size", [16, 64])
def test_layout_and_number_types_do_not_matter(size):
    images, ids, scores = random_images(6, 30, 42), torch.arange(6), torch.linspace(0, 1, 6)
    scores = scores.round()  # exact in every type
    views = ContrastiveViews(size, boost=BoostedRandAugment(rule="bcl-d"))
    wanted = views(images, scores, ids, epoch=-1)
    wide = torch.stack([images, images], dim=4).flatten(3)
    for same in (images.contiguous(memory_format=torch.channels_last), wide[..., ::2]):
        assert views(same, scores, ids, epoch=-1).equal(wanted)
    for kind in (torch.float64, torch.float16, torch.int64, torch.uint8):
        assert views(images, scores.to(kind), ids.to(torch.int32), epoch=-1).equal(wanted)
    assert not views(images, scores, ids + 2**62, epoch=2**70).isnan().any()


@pytest.mark.parametrize("image", [(1, 1), (1, 9), (9, 1), (2, 3)])
@pytest.mark.parametrize("size", [1, (1, 6), (60, 1), 8])
def test_images_and_views_of_a_pixel_or_a_line(image, size):
    views = ContrastiveViews(
        size, boost=BoostedRandAugment(rule="bcl-d"), blur_probability=0.5, solarize_probability=0.5
    )
    for images in (random_images(4, *image), random_images(4, *image) / 255):
        out = views(images, torch.ones(4), torch.arange(4))
        assert out.min() >= 0
        assert out.max() <= 1


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("arithmetic", ["exact", "fast"])
def test_a_mixed_precision_step_gets_the_same_views(monkeypatch, masked, arithmetic):
    if masked:
        at_once(monkeypatch)
    images, scores, ids = random_images(8), torch.linspace(0, 1, 8), torch.arange(8)
    boost = BoostedRandAugment(rule="bcl-d")
    views = ContrastiveViews(32, boost=boost, arithmetic=arithmetic, blur_probability=0.5)
    plain, alone = views(images, scores, ids), boost(images, scores, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert views(images, scores, ids).equal(plain)
        assert boost(images, scores, ids).equal(alone)


def test_images_that_want_gradients_are_taken_without():
    images, scores, ids = random_images(8) / 255, torch.linspace(0, 1, 8), torch.arange(8)
    views = ContrastiveViews(32, boost=BoostedRandAugment(), blur_probability=0.5)
    want = views(images, scores, ids)
    out = views(images.clone().requires_grad_(), scores, ids)
    assert out.equal(want)
    assert not out.requires_grad


def test_mean_and_std_are_applied_last():
    images, ids = random_images(4), torch.arange(4)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    plain = ContrastiveViews(32)(images, ids=ids)
    normal = ContrastiveViews(32, mean=mean, std=std)(images, ids=ids)
    wanted = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(normal, wanted, atol=1e-6)


def test_crops_follow_their_settings():
    ids = torch.arange(20000)
    settings = ChainSettings(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    p = sample_chain(settings, ids, (64, 48), seed=1, epoch=0, view=0)
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
    p = sample_chain(settings, torch.arange(3), (10, 30), seed=0, epoch=0, view=0)
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


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"images": torch.zeros(4, 1, 8, 8)}, "three color channels"),
        ({"images": torch.zeros(3, 8, 8)}, "three color channels"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "empty"),
        ({"images": torch.zeros(4, 3, 0, 8)}, "no pixels"),
        ({"images": torch.zeros(4, 3, 8, 8, dtype=torch.int32)}, "uint8"),
        ({"scores": torch.tensor([0.0, 0.5, 1.5, 0.0])}, "1.5 at position 2"),
        ({"scores": torch.tensor([0.0, float("nan"), 0.5, 0.0])}, "position 1"),
        ({"scores": torch.tensor([-0.1, 0.5, 0.5, 0.0])}, r"\[0, 1\]"),
        ({"scores": torch.zeros(3)}, r"shape \(4,\)"),
        ({"scores": None}, "tracker.scores"),
        ({"ids": None}, "ids=batch"),
        ({"ids": torch.arange(5)}, "integers of shape"),
        ({"ids": torch.zeros(4)}, "integers of shape"),
        ({"images": torch.full((4, 3, 8, 8), 255.0)}, r"lie in \[0, 1\], got values from 255"),
        ({"images": torch.full((4, 3, 8, 8), -0.1)}, "got values from -0.1 to -0.1"),
        ({"images": torch.full((4, 3, 8, 8), float("nan"))}, "got NaN"),
        ({"images": [torch.zeros(3, 8, 8)]}, "tensor, got list"),
        ({"scores": [0.0] * 4}, "tensor, got list"),
        ({"scores": torch.zeros(4, dtype=torch.bool)}, "real numbers"),
        ({"ids": [0, 1, 2, 3]}, "tensor of integers, got list"),
        ({"epoch": 1.5}, "epoch must be an integer"),
    ],
)
def test_bad_batches_are_refused(change, text):
    good = {
        "images": torch.zeros(4, 3, 8, 8), "scores": torch.zeros(4), "ids": torch.arange(4)
    }  # fmt: skip
    with pytest.raises(InputError, match=text):
        ContrastiveViews(8, boost=BoostedRandAugment())(**{**good, **change})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scores": None}, "tracker.scores"),
        ({"scores": torch.tensor([0.0, 0.5, 1.5, 0.0])}, "1.5 at position 2"),
        ({"scores": torch.full((4,), float("nan"))}, r"\[0, 1\]"),
        ({"scores": torch.zeros(3)}, r"shape \(4,\)"),
        ({"ids": None}, "ids=batch"),
        ({"ids": torch.zeros(4)}, "integers of shape"),
    ],
)
def test_drawing_alone_refuses_what_a_step_refuses(change, text):
    good = {"scores": torch.zeros(4), "ids": torch.arange(4)}
    boost = BoostedRandAugment()
    with pytest.raises(InputError, match=text):
        boost.sample(**{**good, **change})
    with pytest.raises(InputError, match=text):
        ContrastiveViews(8, boost=boost).sample(image_size=(8, 8), **{**good, **change})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"size": 0}, "size"),
        ({"size": (8, 0)}, "size"),
        ({"size": 8.0}, "size"),
        ({"scale": (0.0, 1.0)}, "no area"),
        ({"scale": (0.5, 0.2)}, "scale"),
        ({"scale": (0.5, 1.2)}, "scale"),
        ({"scale": (0.5,)}, "two numbers"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"jitter": (0.4, 0.4, 0.4)}, "four finite numbers"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "hue"),
        ({"flip": 1.5}, "flip"),
        ({"jitter_probability": float("nan")}, "jitter_probability"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma"),
        ({"num_views": 0}, "num_views"),
        ({"num_views": 2.0}, "num_views"),
        ({"num_local": -1, "local_size": 4}, "num_local"),
        ({"boost": "bcl-i"}, "BoostedRandAugment"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "mean must be three"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.0, 0.5)}, "std must be three"),
        ({"mean": 0.5, "std": 0.5}, "mean must be three"),
        ({"scale": 0.5}, "two numbers"),
        ({"ratio": (1.0, float("inf"))}, "ratio"),
        ({"blur_sigma": (1.0, float("inf"))}, "blur_sigma"),
        ({"jitter": 0.4}, "four finite numbers"),
        ({"jitter": (float("inf"), 0.4, 0.4, 0.1)}, "four finite numbers"),
        ({"num_local": 2}, "local_size"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std"),
        ({"arithmetic": "exakt"}, "did you mean 'exact'"),
        ({"resize_order": "pillow13"}, "did you mean 'pillow-13'"),
        ({"check_values": "firs"}, "did you mean 'first'"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"flip": None}, "flip must be a number"),
    ],
)
def test_bad_settings_are_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        ContrastiveViews(**{"size": 8, **arguments})


def test_stored_parameters_that_do_not_fit_are_refused():
    views = ContrastiveViews(16)
    large = views.sample(torch.arange(4), (32, 32))
    with pytest.raises(InputError, match="image of 8 x 8"):
        views.transform(random_images(4, 8, 8), large)
    for count in (1, 2, 3, 8):
        with pytest.raises(InputError, match=rf"of {count} images need {2 * count} rows"):
            views.transform(random_images(count), large)
    with pytest.raises(InputError, match="not of views 0 to 0 of 8 images"):
        ContrastiveViews(16, num_views=1).transform(random_images(8), large)
    with pytest.raises(InputError, match="got ViewParams"):
        views.transform(random_images(4), large[0])
    with pytest.raises(InputError, match="got 0"):
        views.transform(random_images(4), [])
    with pytest.raises(InputError, match="of 2 ViewParams"):
        ContrastiveViews(16, num_local=1, local_size=8).transform(random_images(4), large)
    boost = BoostedRandAugment()
    drawn = ContrastiveViews(16, boost=boost).sample(torch.arange(4), (32, 32), torch.ones(4))
    with pytest.raises(InputError, match="no boost"):
        views.transform(random_images(4), drawn)
    with pytest.raises(InputError, match="4 images need 4 rows"):
        boost.transform(random_images(4), drawn[0].boost)
    empty = dataclasses.replace(large[0], height=torch.zeros_like(large[0].height))
    with pytest.raises(InputError, match="must hold a pixel"):
        views.transform(random_images(4), [empty])
    state = large[0].state_dict()
    for name, value, text in (
        ("hue", torch.zeros(3), "hue has the shape"),
        ("hue", "red", "hue must be a tensor"),
        ("order", torch.zeros(8, 4, dtype=torch.int64), "order must hold"),
        ("boost", dataclasses.replace(drawn[0].boost, op=drawn[0].boost.op + 15), "op must lie"),
    ):
        changed = ViewParams(**{**state, name: value})
        with pytest.raises(InputError, match=text):
            ContrastiveViews(16, boost=boost).transform(random_images(4), [changed])
    with pytest.raises(InputError, match=r"got 1 \(dict\)"):
        views.transform(random_images(4), [state])
    with pytest.raises(InputError, match="got list"):
        ViewParams.from_state_dict([state])
    del state["hue"]
    with pytest.raises(InputError, match="hue"):
        ViewParams.from_state_dict(state)
