"""Extraction: every image once, on one rank or two, and cached."""

import pytest
import torch
from fakes import FakeData, FakeSet, encode
from ranks import pool

import bcl
from bcl.core.errors import InputError
from bcl.evaluation import EvaluationOptions
from bcl.evaluation.features import FeatureCache, extract_features


def extract_on_rank(rank, total, batch_size):
    images = FakeSet(torch.arange(total) % 6, 7)
    return extract_features(encode, images, batch_size=batch_size)


@pytest.mark.parametrize(("total", "batch_size"), [(101, 16), (32, 16), (5, 16), (17, 1)])
def test_two_ranks_give_the_features_of_one(total, batch_size):
    alone = extract_on_rank(0, total, batch_size)
    assert alone.shape == (total, 15)
    for found in pool(2).run(extract_on_rank, total, batch_size):
        assert found.equal(alone)


def evaluate_on_rank(rank):
    report = bcl.evaluate(
        encode, FakeData(test=119), "full,10-shot,knn", EvaluationOptions(batch_size=16)
    )
    return report.predictions


@pytest.mark.slow
def test_two_ranks_give_the_accuracy_of_one_to_the_last_image():
    alone = evaluate_on_rank(0)
    for found in pool(2).run(evaluate_on_rank):
        assert found.keys() == alone.keys()
        assert all(found[name].equal(alone[name]) for name in alone)


def test_cache_is_keyed_by_encoder_and_images(tmp_path):
    calls = []

    def counted(images):
        calls.append(images.shape[0])
        return encode(images)

    images, others = FakeSet(torch.arange(20) % 6, 7), FakeSet(torch.arange(20) % 6, 8)
    cache = FeatureCache(tmp_path, "weights-1")
    first = extract_features(counted, images, cache=cache)
    assert extract_features(counted, images, cache=cache).equal(first)
    assert sum(calls) == 20
    assert not extract_features(counted, others, cache=cache).equal(first)
    extract_features(counted, images, cache=FeatureCache(tmp_path, "weights-2"))
    extract_features(counted, images, cache=cache, autocast=torch.bfloat16)
    assert sum(calls) == 80
    assert len(list(tmp_path.iterdir())) == 4


def test_damaged_cache_is_made_again(tmp_path):
    cache = FeatureCache(tmp_path, "weights")
    images = FakeSet(torch.arange(20) % 6, 7)
    first = extract_features(encode, images, cache=cache)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:100])
    assert extract_features(encode, images, cache=cache).equal(first)


@pytest.mark.parametrize("place", [0.2, 0.4, 0.6, 0.8])
def test_one_flipped_bit_is_no_other_feature(tmp_path, place):
    cache = FeatureCache(tmp_path, "weights")
    images = FakeSet(torch.arange(300) % 6, 7)
    first = extract_features(encode, images, cache=cache)
    file = next(tmp_path.iterdir())
    damaged = bytearray(file.read_bytes())
    damaged[int(place * len(damaged))] ^= 1
    file.write_bytes(damaged)
    assert extract_features(encode, images, cache=cache).equal(first)


class Repeating(FakeSet):
    def batches(self, batch_size, device):
        for batch in super().batches(batch_size, device):
            yield batch
        yield batch  # as a padded sampler does


class Missing(FakeSet):
    def batches(self, batch_size, device):
        yield from list(super().batches(batch_size, device))[1:]


def nan_encode(images):
    return torch.full((images.shape[0], 3), torch.nan)


def map_encode(images):
    return images.float()


@pytest.mark.parametrize(
    ("kind", "function", "message"),
    [
        (Repeating, encode, "4 more than once of 20"),
        (Missing, encode, "8 images were not encoded"),
        (FakeSet, nan_encode, "not finite in 20 rows, first in row 0"),
        (FakeSet, map_encode, r"one row of features per image"),
    ],
)
def test_bad_extraction(kind, function, message):
    with pytest.raises(InputError, match=message):
        extract_features(function, kind(torch.arange(20) % 6, 7), batch_size=8)


def test_empty_set():
    with pytest.raises(InputError, match="no images"):
        extract_features(encode, FakeSet(torch.zeros(0, dtype=torch.int64), 7))


@pytest.mark.parametrize("features", [torch.full((30, 2), torch.nan), torch.zeros(30, 2).long()])
def test_cache_of_useless_values_is_made_again(features, tmp_path):
    images, cache = FakeSet(torch.arange(30) % 6, 3), FeatureCache(tmp_path, "key")
    expected = extract_features(encode, images, cache=cache)
    torch.save({"features": features}, cache.path(images, None))
    assert extract_features(encode, images, cache=cache).equal(expected)


def test_cache_tells_pixels_apart_where_names_are_the_same(tmp_path):
    one, two = (FakeSet(torch.arange(30) % 6, seed) for seed in (3, 4))
    two.content_hash = one.content_hash  # as of two folders with the same file names
    cache = FeatureCache(tmp_path, "key")
    first, second = (extract_features(encode, images, cache=cache) for images in (one, two))
    assert not first.equal(second)
    assert second.equal(extract_features(encode, two))
