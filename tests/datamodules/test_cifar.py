"""CIFAR through torchvision: published subsets, index files and failures."""

import argparse
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar import fake_cifar

from bcl import InputError
from datamodules import CIFAR10LT, CIFAR100LT
from datamodules.tail.recipes import RECIPES


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
