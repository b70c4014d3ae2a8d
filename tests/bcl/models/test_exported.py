"""Exported folders give the encoder's features again, in timm and in `load_encoder`."""

import builtins
import json

import pytest
import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from bcl import InputError, SimCLR, create_encoder, load_encoder
from bcl.models.encoders import encoder_spec
from bcl.models.exported import save_encoder
from bcl.models.weights import read_config

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def worn(encoder):
    """Weights and statistics that no initialization gives."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in encoder.state_dict().values():
            if value.is_floating_point():
                value.add_(0.05 * torch.rand(value.shape, generator=generator))
    return encoder.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "arguments", "own"),
    [
        ("resnet10t", 96, {}, False),
        ("resnet10t", 32, {}, True),
        ("vit_tiny_patch16_224", 32, {"img_size": 32, "patch_size": 8, "depth": 2}, False),
        ("test_efficientnet", 64, {"drop_path_rate": 0.1}, False),
        ("resnet8", 16, {"width": 8, "stem_stride": 2}, True),
        ("small_alexnet", 16, {}, True),
    ],
)
def test_features_are_the_same(tmp_path, name, size, arguments, own):
    encoder = worn(create_encoder(name, size, **arguments))
    count = save_encoder(encoder, tmp_path, MEAN, STD)
    assert count == len(encoder.state_dict())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == ("bcl_encoder" if own else name)
    images = torch.rand(3, 3, size, size)
    expected = encoder(images)
    again = load_encoder(tmp_path)
    assert again.num_tensors == count
    assert (again.mean, again.std) == (MEAN, STD)
    assert encoder_spec(again) == encoder_spec(encoder)
    assert torch.equal(again(images), expected)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(theirs(images), expected)
    data = resolve_data_config({}, model=theirs)
    assert (tuple(data["mean"]), tuple(data["std"])) == (MEAN, STD)
    assert data["input_size"] == (3, size, size)
    assert data["crop_pct"] == 1.0


@pytest.mark.parametrize("size", [32, 96])
def test_a_classifier_of_ones_own_goes_behind_the_same_features(tmp_path, size):
    encoder = worn(create_encoder("resnet10t", size))
    save_encoder(encoder, tmp_path, MEAN, STD)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()
    images = torch.rand(2, 3, size, size)
    assert model(images).shape == (2, 7)
    body = model.encoder.state_dict() if size == 32 else model.state_dict()
    for key, value in encoder.state_dict().items():
        assert torch.equal(body[key], value)


@pytest.mark.slow
def test_timm_alone_opens_what_its_names_can_build(tmp_path):
    """In a process that never imported this library."""
    import subprocess
    import sys

    save_encoder(create_encoder("resnet10t", 96), tmp_path, MEAN, STD)
    code = (
        "import timm, sys, torch\n"
        f"model = timm.create_model('local-dir:{tmp_path}', pretrained=True).eval()\n"
        "assert 'bcl' not in sys.modules\n"
        "print(tuple(model(torch.zeros(1, 3, 96, 96)).shape))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "(1, 512)"


def test_what_cannot_be_built_again_is_refused(tmp_path):
    with pytest.raises(InputError, match="create_encoder"):
        save_encoder(nn.Flatten(), tmp_path, MEAN, STD)
    with pytest.raises(InputError, match="JSON"):
        save_encoder(create_encoder("resnet10t", norm_layer=nn.BatchNorm2d), tmp_path, MEAN, STD)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="folder"):
        timm.create_model("bcl_encoder")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda place: (place / "model.safetensors").write_bytes(b"cut"), "cannot read"),
        (lambda place: (place / "model.safetensors").unlink(), "cannot read"),
        (lambda place: (place / "config.json").unlink(), "cannot read"),
        (lambda place: (place / "config.json").write_text("{"), "JSON"),
        (lambda place: (place / "config.json").write_text("{}"), "another program"),
    ],
)
def test_damaged_folders(tmp_path, harm, message):
    save_encoder(create_encoder("resnet8", 16, width=4), tmp_path, MEAN, STD)
    harm(tmp_path)
    with pytest.raises(InputError, match=message):
        load_encoder(tmp_path)


def test_a_folder_cannot_name_other_weights(tmp_path):
    save_encoder(create_encoder("resnet8", 16, width=4), tmp_path, MEAN, STD)
    config = read_config(tmp_path)
    config["bcl"]["encoder"]["checkpoint_path"] = "elsewhere.pth"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="weights"):
        load_encoder(tmp_path)


def test_a_folder_of_another_width_names_the_tensors(tmp_path):
    save_encoder(create_encoder("resnet8", 16, width=4), tmp_path, MEAN, STD)
    config = read_config(tmp_path)
    config["bcl"]["encoder"]["width"] = 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"of another shape \(conv1\.weight \(4, 3, 3, 3\) for"):
        load_encoder(tmp_path)


def test_without_safetensors_one_error_says_what_to_install(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *rest)

    encoder = create_encoder("resnet8", 16, width=4)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'bcl-cacr\[hub\]'"):
        save_encoder(encoder, tmp_path, MEAN, STD)


def test_methods_take_an_encoder_that_was_loaded(tmp_path):
    save_encoder(create_encoder("resnet8", 16, width=4), tmp_path, MEAN, STD)
    method = SimCLR(load_encoder(tmp_path), views=16)
    assert method.encode(torch.rand(2, 3, 16, 16)).shape == (2, 16)


def test_a_folder_names_no_other_weights_at_any_depth(tmp_path):
    save_encoder(create_encoder("resnet8", 16), tmp_path, MEAN, STD)
    config = json.loads((tmp_path / "config.json").read_text())
    inner = {"name": "test_resnet", "pretrained": True, "pretrained_cfg": {"file": "other.pth"}}
    config["bcl"]["encoder"] = {"name": "bcl_encoder", "spec": inner}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="other weights"):
        load_encoder(tmp_path)
