"""Arrays in memory: layouts, types and hashes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bcl import InputError
from datamodules import ArraysLT


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


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32, np.uint16])
def test_labels_of_any_integer_type(kind) -> None:
    images, labels = np.zeros((60, 4, 4), np.uint8), (np.arange(60) % 3).astype(kind)
    data = ArraysLT(images, labels, imbalance_factor=2, batch_size=1)
    assert data.probe_set().labels[data.few_shot(3)].bincount().tolist() == [3, 3, 3]
    assert data.class_counts.tolist() == [16, 11, 8]


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


def test_images_without_labels_are_all_trained_on() -> None:
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    data = ArraysLT(images, batch_size=20)
    (batch,) = data.train_dataloader()
    assert batch["image"].equal(images[batch["id"]])
    assert data.class_names == []
    with pytest.raises(InputError, match="no labels"):
        data.test_set()
    with pytest.raises(InputError, match="labels"):
        ArraysLT(images, test_images=images, test_labels=torch.zeros(20))
    with pytest.raises(InputError, match="recipe"):
        ArraysLT(images, recipe="cifar10/sdclr", imbalance_factor=None).setup()
