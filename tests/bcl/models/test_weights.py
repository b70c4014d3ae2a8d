"""Encoders that start from weights which the tests write."""

import pytest
import timm
import torch
from torch import nn

from bcl import InputError, SimCLR, create_encoder, load_encoder
from bcl.models import weights
from bcl.models.encoders import native_size
from bcl.models.exported import save_encoder
from bcl.training.checkpoints import KEY
from bcl.training.record import new_record

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """timm's smallest ResNet with its classifier, and a file of its tensors."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet")
    path = tmp_path_factory.mktemp("weights") / "test_resnet.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    return model, path


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / "exported"
    torch.manual_seed(0)
    encoder = create_encoder("resnet8", 16, width=4, stem_stride=2)
    save_encoder(encoder, folder, MEAN, STD)
    return encoder, folder


def test_a_file_gives_the_features_of_its_model(resnet):
    model, path = resnet
    encoder = create_encoder("test_resnet", 96, pretrained=path).eval()
    images = torch.randn(2, 3, 96, 96)
    expected = model.eval().forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(encoder(images), expected)
    assert encoder.mean == tuple(model.pretrained_cfg["mean"])
    assert encoder.notes == [f"encoder test_resnet starts from {path}"]
    assert "pretrained" not in encoder.spec


def test_a_replaced_stem_is_new_and_said(resnet):
    model, path = resnet
    encoder = create_encoder("test_resnet", 32, pretrained=path)
    assert encoder.conv1.weight.shape[-1] == 3
    assert "stem was replaced" in encoder.notes[0]
    own, theirs = encoder.state_dict(), model.state_dict()
    kept = [name for name in own if not name.startswith("conv1.")]
    assert all(own[name].equal(theirs[name]) for name in kept)
    whole = create_encoder("test_resnet", 32, small_stem=False, pretrained=str(path))
    assert "replaced" not in whole.notes[0]
    assert whole.state_dict()["layer1.0.conv1.weight"].equal(own["layer1.0.conv1.weight"])


def test_timm_loads_its_own(resnet, monkeypatch):
    """timm's loader reads the file in place of its hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model, path = resnet
    overlay = {"file": str(path), "custom_load": False, "mean": MEAN}
    arguments = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    encoder = create_encoder("test_resnet", 32, **arguments)
    assert encoder.mean == MEAN
    assert "weights of timm; its stem was replaced" in encoder.notes[0]
    assert encoder.layer1[0].conv1.weight.equal(model.layer1[0].conv1.weight)


def test_safetensors_and_old_files_without_counters(resnet, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    state = resnet[0].state_dict()
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    safetensors.save_file(old, tmp_path / "w.safetensors")
    encoder = create_encoder("test_resnet", 96, pretrained=tmp_path / "w.safetensors")
    assert encoder.state_dict()["bn1.weight"].equal(state["bn1.weight"])


def test_positions_of_a_vision_transformer_are_resized(tmp_path):
    torch.save(timm.create_model("vit_tiny_patch16_224", depth=1).state_dict(), tmp_path / "v.pth")
    arguments = {"depth": 1, "img_size": 32, "pretrained": tmp_path / "v.pth"}
    encoder = create_encoder("vit_tiny_patch16_224", 32, **arguments)
    assert encoder.pos_embed.shape[1] == 1 + 4
    assert encoder.mean == (0.5, 0.5, 0.5)


def test_an_export_says_how_it_is_built_and_normalized(exported):
    pytest.importorskip("safetensors")
    encoder, folder = exported
    assert native_size("anything", str(folder)) == 16
    started = create_encoder("resnet8", 32, pretrained=folder)
    assert started.spec == {**encoder.spec, "image_size": 32}
    assert started.conv1.stride == (2, 2)
    assert (started.mean, started.std) == (MEAN, STD)
    for each in (started, load_encoder(folder)):
        method = SimCLR(each, views=16)
        assert method.mean.flatten().tolist() == pytest.approx(MEAN)
        assert method.std.flatten().tolist() == pytest.approx(STD)
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(started.eval()(images), encoder.eval()(images))


def test_another_encoder_is_refused(resnet, exported):
    with pytest.raises(InputError, match="holds weights of 'resnet8', not 'resnet14'"):
        create_encoder("resnet14", 16, pretrained=exported[1])
    with pytest.raises(InputError, match="one to one"):
        create_encoder("test_resnet", 96, layers=[1, 1, 1, 2], pretrained=resnet[1])
    with pytest.raises(InputError, match="timm has no weights of 'resnet8'"):
        create_encoder("resnet8", pretrained=True)


def test_a_checkpoint_and_its_folder(exported, tmp_path):
    encoder = exported[0]
    method = SimCLR(encoder, views=16)
    arguments = {"width": 4, "stem_stride": 2, "mean": MEAN, "std": STD}
    config = {"model": {"init_args": {"encoder": {"name": "resnet8", "args": arguments}}}}
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    record = new_record("run", method, 0, config)
    torch.save({"state_dict": method.state_dict(), KEY: {"record": record}}, path)
    for source in (path, tmp_path / "run"):
        started = create_encoder("resnet8", 16, pretrained=source)
        assert started.conv1.weight.equal(encoder.conv1.weight)
        assert started.conv1.stride == (2, 2)
        assert started.mean == MEAN
    torch.save({"state_dict": {}, KEY: {"record": {**record, "encoder": None}}}, path)
    with pytest.raises(InputError, match="export its weights"):
        create_encoder("resnet8", 16, pretrained=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no weights at"), ([1], "no state_dict"), ({"a": 1}, "'a' is not a tensor")],
)
def test_other_files_are_refused(content, message, tmp_path):
    path = tmp_path / "x.pth"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=message):
        create_encoder("resnet8", pretrained=path)


def test_a_hub_out_of_reach_is_one_line_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match="hub cannot be reached") as found:
        create_encoder("test_resnet", pretrained=True, cache_dir=tmp_path)
    assert "\n" not in str(found.value)
    with weights.hub_in_time() as answered:
        assert not answered


def test_loading_is_strict_both_ways():
    module = nn.Linear(2, 2)
    state = module.state_dict()
    with pytest.raises(InputError, match=r"1 missing \(bias\); 1 unknown \(beas\)"):
        weights.load_strictly(module, {"weight": state["weight"], "beas": state["bias"]}, "x")
