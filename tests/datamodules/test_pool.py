"""From a folder or a list to sets: names, classes, notes."""

import os
from pathlib import Path

import pytest
from folders import make_folder, module
from PIL import Image

from bcl import InputError
from datamodules import ImageFolderLT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "set", {"ant": 20, "bee": 20})


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_names_of_any_letters_and_of_no_encoding(folder: Path, storage: str) -> None:
    (folder / "bee").rename(folder / "蜂 bee")
    raw = (folder / "ant" / "000.png").read_bytes()
    (folder / "ant" / "ä ö.png").write_bytes(raw)
    (folder / os.fsdecode(b"ant/\xff.png")).write_bytes(raw)
    (folder / os.fsdecode(b"ant/\xfe.png")).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"ant/\\udcfe\.png"):
        module(folder, storage=storage).setup()
    data = module(folder, storage=storage, imbalance_factor=None, on_bad_image="skip")
    assert data.class_names == ["ant", "蜂 bee"]
    assert len(data.probe_set()) + len(data.test_set()) == 42
    for note in data.notes:
        note.encode()  # can be written into a report
    assert sum(len(batch["id"]) for batch in data.probe_set().batches(10)) == len(data.probe_set())


def test_other_files_are_told(folder: Path) -> None:
    for name in ("ant/a.avif", "ant/b.AVIF", "bee/README"):
        (folder / name).write_text("")
    assert module(folder).notes == [
        "left out 2 .avif files (not images)",
        "left out 1 file without ending (not images)",
    ]


def test_a_class_called_train(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"car": 10, "train": 10})
    assert module(root, batch_size=2).class_names == ["car", "train"]


def test_a_folder_around_the_class_folders(folder: Path) -> None:
    with pytest.raises(InputError, match=rf"single class folder, set; .*\(ant, bee\).*{folder}"):
        module(folder.parent).setup()


def test_another_encoding_under_the_same_names(folder: Path, tmp_path: Path) -> None:
    """The names' hash stays, so that splits go with it; the bytes' hash tells them apart."""
    first = {storage: module(folder, storage=storage) for storage in ("memory", "files")}
    assert first["memory"].images_hash == first["files"].images_hash
    again = module(folder, cache_dir=str(tmp_path / "other"))
    assert again.images_hash == first["memory"].images_hash
    names, digest = first["memory"].content_hash, first["memory"].images_hash
    row = int(first["memory"].train_set().rows[0])
    path = sorted(folder.glob("*/*.png"))[row]
    with Image.open(path) as image:
        image.convert("L").save(path)
    for storage in ("memory", "files"):
        changed = module(folder, storage=storage)
        assert changed.content_hash == names
        assert changed.images_hash != digest
        assert changed.test_set().images_hash == first["memory"].test_set().images_hash


def test_the_folder_one_stands_in_has_a_name(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    settings = {"image_size": 12, "cache_dir": str(folder.parent / "cache"), "workers": 0}
    assert ImageFolderLT(".", 4, batch_size=4, **settings).recipe.startswith("set, exponential")


def test_size_decides(folder: Path) -> None:
    small = 40 * 3 * 12 * 12 / 2**30
    assert module(folder, memory_limit_gb=small).train_set().files is None
    assert module(folder, memory_limit_gb=small * 0.9).train_set().files is not None
    with pytest.raises(InputError, match="unknown storage 'disk'"):
        module(folder, storage="disk")
    with pytest.raises(InputError, match="unknown on_bad_image"):
        module(folder, on_bad_image="ignore")
    with pytest.raises(InputError, match="workers"):
        module(folder, workers=-1)
