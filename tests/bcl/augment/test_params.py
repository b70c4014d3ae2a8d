"""Drawn parameters: stored, replayed, refused."""

import dataclasses

import pytest
import torch

from bcl.augment import BoostedRandAugment, ContrastiveViews, ViewParams
from bcl.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def random_images(count=6, rows=32, cols=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 4, 4, generator=generator)
    big = torch.nn.functional.interpolate(small, (rows, cols), mode="bilinear")
    return (big * 255).to(torch.uint8)


def test_parameters_can_be_stored_and_replayed(tmp_path):
    images, ids, scores = random_images(5), torch.arange(5), torch.linspace(0, 1, 5)
    views = ContrastiveViews(32, boost=BoostedRandAugment("bcl-d"))
    params = views.sample(ids, (32, 32), scores, epoch=1)
    torch.save([p.state_dict() for p in params], tmp_path / "params.pt")
    stored = torch.load(tmp_path / "params.pt", weights_only=True)
    again = views.transform(images, [ViewParams.from_state_dict(p) for p in stored])
    assert again.equal(views(images, scores, ids, epoch=1))


def test_stored_parameters_that_do_not_fit_are_refused():
    views, boost = ContrastiveViews(16), BoostedRandAugment()
    large = views.sample(torch.arange(4), (32, 32))
    drawn = ContrastiveViews(16, boost=boost).sample(torch.arange(4), (32, 32), torch.ones(4))
    for make, images, params, text in (
        (views, random_images(4, 8, 8), large, "image of 8 x 8"),
        *((views, random_images(n), large, rf"\({2 * n}") for n in (1, 2, 3, 8)),
        (ContrastiveViews(16, num_views=1), random_images(8), large, "num_views"),
        (views, random_images(4), large[0], "got ViewParams"),
        (views, random_images(4), [], "got list"),
        (views, random_images(4), [large[0].state_dict()], "dict|got list"),
        (ContrastiveViews(16, num_local=1, local_size=8), random_images(4), large, "2 ViewParams"),
        (views, random_images(4), drawn, "no boost"),
    ):
        with pytest.raises(InputError, match=text):
            make.transform(images, params)
    with pytest.raises(InputError, match=r"\(4, 1\)"):
        boost.transform(random_images(4), drawn[0].boost)
    state, ops = drawn[0].state_dict(), drawn[0].boost
    for name, value, text in (
        ("hue", torch.zeros(3), "hue"),
        ("hue", "red", "hue must be a tensor"),
        ("height", torch.zeros_like(drawn[0].height), "crop must hold"),
        ("order", torch.zeros(8, 4, dtype=torch.int64), "order must hold"),
        ("order", drawn[0].order[:, :3], "order must be"),
        ("boost", dataclasses.replace(ops, op=ops.op + 15), "op must be in 0 .. 14"),
        ("boost", dataclasses.replace(ops, magnitude=ops.magnitude + 30), "magnitude must"),
        ("boost", dataclasses.replace(ops, magnitude=ops.magnitude * torch.nan), "magnitude must"),
    ):
        changed = dataclasses.replace(drawn[0], **{name: value})
        with pytest.raises(InputError, match=text):
            ContrastiveViews(16, boost=boost).transform(random_images(4), [changed])
    with pytest.raises(InputError, match="got list"):
        ViewParams.from_state_dict([state])
    del state["hue"]
    with pytest.raises(InputError, match="hue"):
        ViewParams.from_state_dict(state)
