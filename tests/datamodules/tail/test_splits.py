"""Splits as files."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import make_folder, module
from places import ROOT

from bcl import InputError
from datamodules.tail.splits import Split, compare, load_split, save_split, with_labels


def example() -> Split:
    return Split(torch.tensor([4, 0, 2]), torch.tensor([1, 0, 0]), 2, "example", "abc", 6)


def test_saved_and_read(tmp_path: Path) -> None:
    save_split(example(), tmp_path / "a.json")
    again = load_split(tmp_path / "a.json")
    assert again.content_hash == example().content_hash
    assert again.counts == [2, 1]
    assert again.recipe == "example"
    save_split(example(), tmp_path / "a.npy")
    indices = load_split(tmp_path / "a.npy")
    assert indices.indices.tolist() == [4, 0, 2]  # as it is: the order gives the ids
    assert indices.counts is None
    assert indices.index_hash == again.index_hash


def test_published_index_files_are_read_as_they_are() -> None:
    folder = ROOT.parent / "shared" / "splits"
    if not folder.is_dir():
        pytest.skip("the published index files are not beside this checkout")
    totals = {
        "cifar100_split1_D_i.npy": 9754,
        "cifar10_split1_D_i.npy": 11165,
        "cifar100_split1_test_100shot.npy": 10000,
    }
    for name, total in totals.items():
        split = load_split(folder / name)
        assert len(split) == total
        assert split.indices.equal(torch.from_numpy(np.load(folder / name)))


def test_pickled_file_is_never_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    np.save(tmp_path / "a.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Evil()))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(InputError):
            load_split(tmp_path / name)
    with pytest.raises(InputError, match="pickled objects"):
        load_split(tmp_path / "a.npy")
    assert not (tmp_path / "executed").exists()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):  # not an array's, but named as one
        (tmp_path / "c.npy").write_bytes(pickle.dumps([1, 2], protocol=protocol))
        with pytest.raises(InputError, match=r"pickled objects.*numpy\.save"):
            load_split(tmp_path / "c.npy")


def test_header_that_states_more_than_memory_holds(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(10))
    raw = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(
        raw.replace(b"(10,), }" + b" " * 15, b"(1%s,), }" % (b"0" * 15) + b" " * 1)
    )
    with pytest.raises(InputError, match=r"truncated, or larger than memory"):
        load_split(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([0.5, 1.5]), "integers"),
        (np.array([[0, 1]]), "one row of integers"),
        (np.array([True]), "integers"),
        (np.array([1j]), "integers"),
        (np.array([3, 1, 3]), "index 3 at position 2 occurs twice"),
        (np.array([3, -1]), "index -1 at position 1 lies outside"),
        (np.array([], dtype=np.int64), "empty"),
    ],
)
def test_bad_index_files(tmp_path: Path, array, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=message):
        load_split(tmp_path / "a.npy")


def test_damaged_files(tmp_path: Path) -> None:
    save_split(example(), tmp_path / "a.json")
    save_split(example(), tmp_path / "a.npy")
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "half.npy").write_bytes(whole[:-9])
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "half.json").write_text((tmp_path / "a.json").read_text()[:50])
    (tmp_path / "list.json").write_text("[]")
    data = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    data["indices"][0] = 5
    (tmp_path / "edited.json").write_text(json.dumps(data))
    (tmp_path / "word.json").write_text(json.dumps(data | {"num_classes": "x"}))
    (tmp_path / "huge.json").write_text(json.dumps(data | {"indices": [10**30]}))
    for name, entry in {
        "infinite": {"pool_size": float("inf")},
        "negative": {"num_classes": -1},
        "classes": {"num_classes": 10**12},
        "labels": {"labels": [1, 0, 2]},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(data | entry))
    del data["content_hash"]
    (tmp_path / "unhashed.json").write_text(json.dumps(data))
    for name, message in {
        "half.npy": "not an intact .npy",
        "text.npy": "not an intact .npy",
        "half.json": "not an intact saved split",
        "list.json": "not an intact saved split",
        "other.json": "not a split saved by",
        "edited.json": "was changed since it was saved",
        "word.json": "not an intact saved split",
        "huge.json": "not an intact saved split",
        "infinite.json": "not an intact saved split",
        "negative.json": "not an intact saved split.*num_classes -1",
        "classes.json": "not an intact saved split.*num_classes 1000000000000",
        "labels.json": "not an intact saved split.*labels 0 to 2 in 2 classes",
        "unhashed.json": "not an intact saved split.*content_hash.*make it again",
        "missing.npy": "does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            load_split(tmp_path / name)
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(InputError, match=r"\.npy.*\.json"):
        load_split(tmp_path / "a.csv")
    with pytest.raises(InputError, match="save a split as"):
        save_split(example(), tmp_path / "a.csv")


def test_split_of_another_data_set() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.raises(InputError, match="made for the data set abc of 6 images, this one is x"):
        with_labels(example(), labels, 2, "x")
    assert with_labels(example(), labels, 2, "abc").counts == [2, 1]
    with pytest.raises(InputError, match="index 4 at position 0 lies outside the set of 3"):
        with_labels(Split(torch.tensor([4])), labels[:3], 2, "x")


def test_index_file_of_another_order_is_noticed() -> None:
    labels = torch.arange(50_000) // 5000  # sorted by class, which CIFAR is not
    spread = Split(torch.linspace(0, 49_999, 11165).long(), recipe="index file D_i.npy")
    with pytest.raises(InputError, match="should be long-tailed"):
        with_labels(spread, labels, 10, "x")


def test_compare() -> None:
    one = example()
    turned = Split(one.indices.flip(0), one.labels.flip(0), 2, "turned", "abc", 6)
    other = Split(torch.tensor([4, 1]), torch.tensor([1, 0]), 2, "other", "abc", 6)
    assert compare(one, turned)["same"]
    assert not compare(one, turned)["same_order"]
    found = compare(one, other)
    assert (found["same"], found["common"], found["classes_that_differ"]) == (False, 1, [0])
    with pytest.raises(InputError, match="different data sets"):
        compare(one, Split(torch.tensor([0]), pool="z", pool_size=1))


def test_split_file_and_unreadable_images(tmp_path: Path) -> None:
    """Indices count all images of the folder, so one left out moves none of the others."""
    for part in ("train", "test"):
        make_folder(tmp_path / "set" / part, {"ant": 10, "bee": 10})
    names = sorted((tmp_path / "set" / "train").glob("*/*.png"))
    wanted = [19, 3, 4, 12, 2, 7]
    np.save(tmp_path / "s.npy", np.array(wanted))
    whole = module(tmp_path / "set", split_file=str(tmp_path / "s.npy"), batch_size=2)
    before = whole.train_set().images(torch.arange(6))
    save_split(whole.sets.split, tmp_path / "s.json")
    for row in (3, 5):
        names[row].write_text("no image")
    left = torch.tensor([0, 2, 3, 4, 5])
    for name in ("s.npy", "s.json"):
        data = module(
            tmp_path / "set",
            split_file=str(tmp_path / name),
            few_shot_file=str(tmp_path / "s.npy"),
            on_bad_image="skip",
            batch_size=2,
        )
        train = data.train_set()
        assert train.images(torch.arange(5)).equal(before[left])
        assert train.labels.equal(whole.train_set().labels[left])
        assert data.probe_set().images(torch.arange(5)).equal(before[left])
        assert "1 unreadable left out: 5 images" in data.recipe
        assert data.content_hash != whole.content_hash
        assert len(data.test_set()) == 20


def test_held_out_images_stay_out_of_a_few_shot_set(tmp_path: Path) -> None:
    """Held out of all images of the folder, so one left out as unreadable moves none."""
    folder = make_folder(tmp_path / "set", {"ant": 40, "bee": 40})
    np.save(tmp_path / "shots.npy", np.arange(64))  # every training image
    options = {"few_shot_file": str(tmp_path / "shots.npy"), "on_bad_image": "skip"}
    whole = module(folder, **options)
    pixels = [set(map(bytes, images_of(one).numpy())) for one in parts_of(whole)]
    assert not pixels[0] & pixels[1]
    names = sorted(folder.glob("*/*.png"))
    for row in range(0, 40, 5):
        names[row].write_text("no image")
    data = module(folder, **options)
    assert len(data.probe_set()) + len(data.test_set()) == 72
    for one, before in zip(parts_of(data), pixels, strict=True):
        assert set(map(bytes, images_of(one).numpy())) < before


def parts_of(data):
    return data.probe_set(), data.test_set()


def images_of(images) -> torch.Tensor:
    return images.images(torch.arange(len(images))).flatten(1)


def test_index_file_of_another_byte_order(tmp_path: Path) -> None:
    from datamodules.tail.splits import load_split

    np.save(tmp_path / "a.npy", np.array([3, 1, 0], dtype=">i8"))
    assert load_split(tmp_path / "a.npy").indices.tolist() == [3, 1, 0]
