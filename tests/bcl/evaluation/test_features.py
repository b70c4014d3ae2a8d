"""Extraction: every image once, on one rank or two, cached, from any layer."""

import pytest
import torch
from fakes import FakeData, FakeMethod, FakeSet, encode
from ranks import pool

import bcl
from bcl.core.errors import InputError
from bcl.core.files import file_hash
from bcl.evaluation import EvaluationOptions
from bcl.evaluation.features import FeatureCache, extract_features
from bcl.evaluation.layers import layer_encoder


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


def test_file_hash_tells_contents_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert file_hash(tmp_path / "a") != file_hash(tmp_path / "b")


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


def test_layers_of_a_convolutional_encoder():
    module = FakeMethod(bcl.SmallAlexNet(32), bcl.Projector(4096, 6))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    pooled = layer_encoder(module)(images)
    assert layer_encoder(module, "fc7")(images).equal(pooled)
    assert layer_encoder(module, "fc6")(images).shape == (3, 4096)
    assert layer_encoder(module, "convolutions")(images).shape == (3, 192)
    assert layer_encoder(module, "projector")(images).shape == (3, 6)
    with pytest.raises(InputError, match="unknown layer 'fc8'; did you mean 'fc"):
        layer_encoder(module, "fc8")
    with pytest.raises(InputError, match="vision transformers"):
        layer_encoder(module, "class_token")


def test_layers_of_a_vision_transformer():
    import timm

    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=0
    )
    module = FakeMethod(vit).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    tokens = vit.forward_features(images.float() / 255)
    assert torch.allclose(layer_encoder(module, "class_token")(images), tokens[:, 0], atol=1e-5)
    assert torch.allclose(layer_encoder(module, "mean")(images), tokens[:, 1:].mean(1), atol=1e-5)
    assert layer_encoder(module, "blocks.0")(images).shape == (2, vit.num_features)


def test_checkpoint_without_encoder():
    with pytest.raises(InputError, match="Linear has no encoder"):
        layer_encoder(torch.nn.Linear(2, 2))
