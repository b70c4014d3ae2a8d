from functools import partial

import pytest
import torch
from torch import nn

from bcl import InputError, SimCLR, create_encoder
from bcl.methods import EncoderSettings
from bcl.models.encoders import encoder_spec, to_channels_last
from bcl.training.checkpoints import KEY, load_method
from bcl.training.record import new_record


@pytest.mark.slow
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


@pytest.mark.slow
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
        (lambda: create_encoder("vit_tiny_patch16_224", 32, depth=1), "images of 32 px .*224"),
        (lambda: create_encoder("vit_tiny_patch16_224", 65, depth=1), "--size 64 .*img_size 64"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


class TestStem:
    def test_is_recorded_as_it_was_built(self):
        assert encoder_spec(create_encoder("resnet10t", 32))["small_stem"] is True
        assert encoder_spec(create_encoder("resnet10t", 65))["small_stem"] is False
        assert encoder_spec(create_encoder("resnet8", 32, stem_stride=2))["small_stem"] is False
        assert encoder_spec(create_encoder("resnet10t", 32, pretrained=False)) == {
            "name": "resnet10t",
            "image_size": 32,
            "small_stem": True,
            "in_channels": 3,
        }
        assert encoder_spec(nn.Flatten()) is None

    def test_what_has_no_stem_to_shrink_says_so(self):
        with pytest.raises(InputError, match="no ResNet stem"):
            create_encoder("vit_tiny_patch16_224", 32, small_stem=True)

    def test_is_checked_on_load(self):
        """Tensors of both stems have the same shapes."""
        other = SimCLR("resnet8")
        make = partial(SimCLR, EncoderSettings("resnet8", {"stem_stride": 2}))
        trained = make()
        content = {
            "state_dict": trained.state_dict(),
            KEY: {"record": new_record("run", trained, 0, {})},
        }
        load_method(make(), content, "run.ckpt")
        with pytest.raises(InputError, match="'resnet8' was built with small_stem=False, this one"):
            load_method(other, content, "run.ckpt")

    def test_arguments_that_are_no_plain_values_are_recorded_by_name(self):
        method = SimCLR(EncoderSettings("resnet10t", {"norm_layer": nn.BatchNorm2d}))
        record = new_record("run", method, 0, {})
        assert record["encoder"]["norm_layer"] == repr(nn.BatchNorm2d)
        load_method(method, {"state_dict": method.state_dict(), KEY: {"record": record}}, "x")


@pytest.mark.parametrize(
    ("encoder", "right"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), False),
        (nn.Conv2d(15, 8, 1, stride=(1, 2)), False),
        (nn.Conv2d(32, 32, 1, stride=2, groups=4), True),
        (nn.Conv2d(16, 8, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1), True),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), True),
    ],
)
def test_the_channels_last_format_is_left_out_where_gradients_are_wrong(encoder, right):
    """Those of the first end in a crash with AVX2; the second has less than a block of AVX-512."""
    model = nn.Sequential(nn.ReLU(), encoder)
    assert to_channels_last(model) is right
    assert right or "convolution of" in model.notes[0]


def test_a_narrow_encoder_trains_in_the_usual_format():
    for width, last in ((4, False), (16, True)):
        settings = EncoderSettings("resnet8", {"width": width})
        method = SimCLR(settings, views=16, channels_last=True)
        assert method.channels_last is last
        assert method.encoder.get_parameter("conv1.weight").is_contiguous() is not last
        images = torch.rand(2, 3, 16, 16).to(memory_format=torch.channels_last)
        assert method.normalize(images).is_contiguous() is not last
