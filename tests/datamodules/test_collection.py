"""Collections without labels: everything readable is trained on, and nothing is lost in silence."""

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
    assert "2 unreadable, 1 .txt files" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"cut\.png"):
        collection(folder, on_bad_image="refuse").setup()


def test_a_set_without_a_readable_image(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        collection(tmp_path / "set").setup()
    (tmp_path / "set" / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"1 \.txt files"):
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
