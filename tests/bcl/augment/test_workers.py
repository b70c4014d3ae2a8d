"""Pieces for data-loader workers, and the command that shows what a score does."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from bcl.augment import (
    BoostedRandAugment,
    ContrastiveViews,
    ImageViews,
)
from bcl.augment.workers import as_tensor
from bcl.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def photo(rows=40, cols=60, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((cols, rows), Image.Resampling.BICUBIC)


def test_an_image_is_read_from_pillow_or_passed_on():
    image = photo()
    wanted = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for source in (image, wanted):
        assert as_tensor(source).equal(wanted)
    assert as_tensor(image.convert("L")).shape == (3, 40, 60)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 4, 4),
        torch.zeros(3, 0, 4),
        torch.zeros(3, 4, 4, dtype=torch.int32),
        np.zeros((4, 4, 3), dtype=np.uint8),
        "image.png",
        None,
    ],
)
def test_bad_images_are_refused(image):
    with pytest.raises(InputError, match=r"image|batch"):
        ImageViews(ContrastiveViews(16))(image)


def test_one_image_gets_the_views_that_the_batch_gives_it():
    images = torch.stack([as_tensor(photo(20, 24, seed)) for seed in range(6)])
    views = ContrastiveViews(16, boost=BoostedRandAugment(), num_local=1, local_size=8)
    scores = torch.linspace(0, 1, 6)
    batch = views(images, scores, torch.arange(6), epoch=2)
    single = ImageViews(views)
    for i in range(6):
        one = single(images[i], score=float(scores[i]), sample_id=i, epoch=2)
        for whole, view in zip(batch, one, strict=True):
            assert whole[i].equal(view)


def test_it_travels_to_worker_processes():
    single = ImageViews(ContrastiveViews(16, boost=BoostedRandAugment()))
    other = pickle.loads(pickle.dumps(single))
    given = {"score": 0.5, "sample_id": 3}
    assert other(photo(), **given).equal(single(photo(), **given))


class Images(torch.utils.data.Dataset):
    """Dicts with the views that a worker makes."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.transform({"image": photo(seed=index), "score": index / 5, "id": index})


def test_persistent_workers_make_the_batchs_views():
    views = ContrastiveViews(16, boost=BoostedRandAugment())
    loader = torch.utils.data.DataLoader(
        Images(ImageViews(views)), 3, num_workers=1, persistent_workers=True
    )
    images = torch.stack([as_tensor(photo(seed=index)) for index in range(6)])
    wanted = views(images, torch.linspace(0, 1, 6), torch.arange(6))
    for _ in range(2):
        made = torch.cat([batch["image"] for batch in loader])  # (B, V, 3, 16, 16)
        assert made.transpose(0, 1).equal(wanted)


def test_numbers_of_a_data_set_are_taken_as_they_are():
    views = ContrastiveViews(16, boost=BoostedRandAugment())
    single, image = ImageViews(views), photo()
    wanted = single(image, score=0.75, sample_id=3, epoch=2)
    for kind in (np.float32, np.float64, torch.tensor):
        assert single(image, score=kind(0.75), sample_id=np.int64(3), epoch=2).equal(wanted)
    ids = torch.tensor([3], dtype=torch.int32)
    assert single(image, score=0.75, sample_id=ids, epoch=np.int32(2)).equal(wanted)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"score": "high"}, "score must be a number"),
        ({"score": torch.zeros(2)}, "score must be a number"),
        ({"score": 0.5, "sample_id": torch.arange(2)}, "id must be an integer"),
        ({"score": 0.5, "sample_id": True}, "id must be an integer"),
        ({"score": float("nan")}, "nan"),
        ({"score": 0.5, "sample_id": 0.5}, "id must be an integer"),
        ({"score": 0.5, "sample_id": 2**63}, "64 bits"),
    ],
)
def test_bad_scores_and_ids_of_one_image_are_refused(arguments, text):
    single = ImageViews(ContrastiveViews(16, boost=BoostedRandAugment()))
    with pytest.raises(InputError, match=text):
        single(photo(), **arguments)
    with pytest.raises(InputError, match="must be a ContrastiveViews"):
        ImageViews(torch.nn.Identity())


def test_one_image_without_id_draws_a_new_one():
    single = ImageViews(ContrastiveViews(16))
    torch.manual_seed(3)
    first, second = single(photo()), single(photo())
    assert not first.equal(second)
    torch.manual_seed(3)
    assert single(photo()).equal(first)


def test_it_stands_among_torchvision_transforms():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    from torchvision import tv_tensors

    chain = v2.Compose([v2.Resize(20), ImageViews(ContrastiveViews(16))])
    image = as_tensor(photo())
    assert chain(tv_tensors.Image(image)).shape == (2, 3, 16, 16)
    assert chain(photo()).shape == (2, 3, 16, 16)
    assert chain(image).shape == (2, 3, 16, 16)


def test_a_compose_passes_scores_ids_and_labels_on():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    views = ContrastiveViews(16, boost=BoostedRandAugment())
    single = ImageViews(views)
    chain, image = v2.Compose([v2.Identity(), single]), as_tensor(photo())
    sample = {"image": image, "score": 0.9, "id": 3, "epoch": 2, "label": 5}
    out = chain(sample)
    assert out["image"].equal(single(image, score=0.9, sample_id=3, epoch=2))
    assert {**out, "image": image} == sample
    plain = v2.Compose([v2.Identity(), ImageViews(ContrastiveViews(16))])
    made, label = plain(image, 1)
    assert made.shape == (2, 3, 16, 16)
    assert label == 1
    with pytest.raises(InputError, match="hold 'image'"):
        single({"img": image})
    with pytest.raises(InputError, match="score"):
        chain(image, 1)  # a label is no score
