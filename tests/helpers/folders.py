"""Class folders of small images, and a datamodule over them."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules import ImageFolderLT


def make_folder(root: Path, sizes: dict[str, int], side: int = 12) -> Path:
    rng = np.random.default_rng(0)
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:03}.png")
    return root


def left_out(data) -> list[str]:
    return [note for note in data.notes if note.startswith("left out unreadable image")]


def module(root: Path, **options) -> ImageFolderLT:
    settings = {"imbalance_factor": 4, "image_size": 12, "batch_size": 8, "workers": 0}
    settings |= {"cache_dir": str(root.parent / "cache")} | options
    if {"recipe", "split_file"} & set(options) and "imbalance_factor" not in options:
        del settings["imbalance_factor"]
    return ImageFolderLT(str(root), **settings)
