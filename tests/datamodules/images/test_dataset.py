"""A set of images: indices and shapes that it refuses."""

import pytest
import torch

from bcl import InputError
from datamodules.images.dataset import ImageDataset


def test_bad_sets() -> None:
    images, labels = torch.zeros(3, 3, 2, 2, dtype=torch.uint8), torch.arange(3)
    for index in (3, -1):
        with pytest.raises(InputError, match=f"index {index} lies outside the set of 3"):
            ImageDataset(images, labels).subset(torch.tensor([0, index]))
        with pytest.raises(InputError, match=f"index {index} lies outside"):
            ImageDataset(images, labels).images(torch.tensor([0, index]))
    with pytest.raises(InputError, match="label"):
        ImageDataset(images, labels[:2])
    for wrong in (images.float(), images[0], images[:, :1], images[..., :1]):
        with pytest.raises(InputError, match="uint8"):
            ImageDataset(wrong, labels)
