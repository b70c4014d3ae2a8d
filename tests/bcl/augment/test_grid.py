"""Grids of views."""

import numpy as np
import pytest
import torch
from PIL import Image

from bcl.augment import (
    BoostedRandAugment,
    ContrastiveViews,
    score_grid,
)
from bcl.augment.workers import as_tensor
from bcl.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def photo(rows=40, cols=60, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((cols, rows), Image.Resampling.BICUBIC)


def test_the_first_column_of_a_score_grid_is_the_plain_view():
    images = torch.stack([as_tensor(photo(20, 20, seed)) for seed in range(4)])
    plain = ContrastiveViews(16)
    boosted = ContrastiveViews(16, boost=BoostedRandAugment())
    grid = score_grid(images, boosted, [0.0, 0.5, 1.0])
    assert grid.shape == (4, 3, 3, 16, 16)
    assert grid[:, 0].equal(plain(images, ids=torch.arange(4))[0])
    with pytest.raises(InputError, match="no boost"):
        score_grid(images, plain, [0.0])
