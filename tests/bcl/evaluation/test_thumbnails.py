"""Small images as files."""

import io

import numpy as np
import torch
from PIL import Image

from bcl.evaluation.thumbnails import thumbnails


def test_thumbnails_are_small_and_alike():
    ramp = torch.linspace(0, 255, 256).to(torch.uint8).expand(1, 3, 256, 256)
    image = Image.open(io.BytesIO(thumbnails(ramp)[0]))
    assert image.size == (64, 64)
    assert abs(np.asarray(image)[32, 32, 0] - 127) < 8
