"""Batches in an order of seed and epoch, resumed and shared among ranks."""

import pytest
import torch

from bcl import InputError
from datamodules import DigitsLT
from datamodules.images.dataset import ImageDataset
from datamodules.images.loader import BatchLoader


def image_set(n: int = 20) -> ImageDataset:
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 4, 4)
    return ImageDataset(images.contiguous(), torch.arange(n) % 3)


def test_in_id_order() -> None:
    batches = list(image_set().batches(6))
    assert torch.cat([batch["id"] for batch in batches]).tolist() == list(range(20))
    assert [len(batch["id"]) for batch in batches] == [6, 6, 6, 2]


def ids_of(loader: BatchLoader) -> list[list[int]]:
    return [batch["id"].tolist() for batch in loader]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    first = BatchLoader(image_set(), 4, seed=3)
    second = BatchLoader(image_set(), 4, seed=3)
    epochs = [ids_of(first) for _ in range(3)]  # read to the end: goes on by itself
    assert epochs[0] != epochs[1] != epochs[2]
    second.set_epoch(2)
    assert ids_of(second) == epochs[2]
    second.set_epoch(0)
    assert ids_of(second) == epochs[0]
    assert ids_of(BatchLoader(image_set(), 4, seed=4)) != epochs[0]


def test_ranks_share_the_global_batch() -> None:
    whole = ids_of(BatchLoader(image_set(), 6, seed=1))
    parts = [ids_of(BatchLoader(image_set(), 6, seed=1, rank=r, world_size=3)) for r in range(3)]
    assert [[i for share in slices for i in share] for slices in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("stop", range(5))
def test_resume_goes_on_after_the_last_batch(stop: int) -> None:
    loader = BatchLoader(image_set(), 4, seed=2)
    loader.set_epoch(1)
    whole = ids_of(loader)
    loader.set_epoch(0)
    loader.set_epoch(1)
    iterator = iter(loader)
    seen = [next(iterator)["id"].tolist() for _ in range(stop)]
    state = loader.state_dict()
    again = BatchLoader(image_set(), 4, seed=2, rank=0)
    again.load_state_dict(state)
    iterator = iter(again)  # Lightning makes the iterator first, then sets the epoch
    again.set_epoch(1)
    assert seen + [batch["id"].tolist() for batch in iterator] == whole
    again.set_epoch(2)
    assert len(ids_of(again)) == len(loader)


def test_resume_after_a_whole_epoch_and_on_other_ranks() -> None:
    loader = BatchLoader(image_set(), 4, seed=2)
    ids_of(loader)
    state = loader.state_dict()
    next_epoch = ids_of(loader)
    again = BatchLoader(image_set(), 4, seed=2, rank=1, world_size=2)
    again.load_state_dict(state)
    assert ids_of(again) == [batch[2:] for batch in next_epoch]
    # A whole epoch binds the next one to nothing.
    other = BatchLoader(image_set(), 5, seed=9)
    other.load_state_dict(state)
    assert len(ids_of(other)) == 4


def test_resume_amid_another_order_is_refused() -> None:
    loader = BatchLoader(image_set(), 4, seed=2)
    next(iter(loader))
    state = loader.state_dict()
    for other in (
        BatchLoader(image_set(), 5, seed=2),
        BatchLoader(image_set(), 4, seed=3),
        BatchLoader(image_set(19), 4, seed=2),
    ):
        with pytest.raises(InputError, match="middle of epoch 0"):
            other.load_state_dict(state)


def test_bad_batches() -> None:
    with pytest.raises(InputError, match="4 does not divide"):
        BatchLoader(image_set(), 4, world_size=3)
    with pytest.raises(InputError, match="larger than the training set of 20"):
        BatchLoader(image_set(), 21)
    with pytest.raises(InputError, match="batch_size"):
        BatchLoader(image_set(), 0)
    with pytest.raises(InputError, match="batch_size"):
        DigitsLT(batch_size=0)
