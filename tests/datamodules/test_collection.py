"""Collections without labels: everything readable is trained on, and nothing is lost in silence."""

import csv
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bcl import InputError
from datamodules import ImageCollection


def save(path: Path, size=(12, 12), mode: str = "RGB", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def collection(root, **options) -> ImageCollection:
    cache = Path(root if isinstance(root, str | Path) else root[0]).parent / "cache"
    settings = {"image_size": 12, "batch_size": 4, "workers": 0, "cache_dir": str(cache)}
    return ImageCollection(root if isinstance(root, list) else str(root), **(settings | options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images at any depth, in folders that are no classes, beside files that are no images."""
    names = ["top.png", "north/2021-05-03/b.png", "north/2021-05-03/a.png", "蜂/x y.png", "ä.png"]
    for seed, name in enumerate(names):
        save(tmp_path / "set" / name, seed=seed)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    return tmp_path / "set"


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_all_images_are_trained_on_and_have_names(folder: Path, storage: str) -> None:
    data = collection(folder, storage=storage, batch_size=5)
    expected = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.png"))
    assert data.names() == expected
    assert data.names([3, 0]) == [expected[3], expected[0]]
    (batch,) = data.train_dataloader()
    assert batch["id"].sort().values.tolist() == [0, 1, 2, 3, 4]
    for position, row in enumerate(batch["id"].tolist()):
        pixels = np.asarray(Image.open(folder / expected[row]).convert("RGB"))
        assert (batch["image"][position].permute(1, 2, 0).numpy() == pixels).all()
    assert [b["id"].tolist() for b in data.train_set().batches(3)] == [[0, 1, 2], [3, 4]]


def test_without_labels_nothing_can_be_measured(folder: Path) -> None:
    data = collection(folder)
    assert data.class_names == []
    for measure in (data.test_set, lambda: data.class_counts, lambda: data.few_shot(1)):
        with pytest.raises(InputError, match="no labels"):
            measure()


def test_unreadable_images_are_counted_and_listed(folder: Path, capsys) -> None:
    whole = (folder / "top.png").read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    data = collection(folder)
    assert data.num_samples == 5
    assert [name for name, _ in data.unreadable] == ["cut.png", "empty.jpg"]
    assert "truncated" in data.unreadable[0][1]
    assert "2 unreadable, 1 .txt file" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"cut\.png"):
        collection(folder, on_bad_image="refuse").setup()


def test_a_set_without_a_readable_image(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(InputError, match="holds no file"):
        collection(tmp_path / "set").setup()
    (tmp_path / "set" / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"1 \.txt file"):
        collection(tmp_path / "set").setup()
    (tmp_path / "set" / "a.png").write_text("")
    with pytest.raises(InputError, match="none of the 1"):
        collection(tmp_path / "set").setup()
    with pytest.raises(InputError, match="does not exist"):
        collection(tmp_path / "nowhere").setup()


def test_another_square_of_a_wide_image_each_epoch(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(120, dtype=np.uint8), (12, 120))
    for number in range(4):
        (tmp_path / "set").mkdir(exist_ok=True)
        Image.fromarray(ramp).save(tmp_path / "set" / f"{number}.png")
    seen = {}
    for storage in ("memory", "files"):
        data = collection(tmp_path / "set", storage=storage)
        loader = data.train_dataloader()
        seen[storage] = []
        for epoch in range(3):
            loader.set_epoch(epoch)
            (batch,) = loader
            left = batch["image"][:, 0, 0, 0].tolist()
            assert (
                batch["image"][:, 0] == torch.tensor(left)[:, None, None] + torch.arange(12)
            ).all()
            seen[storage].append(dict(zip(batch["id"].tolist(), left, strict=True)))
    assert seen["memory"] == seen["files"]
    places = [place for epoch in seen["memory"] for place in epoch.values()]
    assert len(set(places)) > 6
    assert max(places) > 60 > 40 > min(places)  # not around the middle, which starts at 54
    (middle,) = data.train_set().batches(4)
    assert middle["image"][:, 0, 0, 0].tolist() == [54] * 4


def packed_zip(folder: Path, out: Path) -> Path:
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return out


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives_hold_the_same_collection(folder: Path, tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"set.{kind}"
    if kind == "zip":
        packed_zip(folder, archive)
    else:
        with tarfile.open(archive, "w:gz" if kind == "tar.gz" else "w") as tar:
            tar.add(folder, ".")
    for storage in ("memory", "files"):
        data, plain = collection(archive, storage=storage), collection(folder)
        assert data.num_samples == 5
        assert data.names() == plain.names()
        ids = torch.arange(5)
        assert data.train_set().images(ids).equal(plain.train_set().images(ids))
    raw = archive.read_bytes()
    archive.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match=r"set\.(zip|tar)"):
        collection(archive).setup()


def test_an_archive_that_cannot_be_unpacked_names_the_cache(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as tar:
        tar.add(folder, ".")

    def full(path: Path, _: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("datamodules.images.collected.atomic_write", full)
    with pytest.raises(
        InputError, match=r"cannot unpack .*set\.tar\.gz into the cache .*BCL_CACHE"
    ):
        collection(tmp_path / "set.tar.gz").setup()


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "parquet"])
def test_lists_of_paths(folder: Path, tmp_path: Path, kind: str) -> None:
    outside = save(tmp_path / "elsewhere.png")
    paths = ["top.png", "蜂/x y.png", str(outside), "./top.png"]
    table = folder / f"list.{kind}"
    write_table(table, paths)
    data = collection(table)
    assert data.names() == sorted(paths[:3])
    assert any("1 repeated" in note for note in data.notes)
    write_table(table, ["top.png", "gone.png"])
    with pytest.raises(InputError, match=r"1 file.*gone\.png"):
        collection(table).setup()
    if kind != "txt":
        with pytest.raises(InputError, match=r"'picture'; it has .*path.*--data\.path_column"):
            collection(table, path_column="picture").setup()
    write_table(table, [])
    with pytest.raises(InputError, match=rf"list\.{kind} holds no file"):
        collection(table).setup()


def write_table(path: Path, paths: list[str]) -> None:
    if path.suffix == ".parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pytest.importorskip("pyarrow").table({"path": paths}), path)
        return
    between = {".csv": ",", ".tsv": "\t"}.get(path.suffix)
    rows = [f"{number}{between}{name}" for number, name in enumerate(paths)] if between else paths
    path.write_text("\n".join([f"n{between}path", *rows] if between else rows), "utf-8")


def test_several_roots(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "more" / "top.png", seed=9)
    roots = [str(folder), str(tmp_path / "more")]
    data = collection(roots)
    assert data.num_samples == 6
    assert {"more/top.png", "set/top.png"} < set(data.names())
    assert collection(roots[::-1]).content_hash == data.content_hash
    with pytest.raises(InputError, match="lies in"):
        collection([str(tmp_path), *roots]).setup()


def test_lists_in_one_folder_and_a_folder_beside_them(folder: Path, tmp_path: Path) -> None:
    outside = save(tmp_path / "elsewhere.png")
    (tmp_path / "a.txt").write_text("set/top.png\n")
    (tmp_path / "b.csv").write_text(f"path\nset/ä.png\n{outside}\n\n")
    data = collection([str(tmp_path / "a.txt"), str(tmp_path / "b.csv"), str(folder)])
    assert data.num_samples == 3 + 5
    assert {"a.txt/set/top.png", "b.csv/set/ä.png", f"b.csv/{outside}"} < set(data.names())
    data.train_set().images(torch.arange(8))


@pytest.mark.slow
def test_rows_of_a_saved_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.new("RGB", (20, 12), (level, 0, 0)) for level in (0, 100, 200)]
    datasets.Dataset.from_dict({"image": images}).save_to_disk(tmp_path / "set")
    data = collection(tmp_path / "set")
    assert data.names() == ["train/0", "train/1", "train/2"]
    assert data.train_set().images(torch.arange(3))[:, 0, 0, 0].tolist() == [0, 100, 200]


def test_hidden_and_system_files_are_no_images(folder: Path) -> None:
    for name in (".thumb/a.png", "._top.png", "@eaDir/top.png", "__MACOSX/top.png"):
        save(folder / name)
    (folder / "north" / "round").symlink_to(folder)
    assert collection(folder).num_samples == 5


def test_roots_of_another_kind(folder: Path, tmp_path: Path) -> None:
    for root in (folder / "top.png", folder / "nowhere"):
        with pytest.raises(InputError, match=re.escape(root.name)):
            collection(root).setup()
    with pytest.raises(InputError, match="one readable image"):
        collection(save(tmp_path / "one" / "a.png").parent).setup()


def test_a_set_smaller_than_a_batch(folder: Path) -> None:
    data = collection(folder, batch_size=64)
    (batch,) = data.train_dataloader()
    assert len(batch["id"]) == 5
    assert any("batch is 5, not 64" in note for note in data.notes)


def test_names_in_the_runs_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "bad, one.png").write_bytes(b"")
    data = collection(folder)
    data.write_names(tmp_path / "run")
    with (tmp_path / "run" / "images.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == data.names()
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4"]
    with (tmp_path / "run" / "unreadable.csv").open(encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["bad, one.png"]
    (folder / "bad, one.png").unlink()
    collection(folder).write_names(tmp_path / "run")
    assert not (tmp_path / "run" / "unreadable.csv").exists()
