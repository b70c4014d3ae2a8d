"""CIFAR, arrays in memory, and sets of the Hugging Face library."""

import argparse
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from bcl import InputError
from datamodules import CIFAR10LT, CIFAR100LT, ArraysLT, HuggingFaceLT
from datamodules.tail.recipes import RECIPES


def fake_cifar(monkeypatch, kind: str, per_class: int) -> None:
    """CIFAR's labels in a mixed order, with gray images that show their number."""
    classes = 10 if kind == "CIFAR10" else 100

    def load(self, train: bool):
        count = per_class if train else 10
        labels = torch.arange(count * classes) * 7 % classes
        images = (torch.arange(len(labels)) % 256).to(torch.uint8)[:, None, None, None]
        return images.expand(-1, 3, 2, 2).contiguous(), labels, [f"c{i}" for i in range(classes)]

    monkeypatch.setattr(f"datamodules.{kind}LT._load", load)


@pytest.mark.parametrize("factor", [100, 50, 10])
def test_cifar_by_default_is_the_published_subset(monkeypatch, factor: int) -> None:
    fake_cifar(monkeypatch, "CIFAR100", 500)
    data = CIFAR100LT(imbalance_factor=factor)
    assert data.num_samples == RECIPES[f"cifar100/exponential-{factor}"].published
    assert f"cifar100/exponential-{factor}" in data.recipe
    assert data.class_counts.tolist() == list(RECIPES[f"cifar100/exponential-{factor}"].counts)
    assert (len(data.probe_set()), len(data.test_set())) == (50_000, 1000)


def test_cifar_recipes_and_files(monkeypatch, tmp_path: Path) -> None:
    fake_cifar(monkeypatch, "CIFAR10", 5000)
    empty = CIFAR10LT(recipe="cifar10/cacr-exponential")
    assert empty.num_samples == 7904
    assert empty.notes == ["1 class(es) without a training image: c0"]
    assert "step-100" in CIFAR10LT(profile="step").recipe
    assert CIFAR10LT(imbalance_factor=20).num_samples == sum(
        int(5000 * 0.05 ** (i / 9)) for i in range(10)
    )
    indices = np.arange(100)[::-1].copy()
    np.save(tmp_path / "split.npy", indices)
    np.save(tmp_path / "shots.npy", np.arange(500))
    data = CIFAR10LT(
        split_file=str(tmp_path / "split.npy"), few_shot_file=str(tmp_path / "shots.npy")
    )
    assert data.train_set().rows.tolist() == indices.tolist()  # the file's order gives the ids
    assert len(data.probe_set()) == 500
    np.save(tmp_path / "far.npy", np.array([50_000]))
    with pytest.raises(InputError, match="index 50000 at position 0 lies outside the set of 50000"):
        CIFAR10LT(split_file=str(tmp_path / "far.npy")).setup()
    with pytest.raises(InputError, match="not both"):
        CIFAR10LT(recipe="cifar10/sdclr", split_file="x.npy")
    with pytest.raises(InputError, match="did you mean 'cifar10/sdclr'"):
        CIFAR10LT(recipe="cifar10/sdlcr")
    with pytest.raises(InputError, match="32 px"):
        CIFAR10LT(image_size=64)
    with pytest.raises(InputError, match="imbalance_factor 50 would have no effect"):
        CIFAR10LT(recipe="cifar10/sdclr", imbalance_factor=50)


def test_cifar_without_data_or_network(tmp_path: Path, monkeypatch) -> None:
    def unreachable(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    for download in (True, False):
        with pytest.raises(InputError) as caught:
            CIFAR10LT(str(tmp_path), download=download).setup()
        assert "cifar-10-python.tar.gz" in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert "MD5" in str(caught.value)


def test_cifar_through_torchvision(tmp_path: Path, monkeypatch, capsys) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, entry: dict) -> str:
        raw = pickle.dumps(entry)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw, usedforsecurity=False).hexdigest()

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (100, 3072), dtype=np.uint8)
    labels = [i % 10 for i in range(100)]
    train = write("data_batch_1", {"data": pixels, "labels": labels})
    test = write("test_batch", {"data": pixels[:20], "labels": labels[:20]})
    meta = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", train]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", test]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})
    data = CIFAR10LT(str(tmp_path), download=False, imbalance_factor=5, batch_size=8)
    data.prepare_data()
    assert data.class_names == list("abcdefghij")
    image = data.probe_set().images(torch.tensor([7]))[0]
    assert image.flatten().tolist() == pixels[7].tolist()
    assert int(data.class_counts.max()) == 10

    from bcl.cli import split as command

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = ["make", "--profile", "exponential", "--imbalance-factor", "5"]
    command.run(parser.parse_args([*words, "--root", str(tmp_path)]))
    assert data.content_hash in capsys.readouterr().out


@pytest.fixture
def both_cifars(tmp_path: Path, monkeypatch) -> Path:
    for kind, folder in (("CIFAR10", "cifar-10-batches-py"), ("CIFAR100", "cifar-100-python")):
        fake_cifar(monkeypatch, kind, 5000 if kind == "CIFAR10" else 500)
        (tmp_path / folder).mkdir()
    return tmp_path


def split(*words) -> None:
    from bcl.cli import split as command

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([str(word) for word in words]))


def test_split_of_a_root_with_both_cifars(both_cifars: Path, capsys) -> None:
    root = ("--root", both_cifars)
    for name in ("cifar10/sdclr", "cifar100/sdclr"):
        save = both_cifars / "s.json"
        split("make", name, *root, "--save", save)
        assert f"total      {RECIPES[name].total}" in capsys.readouterr().out
        split("inspect", save, *root)  # a saved split says which by its recipe
        assert f"total      {RECIPES[name].total}" in capsys.readouterr().out
    profile = ("make", "--profile", "step", "--save", both_cifars / "s.npy")
    with pytest.raises(InputError, match=r"both cifar10 and cifar100.*--dataset cifar10 or"):
        split(*profile, *root)
    split(*profile, *root, "--dataset", "cifar100")
    assert "classes    100" in capsys.readouterr().out
    with pytest.raises(InputError, match="both cifar10 and cifar100"):
        split("inspect", both_cifars / "s.npy", *root)
    split("inspect", both_cifars / "s.npy", *root, "--dataset", "cifar100")
    assert "classes    100, largest 500, smallest 5" in capsys.readouterr().out
    (both_cifars / "cifar-10-batches-py").rmdir()
    split("inspect", both_cifars / "s.npy", *root)  # the only one
    with pytest.raises(InputError, match="--dataset cifar10 is not there; it holds cifar100"):
        split("inspect", both_cifars / "s.npy", *root, "--dataset", "cifar10")


def test_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 9, 9, 3), dtype=np.uint8)
    labels = np.arange(60) % 3
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    settings = {"imbalance_factor": 4, "batch_size": 4}
    one = ArraysLT(images, labels, **settings)
    other = ArraysLT(str(tmp_path / "images.npy"), str(tmp_path / "labels.npy"), **settings)
    assert one.content_hash == other.content_hash
    assert one.class_counts.tolist() == [16, 8, 4]
    row = int(one.train_set().rows[0])
    assert one.train_set().images(torch.tensor([0]))[0].permute(1, 2, 0).numpy().tolist() == (
        images[row].tolist()
    )
    gray = ArraysLT(images[..., 0], labels, images[:6, :, :, 0], labels[:6], **settings)
    assert len(gray.test_set()) == 6
    assert gray.class_counts.tolist() == [20, 10, 5]
    assert ArraysLT(images[::-1].copy(), labels, **settings).content_hash != one.content_hash


def test_arrays_hash_covers_all_images() -> None:
    """Whichever are held out: also where the first image is."""
    images, labels = np.zeros((60, 4, 4), np.uint8), np.arange(60) % 3
    settings = {"imbalance_factor": None, "test_share": 0.9, "batch_size": 1}
    one = ArraysLT(images, labels, **settings)
    assert 0 in one.test_set().rows.tolist()
    row = int(one.train_set().rows[0])
    images = images.copy()
    images[row] = 1
    assert ArraysLT(images, labels, **settings).content_hash != one.content_hash
    # The training set is the same, whatever it is tested on.
    pair = [
        ArraysLT(images, labels, images[:3] + i, labels[:3], imbalance_factor=2, batch_size=1)
        for i in range(2)
    ]
    assert pair[0].content_hash == pair[1].content_hash


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((4, 3, 8, 8)), np.arange(4), "uint8"),
        (np.zeros((4, 3, 8, 9), np.uint8), np.arange(4), "uint8 of shape"),
        (np.zeros((4, 8, 8), np.uint8), np.arange(3), "need 4 integer labels"),
        (np.zeros((4, 8, 8), np.uint8), np.arange(4) * 0.5, "integer labels"),
        (np.zeros((4, 8, 8), np.uint8), np.arange(4) - 1, "label -1 is out"),
        (np.zeros((4, 8, 8), np.uint8), np.arange(4) * 2, "without gaps"),
        (np.zeros((4, 8, 8), np.uint8), np.array(list("abcd")), "labels must .* got <U1.*unique"),
        (np.zeros((4, 8, 8), np.uint8), list("abcd"), "labels must .* got list.*numpy.unique"),
        (np.zeros((4, 8, 8), np.uint8), np.arange(4) * 1j, "integer labels"),
        (np.zeros((4, 8, 8), object), np.arange(4), "images must .* got object.*numpy.stack"),
        ("missing.npy", np.arange(4), "does not exist"),
        (np.zeros((0, 8, 8), np.uint8), np.arange(0), "not empty"),
        (np.zeros((2, 8, 8), np.uint8), np.array([0, 10**12]), "label 1000000000000 is out"),
    ],
)
def test_bad_arrays(images, labels, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ArraysLT(images, labels, batch_size=1).setup()


def test_arrays_of_any_layout() -> None:
    images, labels = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8), np.array([0, 1, 0, 1])
    settings = {"imbalance_factor": None, "batch_size": 1, "test_images": images}
    plain = ArraysLT(images[::-1].copy(), labels, **settings, test_labels=labels)
    for kind in ("uint8", "uint16", "uint32", "uint64", ">i4"):
        other = ArraysLT(images[::-1], labels.astype(kind), **settings, test_labels=labels)
        assert other.content_hash == plain.content_hash
        assert other.train_set().images(torch.tensor([0]))[0, 0].tolist() == images[-1].tolist()


def test_bad_test_arrays() -> None:
    images, labels = np.zeros((4, 8, 8), np.uint8), np.arange(4)
    with pytest.raises(InputError, match="or neither"):
        ArraysLT(images, labels, images)
    with pytest.raises(InputError, match="test_images are of shape"):
        ArraysLT(images, labels, np.zeros((4, 9, 9), np.uint8), labels).setup()
    with pytest.raises(InputError, match="8 px, got image_size 9"):
        ArraysLT(images, labels, image_size=9)


def test_hugging_face_library_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match=r"bcl-cacr\[datasets\]"):
        HuggingFaceLT("cifar10").setup()


def test_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 10, 10, 3), dtype=np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )

    def part(first: int, last: int):
        rows = {
            "image": [Image.fromarray(p) for p in pixels[first:last]],
            "label": [i % 2 for i in range(first, last)],
        }
        return datasets.Dataset.from_dict(rows, features=features)

    saved = datasets.DatasetDict({"train": part(0, 32), "test": part(32, 40)})
    saved.save_to_disk(str(tmp_path / "pets"))
    settings = {
        "imbalance_factor": 4,
        "image_size": 10,
        "batch_size": 4,
        "cache_dir": str(tmp_path / "cache"),
        "workers": 0,
    }
    data = HuggingFaceLT(str(tmp_path / "pets"), **settings)
    assert data.class_names == ["cat", "dog"]
    assert data.class_counts.tolist() == [16, 4]
    assert len(data.test_set()) == 8
    row = int(data.train_set().rows[2])
    assert data.train_set().images(torch.tensor([2]))[0].permute(1, 2, 0).tolist() == (
        pixels[row].tolist()
    )
    again = HuggingFaceLT(str(tmp_path / "pets"), **(settings | {"storage": "files", "workers": 2}))
    for one, other in zip(data.train_dataloader(), again.train_dataloader(), strict=True):
        assert one["image"].equal(other["image"])
    with pytest.raises(InputError, match="did you mean 'image'"):
        HuggingFaceLT(str(tmp_path / "pets"), image_column="imag", **settings).setup()
    with pytest.raises(InputError, match="did you mean 'train'"):
        HuggingFaceLT(str(tmp_path / "pets"), split="trian", **settings).setup()
    with pytest.raises(InputError, match="cannot load"):
        HuggingFaceLT(str(tmp_path / "nothing"), **settings).setup()
    part(0, 32).save_to_disk(str(tmp_path / "single"))
    single = HuggingFaceLT(str(tmp_path / "single"), **settings)
    assert len(single.probe_set()) + len(single.test_set()) == 32
    assert torch.bincount(single.test_set().labels).tolist() == [3, 3]
    for odd in ({"split": "validation"}, {"test_split": "validation"}):
        with pytest.raises(InputError, match="without parts, so there is no 'validation'"):
            HuggingFaceLT(str(tmp_path / "single"), **odd, **settings).setup()
    for column, value, told in (
        ("image", None, r"train/0: no image in this row"),
        ("label", None, "class number"),
    ):
        odd = datasets.Dataset.from_dict(
            {
                name: [value if name == column else old, *saved["train"][name][1:]]
                for name, old in saved["train"][0].items()
            },
            features=features,
        )
        folder = tmp_path / f"odd_{column}"
        datasets.DatasetDict({"train": odd, "test": part(32, 40)}).save_to_disk(str(folder))
        with pytest.raises(InputError, match=told):
            HuggingFaceLT(str(folder), **settings).setup()
