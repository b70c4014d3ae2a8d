"""Features of any layer, of convolutional encoders and of vision transformers."""

import pytest
import torch
from fakes import FakeMethod

import bcl
from bcl.core.errors import InputError
from bcl.evaluation.layers import layer_encoder


@pytest.mark.slow
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
