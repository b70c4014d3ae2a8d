"""Random crops and flips: a function of seed, epoch and id, whatever the batches are."""

import pytest
import torch
from fakes import FakeData

from bcl.augment import ContrastiveViews
from bcl.evaluation.crops import CroppedSet, ViewedSet, crop_and_flip, view_features


def test_crops_are_a_function_of_seed_epoch_and_id():
    images = torch.randint(1, 256, (6, 3, 16, 16), dtype=torch.uint8)
    ids = torch.arange(6)
    first = crop_and_flip(images, ids, 0, 1)
    assert first.shape == images.shape
    assert first[3:].equal(crop_and_flip(images[3:], ids[3:], 0, 1))
    assert not first.equal(crop_and_flip(images, ids, 0, 2))
    # Every row of a crop is a row of the padded image, perhaps mirrored.
    padded = torch.nn.functional.pad(images[:1], (2, 2, 2, 2))
    both = torch.stack([padded[0], padded[0].flip(-1)])
    windows = both.unfold(2, 16, 1).unfold(3, 16, 1)  # (2, 3, 5, 5, 16, 16)
    same = (windows == first[0][None, :, None, None]).all(-1).all(-1).all(1)
    assert bool(same.any())


def test_crops_do_not_depend_on_batches():
    images = CroppedSet(FakeData().probe_set(), 3)
    whole = torch.cat([batch["image"] for batch in images.batches(7, "cpu")])
    ids = torch.arange(len(images)).flip(0)
    assert whole.equal(images.images(ids).flip(0))
    assert not whole.equal(images.base.images(ids).flip(0))
    assert CroppedSet(images.base, 4).content_hash != images.content_hash


@pytest.mark.parametrize("size", [(8, 8), (8, 24), (24, 8)])
def test_crops_of_any_shape_are_windows_of_the_padded_image(size):
    images = torch.rand(20, 3, *size, generator=torch.Generator().manual_seed(0))
    made = crop_and_flip(images, torch.arange(20), 0, 0)
    assert made.shape == images.shape
    y, x = size[0] // 8, size[1] // 8
    padded = torch.nn.functional.pad(images, (x, x, y, y))
    windows = padded.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (B, 3, tops, lefts, H, W)
    for crop, every in zip(made, windows, strict=True):
        both = torch.cat([every, every.flip(-1)], 1)
        assert (both == crop[:, None, None]).flatten(3).all(-1).all(0).any()


def test_pairs_of_views_are_those_of_their_images():
    base, ids = FakeData().probe_set(), torch.tensor([7, 3, 200])
    views = ViewedSet(base, ids, 6)
    pair = (ContrastiveViews(6)(base.images(ids), ids=ids) * 255).round().to(torch.uint8)
    assert views.images(torch.tensor([5, 0, 1])).equal(
        torch.stack([pair[1, 2], pair[0, 0], pair[1, 0]])
    )
    assert views.labels.tolist() == base.labels[ids].repeat_interleave(2).tolist()
    first, second = view_features(lambda x: x.flatten(1).float(), views, batch_size=4)
    assert first.equal(pair[0].flatten(1).float())
    assert second.equal(pair[1].flatten(1).float())
