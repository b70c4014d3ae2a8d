import pytest
import torch

from bcl import InputError, create_encoder


@pytest.mark.parametrize(
    ("name", "size", "arguments", "width"),
    [
        ("resnet18", 32, {}, 512),
        ("resnet8", 16, {"width": 32, "stem_stride": 2}, 128),
        ("small_alexnet", 32, {}, 4096),
        ("mobilenetv3_small_050", 64, {}, 1024),  # a layer behind the pooling
        ("vit_tiny_patch16_224", 32, {"img_size": 32, "patch_size": 8}, 192),
    ],
)
def test_encoders_give_pooled_features_and_pass_gradients(name, size, arguments, width):
    encoder = create_encoder(name, size, **arguments)
    images = torch.randn(2, 3, size, size)
    features = encoder(images)
    assert features.shape == (2, width)
    assert encoder.num_features == width
    features.sum().backward()
    missing = [n for n, p in encoder.named_parameters() if p.grad is None]
    assert missing == []


def test_small_images_get_the_small_stem_and_large_ones_do_not():
    assert create_encoder("resnet18", 32).conv1.stride == (1, 1)
    assert create_encoder("resnet18", 224).conv1.stride == (2, 2)
    assert create_encoder("resnet18", 32, small_stem=False).conv1.stride == (2, 2)
    # A small stem keeps the resolution: the last stage of a 32 px image is 4 × 4.
    assert create_encoder("resnet18", 32).forward_features(torch.zeros(1, 3, 32, 32)).shape[-1] == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_encoder("resnet81"), "mean 'resnet"),
        (lambda: create_encoder("resnet20", depth=21), "6n"),
        (lambda: create_encoder("resnet18", 32, color=1), "color"),
        (lambda: create_encoder("small_alexnet", 8), "16 px"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
