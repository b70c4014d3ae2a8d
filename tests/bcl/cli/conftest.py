"""A folder to work in, images, and a checkpoint of a run on them."""

import pytest
import torch
from PIL import Image

from bcl.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of class folders: 3 classes of 40 small photographs' stand-ins."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 40), ("test", 10)):
        for label, name in enumerate(("cat", "dog", "owl")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(0, 60, (8, 8, 3), generator=generator)
                pixels = (noise + 60 * label).to(torch.uint8).numpy()
                Image.fromarray(pixels).resize((20, 16)).save(root / part / name / f"{i:03}.png")
    return root


@pytest.fixture(scope="session")
def checkpoint(images, tmp_path_factory):
    """A checkpoint of one epoch on `images`."""
    root = tmp_path_factory.mktemp("run")
    options = {
        "--config": "image_folder/bcl_i",
        "--data.root": images,
        "--data.imbalance_factor": 4,
        "--data.batch_size": 16,
        "--data.image_size": 16,
        "--data.cache_dir": tmp_path_factory.mktemp("cache"),
        "--model.encoder.name": "resnet8",
        "--model.encoder.args.width": 4,
        "--model.views.init_args.size": 16,
        "--trainer.max_epochs": 1,
        "--trainer.default_root_dir": root,
        "--trainer.accelerator": "cpu",
    }
    status = main(["fit", *(str(word) for pair in options.items() for word in pair)])
    assert status == 0
    return root / "checkpoints" / "last.ckpt"
