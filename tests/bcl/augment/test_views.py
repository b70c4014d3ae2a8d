import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bcl.augment import BoostedRandAugment, ChainSettings, ContrastiveViews
from bcl.augment.ops import crop
from bcl.augment.ops.color import gray_mean
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
    boost = BoostedRandAugment("bcl-d", policy)
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


def test_multi_crop_gives_a_list():
    views = ContrastiveViews(32, num_local=3, local_size=16)
    out = views(random_images(4), ids=torch.arange(4))
    assert [tuple(view.shape) for view in out] == [(4, 3, 32, 32)] * 2 + [(4, 3, 16, 16)] * 3


@pytest.mark.parametrize("seed", range(40))
def test_views_do_not_depend_on_how_a_batch_is_cut(seed):
    """Of odd sizes a matrix product rounds otherwise for other batches and addresses."""
    generator = torch.Generator().manual_seed(seed)
    rows, cols, *size = torch.randint(1, 49, (4,), generator=generator).tolist()
    chain = ChainSettings(blur_probability=0.5)
    views = ContrastiveViews(tuple(size), 2, chain, BoostedRandAugment("bcl-d"), seed=seed)
    images = torch.randint(0, 256, (9, 3, rows, cols), dtype=torch.uint8, generator=generator)
    scores, ids = torch.linspace(0, 1, 9), torch.arange(9)
    alone = [views(images[i : i + 1], scores[i : i + 1], ids[i : i + 1]) for i in range(9)]
    assert views(images, scores, ids).equal(torch.cat(alone, 1))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("size", [32, (64, 48)])
def test_views_do_not_depend_on_the_number_of_threads(size, mode):
    images, scores = random_images(9, 40, 40) / 255, torch.linspace(0, 1, 9)
    images.requires_grad_()
    boost = BoostedRandAugment("bcl-d")
    views = ContrastiveViews(
        size, boost=boost, num_local=1, local_size=16, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    alone = views(images, scores, torch.arange(9))
    for threads in (2, 3, 5):
        torch.set_num_threads(threads)
        with mode(), torch.autocast("cpu", torch.bfloat16):
            shared = views(images, scores, torch.arange(9))
        assert all(a.equal(b) for a, b in zip(alone, shared, strict=True))
        assert not any(view.requires_grad for view in shared)


@pytest.mark.parametrize("size", [32, 49])
def test_fast_views_stay_in_range(size):
    images, ids = torch.randint(0, 256, (64, 3, 40, 40), dtype=torch.uint8), torch.arange(64)
    out = ContrastiveViews(size, arithmetic="fast")(images, ids=ids)
    assert out.min() >= 0
    assert out.max() <= 1


def test_missing_scores_and_ids_are_named():
    views = ContrastiveViews(32, boost=BoostedRandAugment())
    with pytest.raises(InputError, match="ids"):
        views(random_images(), scores=torch.zeros(6))
    with pytest.raises(InputError, match="score"):
        views(random_images(), ids=torch.arange(6))


@pytest.mark.parametrize("size", [16, 64])
def test_another_default_device_does_not_matter(size):
    crop._tap_table.cache_clear()
    images, ids, scores = random_images(6, 24, 20), torch.arange(6), torch.linspace(0, 1, 6)
    views = ContrastiveViews(
        size, boost=BoostedRandAugment("bcl-d"), chain=ChainSettings(blur_probability=0.5)
    )
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
    ("count", "source", "size"),
    [(1, 32, 32), (16, 32, 32), (256, 32, 32), (1, 256, 224), (3, 256, 224)],
)
def test_memory_stays_under_four_times_the_output(count, source, size):
    chain = ChainSettings(blur_probability=0.5)
    views = ContrastiveViews(size, chain=chain, boost=BoostedRandAugment("bcl-d"))
    views(torch.zeros(1, 3, source, source), torch.zeros(1), torch.arange(1))  # tables are kept
    images = torch.zeros(count, 3, source, source, dtype=torch.uint8)
    with Peak() as memory:
        out = views(images, torch.ones(count), torch.arange(count))
    assert memory.peak < 4 * out.numel() * 4 + _ALLOWANCE


def test_float_images_give_nearly_the_views_of_their_bytes():
    images, ids = random_images(16, 40, 30), torch.arange(16)
    for size in (24, 64):
        views = ContrastiveViews(size, chain=ChainSettings(color_jitter_probability=0))
        difference = (views(images, ids=ids) - views(images / 255, ids=ids)).abs()
        assert (difference > 1.5 / 255).float().mean() < 1e-3
    assert views(images.half() / 255, ids=ids).dtype == torch.float32


def test_large_images_equal_the_matrix_form_within_a_level(monkeypatch):
    images, ids = random_images(8, 70, 52), torch.arange(8)
    chain = ChainSettings(color_jitter_probability=0, grayscale_probability=0)
    views = ContrastiveViews((40, 64), chain=chain)
    one_by_one = views(images, ids=ids)
    monkeypatch.setattr(crop, "_SMALL_SIDE", 100)
    difference = (one_by_one - views(images, ids=ids)).abs() * 255
    assert difference.max() > 0
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
    views = ContrastiveViews(size, boost=BoostedRandAugment("bcl-d"))
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
        size,
        chain=ChainSettings(blur_probability=0.5, solarize_probability=0.5),
        boost=BoostedRandAugment("bcl-d"),
    )
    for images in (random_images(4, *image), random_images(4, *image) / 255):
        out = views(images, torch.ones(4), torch.arange(4))
        assert out.min() >= 0
        assert out.max() <= 1


@pytest.mark.parametrize("arithmetic", ["exact", "fast"])
def test_a_mixed_precision_step_gets_the_same_views(arithmetic):
    images, scores, ids = random_images(8), torch.linspace(0, 1, 8), torch.arange(8)
    boost = BoostedRandAugment("bcl-d")
    chain = ChainSettings(blur_probability=0.5)
    views = ContrastiveViews(32, chain=chain, boost=boost, arithmetic=arithmetic)
    plain, alone = views(images, scores, ids), boost(images, scores, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert views(images, scores, ids).equal(plain)
        assert boost(images, scores, ids).equal(alone)


def test_images_that_want_gradients_are_taken_without():
    images, scores, ids = random_images(8) / 255, torch.linspace(0, 1, 8), torch.arange(8)
    views = ContrastiveViews(
        32, chain=ChainSettings(blur_probability=0.5), boost=BoostedRandAugment()
    )
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


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"images": torch.zeros(4, 1, 8, 8)}, r"\(4, 1, 8, 8\)"),
        ({"images": torch.zeros(3, 8, 8)}, r"\(3, 8, 8\)"),
        ({"images": torch.zeros(0, 3, 8, 8)}, r"\(0, 3, 8, 8\)"),
        ({"images": torch.zeros(4, 3, 0, 8)}, r"\(4, 3, 0, 8\)"),
        ({"images": torch.zeros(4, 3, 8, 8, dtype=torch.int32)}, "got torch.int32"),
        ({"scores": torch.tensor([0.0, 0.5, 1.5, 0.0])}, "1.5 at position 2"),
        ({"scores": torch.tensor([0.0, float("nan"), 0.5, 0.0])}, "position 1"),
        ({"scores": torch.tensor([-0.1, 0.5, 0.5, 0.0])}, r"\[0, 1\]"),
        ({"scores": torch.zeros(3)}, r"\(3,\)"),
        ({"scores": None}, "scores .* got None"),
        ({"ids": None}, "ids .* got None"),
        ({"ids": torch.arange(5)}, r"\(5,\)"),
        ({"ids": torch.zeros(4)}, "got torch.float32"),
        ({"images": torch.full((4, 3, 8, 8), 255.0)}, "values from 255"),
        ({"images": torch.full((4, 3, 8, 8), -0.1)}, "values from -0.1"),
        ({"images": torch.full((4, 3, 8, 8), float("nan"))}, "nan"),
        ({"images": [torch.zeros(8, 8)]}, r"images .* shape \(1, 8, 8\)"),
        ({"images": torch.zeros(4, 4, 8, 8)}, "drops the fourth channel"),
        ({"images": torch.zeros(4, 8, 8, 3)}, "puts the channels first"),
        ({"scores": [0.0] * 3}, r"scores .* shape \(3,\)"),
        ({"scores": torch.zeros(4, dtype=torch.bool)}, "got torch.bool"),
        ({"ids": ["a", "b", "c", "d"]}, "ids must be a tensor, an array or a list"),
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
    ("arguments", "text"),
    [
        ({"size": 0}, "size"),
        ({"size": (8, 0)}, "size"),
        ({"size": 8.0}, "size"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 0.2)}, "scale"),
        ({"scale": (0.5, 1.2)}, "scale"),
        ({"scale": (0.5,)}, "2 finite numbers"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"color_jitter": (0.4, 0.4, 0.4)}, "4 finite numbers"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.6)}, "hue"),
        ({"flip_probability": 1.5}, "flip"),
        ({"color_jitter_probability": float("nan")}, "jitter_probability"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma"),
        ({"num_views": 0}, "num_views"),
        ({"num_views": 2.0}, "num_views"),
        ({"num_local": -1, "local_size": 4}, "num_local"),
        ({"boost": "bcl-i"}, "BoostedRandAugment"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "mean must be 3"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.0, 0.5)}, "std must be 3"),
        ({"mean": 0.5, "std": 0.5}, "mean must be 3"),
        ({"scale": 0.5}, "2 finite numbers"),
        ({"ratio": (1.0, float("inf"))}, "ratio"),
        ({"blur_sigma": (1.0, float("inf"))}, "blur_sigma"),
        ({"color_jitter": 0.4}, "4 finite numbers"),
        ({"color_jitter": (float("inf"), 0.4, 0.4, 0.1)}, "4 finite numbers"),
        ({"num_local": 2}, "local_size"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std"),
        ({"arithmetic": "exakt"}, "did you mean 'exact'"),
        ({"chain": {"scale": (0.2, 1.0)}}, "ChainSettings"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"flip_probability": None}, "flip_probability must be a number"),
    ],
)
def test_bad_settings_are_refused(arguments, text):
    names = arguments.keys() & ChainSettings.__dataclass_fields__.keys()
    chain = {name: arguments[name] for name in names}
    plain = {name: arguments[name] for name in arguments.keys() - chain.keys()}
    with pytest.raises(InputError, match=text):
        ContrastiveViews(**{"size": 8, "chain": ChainSettings(**chain), **plain})
