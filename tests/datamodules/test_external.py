"""A second collection: opened, kept apart from the training and test images, refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from folders import make_folder, module
from PIL import Image

from bcl import InputError
from bcl.core.instantiate import instantiate
from datamodules import ArraysLT, DigitsLT
from datamodules.external import SelectionSettings


def images(n: int, seed: int = 0, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def arrays(selection: SelectionSettings | None, **options) -> ArraysLT:
    labels = np.arange(40) % 2
    return ArraysLT(
        images(40), labels, imbalance_factor=1, batch_size=8, selection=selection, **options
    )


def test_a_folder_beside_class_folders(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"ant": 20, "bee": 20})
    other = tmp_path / "other"
    other.mkdir()
    for number, pixels in enumerate(images(5, 1, side=20)):
        Image.fromarray(pixels).save(other / f"{number}.png")
    settings = SelectionSettings("random", root=str(other), budget=4)
    data = module(root, selection=settings)
    loader = data.train_dataloader()
    assert loader.images == data.num_samples + 4
    assert data.external.image_size == 12
    assert any("5 external images, of which each epoch has 4" in note for note in data.notes)
    assert data.external_hash == data.external.images_hash


def test_a_file_of_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "random.npy", images(30, 1))
    path = str(tmp_path / "random.npy")
    data = arrays(SelectionSettings("colt", root=path, budget=10))
    assert len(data.external) == 30
    assert data.external.labels.eq(-1).all()
    assert data.train_dataloader().images == data.num_samples + 10


def test_balanced_draws_need_no_other_images() -> None:
    data = arrays(SelectionSettings("balanced"))
    assert data.external is None
    assert data.external_hash is None
    assert data.train_dataloader().images == data.num_samples


@pytest.mark.parametrize("part", ["train_set", "test_set"])
def test_images_of_the_data_set_are_refused_by_their_pixels(tmp_path: Path, part: str) -> None:
    known = getattr(arrays(None), part)()
    shared = known.images(torch.tensor([3, 5])).permute(0, 2, 3, 1).numpy()
    np.save(tmp_path / "more.npy", np.concatenate([images(6, 1), shared]))
    data = arrays(SelectionSettings("random", root=str(tmp_path / "more.npy"), budget=4))
    what = {"train_set": "training set", "test_set": "test set"}[part]
    with pytest.raises(
        InputError, match=rf"2 of the 8 external images are in the {what} too: 6, 7"
    ):
        data.train_dataloader()


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_files_of_the_training_set_are_refused_by_name(tmp_path: Path, storage: str) -> None:
    root = make_folder(tmp_path / "set", {"ant": 20, "bee": 20})
    other = make_folder(tmp_path / "other", {"cat": 1})
    row = int(module(root).train_set().rows[0])
    path = sorted(root.glob("*/*.png"))[row]
    (other / "copy.png").write_bytes(path.read_bytes())
    settings = SelectionSettings("random", root=str(other), budget=1)
    data = module(root, selection=settings, storage=storage)
    with pytest.raises(InputError, match=rf"copy\.png.*{path.parent.name}/{path.name}"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"rule": "near"}, "near"),
        ({"rule": "colt", "budget": 0}, "budget"),
        ({"rule": "colt", "start": -1.0}, "start"),
        ({"rule": "colt", "every": -1}, "every"),
        ({"rule": "colt", "clusters": 0}, "clusters"),
        ({"rule": "colt", "temperature": 0.0}, "temperature"),
        ({"rule": "mak", "alpha": 1.5}, "alpha"),
        ({"rule": "mak", "passes": 1}, "passes"),
    ],
)
def test_bad_settings_are_refused(settings, word) -> None:
    with pytest.raises(InputError, match=word):
        SelectionSettings(**settings)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", images(5, 1))
    np.save(tmp_path / "b.npy", images(5, 1, side=9))
    path = str(tmp_path / "a.npy")
    for settings, word in (
        (SelectionSettings("colt"), r"give --data\.selection\.root"),
        (SelectionSettings("balanced", root=path), "leave out selection.root"),
        (SelectionSettings("colt", root=path, budget=6), "6 images, more than the 5"),
        (SelectionSettings("colt", root=str(tmp_path / "b.npy"), budget=2), "9 px"),
    ):
        with pytest.raises(InputError, match=word):
            arrays(settings).train_dataloader()


def test_settings_are_built_from_plain_values_in_every_datamodule() -> None:
    plain = {"rule": "balanced", "clusters": 3}
    for path, more in (
        ("datamodules.DigitsLT", {}),
        ("datamodules.CIFAR10LT", {}),
        ("datamodules.ImageCollection", {"root": "DIR"}),
    ):
        spec = {"class_path": path, "init_args": {"selection": plain, **more}}
        assert instantiate(spec).selection == SelectionSettings("balanced", clusters=3)
    assert DigitsLT().selection is None
