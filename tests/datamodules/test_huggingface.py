"""Data sets of the Hugging Face library."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bcl import InputError
from datamodules import HuggingFaceLT


def test_hugging_face_library_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match=r"bcl-cacr\[datasets\]"):
        HuggingFaceLT("cifar10").setup()


@pytest.mark.slow
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
        with pytest.raises(InputError, match="without splits"):
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


def test_rows_without_labels(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    images = [Image.new("RGB", (10, 10), (level, 0, 0)) for level in range(5)]
    datasets.Dataset.from_dict({"image": images}).save_to_disk(str(tmp_path / "set"))
    options = {"image_size": 10, "batch_size": 5, "workers": 0, "cache_dir": str(tmp_path)}
    data = HuggingFaceLT(str(tmp_path / "set"), label_column=None, **options)
    assert data.num_samples == 5
    assert data.class_names == []
