"""Pieces for data-loader workers, and the command that shows what a score does."""

import argparse
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from bcl.augment import (
    BoostedRandAugment,
    ContrastiveViews,
    ImageViews,
    score_grid,
)
from bcl.augment.workers import as_tensor
from bcl.cli.augment import add_arguments, run
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


def test_the_first_column_of_a_score_grid_is_the_plain_view():
    images = torch.stack([as_tensor(photo(20, 20, seed)) for seed in range(4)])
    plain = ContrastiveViews(16)
    boosted = ContrastiveViews(16, boost=BoostedRandAugment())
    grid = score_grid(images, boosted, [0.0, 0.5, 1.0])
    assert grid.shape == (4, 3, 3, 16, 16)
    assert grid[:, 0].equal(plain(images, ids=torch.arange(4))[0])
    with pytest.raises(InputError, match="no boost"):
        score_grid(images, plain, [0.0])


def command(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(word) for word in words]))


def test_the_command_writes_a_grid(tmp_path, capsys):
    for seed in range(3):
        photo(30, 50, seed).save(tmp_path / f"{seed}.png")
    out = tmp_path / "out" / "grid.png"
    assert command("--images", tmp_path, "--out", out, "--size", 24, "--columns", 4) == 0
    assert Image.open(out).size == (4 * 26 + 2, 3 * 26 + 2 + 14)
    assert "3 rows, 4 columns" in capsys.readouterr().out
    assert command("--images", tmp_path, "--out", out, "--size", 24, "--ops", "--whole") == 0
    assert Image.open(out).size == (90 + 6 * 26 + 2, 15 * 26 + 2 + 14)
    first = out.read_bytes()
    assert command("--images", tmp_path, "--out", out, "--whole", "--scheme", "bcl-d") == 0
    assert out.read_bytes() != first


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--images", "nowhere"], "does not exist"),
        (["--images", "."], "no images"),
        (["--images", ".", "--columns", 1], "--columns"),
        (["--images", ".", "--scheme", "bcl"], "scheme"),
        (["--images", ".", "--policy", "monoton"], "monotone"),
        (["--images", ".", "--ops", "--scheme", "bcl_d"], "did you mean 'bcl-d'"),
        (["--images", ".", "--out", "grid.jpg"], r"\.png file to write, got 'grid\.jpg'"),
        (["--images", ".", "--out", "."], r"\.png file to write"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    if "--scheme" in words or "--policy" in words:
        photo().save("a.png")
    with pytest.raises(InputError, match=text):
        command("--out", "grid.png", *words)
    assert not (tmp_path / "grid.png").exists()


def test_the_command_names_a_file_that_is_no_image(tmp_path):
    (tmp_path / "broken.jpg").write_text("text")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        command("--images", tmp_path, "--out", tmp_path / "grid.png")
