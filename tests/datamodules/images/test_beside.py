"""Epochs with external images: their ids and pixels, ranks, resume."""

import pytest
import torch
from PIL import Image

from bcl import InputError
from datamodules import ImageCollection
from datamodules.images.dataset import ImageDataset
from datamodules.images.loader import BatchLoader


def levels(first: int, n: int) -> ImageDataset:
    """Images whose pixels say which they are."""
    images = torch.arange(first, first + n, dtype=torch.uint8)[:, None, None, None]
    return ImageDataset(images.expand(n, 3, 4, 4).contiguous(), torch.arange(n) % 3)


def loader(**options) -> BatchLoader:
    return BatchLoader(levels(0, 10), 4, external=levels(100, 30), budget=6, **options)


CHOSEN = torch.cat([torch.arange(10), -1 - torch.tensor([3, 7, 11, 20, 28, 29])])


def pixels(batch) -> list[int]:
    return batch["image"][:, 0, 0, 0].tolist()


def test_an_epoch_has_all_training_images_and_those_chosen() -> None:
    batches = loader()
    batches.choose(CHOSEN)
    assert len(batches) == 4
    seen = []
    for batch in batches:
        own = batch["id"] >= 0
        assert batch["id"][~own].eq(-1).all()
        assert batch["external"].ge(0).equal(~own)
        assert batch["label"].equal(torch.where(own, batch["id"] % 3, -1))
        assert pixels(batch) == torch.where(own, batch["id"], 100 + batch["external"]).tolist()
        seen += pixels(batch)
    assert sorted(seen) == [*range(10), 103, 107, 111, 120, 128, 129]


def test_without_a_choice_training_images_come_again() -> None:
    batches = loader()
    times = torch.bincount(torch.cat([batch["id"] for batch in batches]), minlength=10)
    assert times.sum() == 16
    assert set(times.tolist()) == {1, 2}
    other = loader()
    other.choose(CHOSEN)
    other.choose(None)
    again = torch.bincount(torch.cat([batch["id"] for batch in other]), minlength=10)
    assert again.equal(times)
    # The first N places are those of a loader without external images.
    plain = BatchLoader(levels(0, 10), 4)
    assert batches.order(0)[:10].equal(plain.order(0))


def test_an_image_may_be_chosen_several_times() -> None:
    batches = BatchLoader(levels(0, 8), 4)
    batches.choose(torch.tensor([1, 1, 1, 2, 2, 2, 3, 3]))
    for _ in range(2):
        ids = torch.cat([batch["id"] for batch in batches])
        assert sorted(ids.tolist()) == [1, 1, 1, 2, 2, 2, 3, 3]
        assert "external" not in next(iter(batches))


def test_ranks_share_the_global_batch() -> None:
    whole, parts = loader(), [loader(rank=rank, world_size=2) for rank in (0, 1)]
    for each in (whole, *parts):
        each.choose(CHOSEN)
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted(pixels(batch)) == sorted(pixels(first) + pixels(second))
        assert len(first["id"]) == 2


@pytest.mark.parametrize("stop", [1, 3])
def test_resume_goes_on_after_the_last_batch(stop: int) -> None:
    first, again = loader(), loader()
    first.choose(CHOSEN)
    batches = iter(first)
    for _ in range(stop):
        next(batches)
    again.load_state_dict(first.state_dict())
    again.choose(CHOSEN)
    assert [pixels(batch) for batch in again] == [pixels(batch) for batch in batches]
    with pytest.raises(InputError, match="with images 16"):
        BatchLoader(levels(0, 10), 4, external=levels(100, 30), budget=2).load_state_dict(
            loader_state(stop)
        )


def loader_state(stop: int):
    each = loader()
    batches = iter(each)
    for _ in range(stop):
        next(batches)
    return each.state_dict()


def test_a_whole_epoch_is_one_of_the_larger_number_of_images() -> None:
    state = loader_state(3)  # 12 places of 16, more than the 10 training images
    again = loader()
    again.load_state_dict(state)
    assert len(list(again)) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_external_files_are_decoded_beside_images_in_memory(tmp_path, workers) -> None:
    for level in range(5):
        Image.new("RGB", (4, 4), (100 + level,) * 3).save(tmp_path / f"{level}.png")
    data = ImageCollection(str(tmp_path), image_size=4, storage="files", workers=workers)
    batches = BatchLoader(levels(0, 4), 2, external=data.train_set(), budget=2)
    assert len(list(batches)) == 3  # none yet
    batches.choose(torch.tensor([0, 1, 2, 3, -5, -2]))
    assert sorted(level for batch in batches for level in pixels(batch)) == [0, 1, 2, 3, 101, 104]


@pytest.mark.parametrize(
    ("ids", "word"),
    [
        (torch.arange(10), "16 images, got 10"),
        (torch.arange(16), r"\[-30, 10\)"),
        (torch.arange(16) - 31, r"\[-30, 10\)"),
    ],
)
def test_bad_choices_are_refused(ids, word) -> None:
    with pytest.raises(InputError, match=word):
        loader().choose(ids)
