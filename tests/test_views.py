import pytest
import torch

from bcl.augment import BoostedRandAugment, ContrastiveViews, ViewParams
from bcl.errors import InputError


def pictures(count=6, rows=32, cols=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 4, 4, generator=generator)
    big = torch.nn.functional.interpolate(small, (rows, cols), mode="bilinear")
    return (big * 255).to(torch.uint8)


@pytest.mark.parametrize(
    ("rows", "cols", "size"), [(8, 8, 8), (8, 8, 32), (64, 64, 32), (3, 5, (6, 4))]
)
@pytest.mark.parametrize("arithmetic", ["exact", "fast"])
def test_any_picture_size_gives_views_in_range(rows, cols, size, arithmetic):
    views = ContrastiveViews(size, boost=BoostedRandAugment(), arithmetic=arithmetic)
    out = views(pictures(6, rows, cols), scores=torch.linspace(0, 1, 6), ids=torch.arange(6))
    height, width = (size, size) if isinstance(size, int) else size
    assert out.shape == (2, 6, 3, height, width)
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("arithmetic", ["exact", "fast"])
@pytest.mark.parametrize("policy", ["reference", "monotone"])
def test_score_zero_leaves_the_base_chain_bit_for_bit(arithmetic, policy):
    images, ids = pictures(32), torch.arange(32)
    boost = BoostedRandAugment(rule="bcl-d", policy=policy)
    with_boost = ContrastiveViews(32, boost=boost, arithmetic=arithmetic)
    without = ContrastiveViews(32, arithmetic=arithmetic)
    scores = torch.ones(32)
    scores[::2] = 0
    boosted, plain = with_boost(images, scores, ids), without(images, ids=ids)
    assert boosted[:, ::2].equal(plain[:, ::2])
    assert not boosted[:, 1::2].equal(plain[:, 1::2])


def test_a_view_depends_on_seed_epoch_id_and_view_alone():
    images = pictures(8)
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
    images, ids, scores = pictures(5), torch.arange(5), torch.linspace(0, 1, 5)
    views = ContrastiveViews(32, boost=BoostedRandAugment(rule="bcl-d"))
    params = views.sample(ids, (32, 32), scores, epoch=1)
    torch.save([p.state_dict() for p in params], tmp_path / "params.pt")
    stored = torch.load(tmp_path / "params.pt", weights_only=True)
    again = views.transform(images, [ViewParams.from_state_dict(p) for p in stored])
    assert again.equal(views(images, scores, ids, epoch=1))


def test_multi_crop_gives_a_list():
    views = ContrastiveViews(32, num_local=3, local_size=16)
    out = views(pictures(4), ids=torch.arange(4))
    assert [tuple(view.shape) for view in out] == [(4, 3, 32, 32)] * 2 + [(4, 3, 16, 16)] * 3


def test_missing_scores_and_ids_are_named():
    views = ContrastiveViews(32, boost=BoostedRandAugment())
    with pytest.raises(InputError, match="ids"):
        views(pictures(), scores=torch.zeros(6))
    with pytest.raises(InputError, match="score"):
        views(pictures(), ids=torch.arange(6))
