"""Measures without labels: a bounded sample, one size, and the same on any number of ranks."""

import pytest
import torch
from ranks import pool

from bcl.evaluation.unlabeled import measure_features, sample
from datamodules.images.dataset import ImageDataset


def images(count=37):
    generator = torch.Generator().manual_seed(1)
    shape = (count, 3, 24, 24)
    return ImageDataset(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))


def test_the_sample_is_bounded_and_always_the_same():
    data = images(60)
    part = sample(data, 20)
    assert len(part) == 20
    assert part.names() == sample(data, 20).names()
    assert part.names() == sorted(part.names(), key=int)
    assert sample(data, 60) is data


def encode(x):
    assert x.dtype == torch.uint8
    assert x.shape[2:] == (16, 16)  # resized, as a vision transformer needs
    return x.float().mean(3).flatten(1) / 255


def measure(rank=0):
    return measure_features(encode, images(), 16, neighbors=4, batch_size=10)


def test_two_ranks_measure_what_one_does():
    alone = measure()
    for found in pool(2).run(measure):
        assert found.values == pytest.approx(alone.values, rel=1e-6)
        assert found.neighbors.equal(alone.neighbors)
