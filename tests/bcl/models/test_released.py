"""Checkpoints with the names of the released code, made here, give the features of that network.

The networks stand in torchvision or are written out below; only the names are the released code's.
"""

import re

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from bcl import BCL, SDCLR, create_encoder, load_encoder
from bcl.cli import main
from bcl.models.exported import load_strictly
from bcl.models.released import read_released
from bcl.training.checkpoints import load_run

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def worn(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return module.eval()


def resnet(layers=(1, 1, 1, 1), small=True, block=torchvision.models.resnet.BasicBlock, seed=0):
    """torchvision's network, with the stem that the released code puts in for small images."""
    torch.manual_seed(seed)
    model = torchvision.models.ResNet(block, list(layers))
    if small:
        model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = nn.Identity()
    model.fc = nn.Identity()
    return worn(model, seed)


class Head(nn.Module):
    def __init__(self, width, layers=2):
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(width, width), nn.BatchNorm1d(width)
        out = 128 if layers == 2 else width
        self.fc2, self.bn2 = nn.Linear(width, out, bias=False), nn.BatchNorm1d(out)
        if layers == 3:
            self.fc3, self.bn3 = nn.Linear(width, 128, bias=False), nn.BatchNorm1d(128)

    def forward(self, x):
        return self.bn2(self.fc2(torch.relu(self.bn1(self.fc1(x)))))


def released_dual(network, head, prune_network, prune_head, prefix, head_prefix):
    """Names of SDCLR's networks: a list of two norms for each, a class of its own for shortcuts."""
    state = {}
    for index, (body, top) in enumerate(((network, head), (prune_network, prune_head))):
        for name, value in body.state_dict().items():
            name = name.replace("downsample.0", "downsample.conv").replace(
                "downsample.1", "downsample.bn"
            )
            norm = re.match(r"(.*\b(?:bn\d?))\.(.*)", name)
            if norm:
                state[f"{prefix}{norm[1]}.bn_list.{index}.{norm[2]}"] = value
            elif index == 0:
                state[prefix + name] = value
        for name, value in top.state_dict().items():
            layer, _, rest = name.partition(".")
            if layer.startswith("bn"):
                state[f"{head_prefix}{layer}.bn_list.{index}.{rest}"] = value
            elif index == 0:
                state[head_prefix + name] = value
    state[f"{prefix}normalize.mean"], state[f"{prefix}normalize.std"] = MEAN, STD
    return state


def save(path, state, wrapped=False, **more):
    if wrapped:
        state = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": state, **more} if more else state, path)
    return path


def imported(path, capsys, *more):
    out = path.with_suffix("")
    assert main(["import", str(path), "--out", str(out), *more]) == 0
    return load_encoder(out), capsys.readouterr().out


def simclr_state(network, head, backbone="backbone.", top="projector."):
    state = {backbone + name: value for name, value in network.state_dict().items()}
    state |= {f"{backbone}normalize.mean": MEAN, f"{backbone}normalize.std": STD}
    return {**state, **{top + name: value for name, value in head.state_dict().items()}}


IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))
READY = (IMAGES - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


def test_bcl_and_its_count_of_tensors(tmp_path, capsys):
    network, head = resnet((2, 2, 2, 2)), worn(Head(512))
    state = simclr_state(network, head)
    path = save(tmp_path / "model.pt", state, optim={"state": {}})
    encoder, message = imported(path, capsys)
    assert encoder.spec["name"] == "resnet18"
    assert encoder.spec["small_stem"] is True
    torch.testing.assert_close(encoder(READY), network(READY))
    assert f"bcl: {len(state)} tensors in the file" in message
    assert "taken: 120 encoder, 2 normalization" in message
    assert "left out: 13 projector" in message
    assert encoder.mean == pytest.approx(tuple(MEAN.tolist()))


def test_sdclr_single_norms_imagenet_stem_and_parallel_prefix(tmp_path, capsys):
    bottleneck = torchvision.models.resnet.Bottleneck
    network, head = resnet((1, 1, 1, 1), False, bottleneck), worn(Head(2048))
    path = save(tmp_path / "m.pt", simclr_state(network, head, "", "fc."), wrapped=True, optim={})
    encoder, message = imported(path, capsys)
    assert "sdclr-simclr:" in message
    assert encoder.spec["layers"] == [1, 1, 1, 1]
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder(images), network(images))


@pytest.mark.parametrize(("kind", "prefix", "top", "layers"), [("sdclr", "", "fc.", 3)])
def test_sdclr_dual_norms_take_the_dense_branch(tmp_path, capsys, kind, prefix, top, layers):
    networks, heads = [resnet(seed=s) for s in (0, 1)], [worn(Head(512, layers), s) for s in (0, 1)]
    state = released_dual(networks[0], heads[0], networks[1], heads[1], prefix, top)
    encoder, message = imported(save(tmp_path / "m.pt", state, wrapped=True), capsys)
    torch.testing.assert_close(encoder(READY), networks[0](READY))
    assert f"{kind}: {len(state)} tensors in the file" in message
    assert "pruned branch" in message


def test_bcl_d_becomes_a_whole_method(tmp_path, capsys):
    networks, heads = [resnet(seed=s) for s in (0, 1)], [worn(Head(512), s) for s in (0, 1)]
    state = released_dual(networks[0], heads[0], networks[1], heads[1], "backbone.", "backbone.fc.")
    path, out = save(tmp_path / "m.pt", state, optim={}), tmp_path / "run.ckpt"
    more = ["--config", "digits_lt/bcl_d", "--out", str(out)]
    assert main(["import", str(path), *more]) == 0
    assert "left out" not in capsys.readouterr().out
    method = load_run(out).method
    assert isinstance(method, SDCLR)
    torch.testing.assert_close(method.encode(IMAGES), networks[0](READY))
    # The pruned branch: the shared weights without the smallest 90 %, and norms of its own.
    convolutions = {
        name: value for name, value in networks[0].state_dict().items() if value.ndim == 4
    }
    magnitudes = torch.cat([value.abs().flatten() for value in convolutions.values()])
    threshold = magnitudes.sort().values[round(0.9 * magnitudes.numel())]
    kept = {name: value * (value.abs() >= threshold) for name, value in convolutions.items()}
    networks[1].load_state_dict(kept, strict=False)
    heads[1].load_state_dict(
        {k: v for k, v in heads[0].state_dict().items() if k.startswith("fc")}, strict=False
    )
    with torch.no_grad():
        dense, damaged = method.project(torch.stack([IMAGES, IMAGES]))
    torch.testing.assert_close(dense, heads[0](networks[0](READY)))
    torch.testing.assert_close(damaged, heads[1](networks[1](READY)))
    # The network has a projector as BCL-I, but a pruned branch that BCL-I has not.
    assert main(["import", str(path), "--config", "digits_lt/bcl_i", "--out", f"{out}.ckpt"]) == 2
    assert "SDCLR or BCL-D" in capsys.readouterr().err


@pytest.mark.slow
def test_bcl_becomes_a_checkpoint_that_can_be_probed(tmp_path, capsys, monkeypatch):
    network, head = resnet(), worn(Head(512))
    path, out = save(tmp_path / "m.pt", simclr_state(network, head)), tmp_path / "run.ckpt"
    command = ["import", str(path), "--config", "digits_lt/bcl_i", "--out", str(out)]
    assert main(command) == 0
    run = load_run(out)
    assert isinstance(run.method, BCL)
    torch.testing.assert_close(run.method.encode(IMAGES), network(READY))
    torch.testing.assert_close(
        run.method.project(IMAGES[None])[0], head(network(READY)), rtol=1e-4, atol=1e-4
    )
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["probe", str(out), "--protocol", "knn", "--out", "probe"]) == 0
    resume = ["--ckpt_path", str(out), "--model.encoder.name", "resnet18"]
    layers = ["--model.encoder.args.layers", "[1, 1, 1, 1]"]
    assert main(["fit", "--config", "digits_lt/bcl_i", *resume, *layers]) == 2
    assert "not resumed" in capsys.readouterr().err


@pytest.mark.parametrize(("size", "side"), [(32, 3), (64, 7)])
def test_small_alexnet(tmp_path, capsys, size, side):
    torch.manual_seed(0)

    def convolution(inside, outside, pool):
        layers = [nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside)]
        return nn.Sequential(*layers, nn.ReLU(), *([nn.MaxPool2d(3, 2)] if pool else []))

    blocks = nn.ModuleList(
        [
            convolution(3, 96, True),
            convolution(96, 192, True),
            convolution(192, 384, False),
            convolution(384, 384, False),
            convolution(384, 192, True),
            nn.Sequential(
                nn.Flatten(),
                nn.Linear(192 * side * side, 4096, bias=False),
                nn.BatchNorm1d(4096),
                nn.ReLU(),
            ),
            nn.Sequential(nn.Linear(4096, 4096, bias=False), nn.BatchNorm1d(4096), nn.ReLU()),
            nn.Sequential(nn.Linear(4096, 128)),
        ]
    )
    worn(blocks)
    state = {f"blocks.{name}": value for name, value in blocks.state_dict().items()}
    path = save(tmp_path / "encoder.pth", state)
    assert main(["import", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "--normalization" in capsys.readouterr().err
    encoder, message = imported(path, capsys, "--normalization", "cifar10")
    assert f"cacr: {len(state)} tensors" in message
    assert encoder.mean == (0.4914, 0.4822, 0.4465)
    images = torch.rand(2, 3, size, size)
    expected = images
    for block in blocks[:7]:
        expected = block(expected)
    torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-4)


def test_moco_takes_the_query_encoder(tmp_path, capsys):
    query, key = resnet(small=False, seed=0), resnet(small=False, seed=1)
    state = {"queue": torch.randn(128, 32), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    for name, network in (("encoder_q", query), ("encoder_k", key)):
        network.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
        state |= {f"{name}.{key_}": value for key_, value in network.state_dict().items()}
    path = save(tmp_path / "m.pt", state, wrapped=True, arch="resnet10", optimizer={})
    encoder, message = imported(path, capsys)
    query.fc = nn.Identity()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder(images), query(images))
    assert "76 momentum encoder, 4 projector, 2 queue" in message


def test_moco_v3_takes_the_base_encoder(tmp_path, capsys):
    base, teacher = resnet(small=False, seed=0), resnet(small=False, seed=1)
    state = {"predictor.0.weight": torch.randn(8, 8), "base_encoder.fc.0.weight": torch.zeros(2, 2)}
    for name, network in (("base_encoder", base), ("momentum_encoder", teacher)):
        state |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    encoder, message = imported(save(tmp_path / "m.pt", state, wrapped=True, scaler={}), capsys)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder(images), base(images))
    assert "left out: 1 head, 72 momentum encoder, 1 predictor" in message


def test_moco_v3_vision_transformer_has_twelve_heads(tmp_path):
    """An explicit forward of pre-norm attention blocks, read at the class token."""
    spec = {"name": "vit_small_patch16_224", "image_size": 224, "num_heads": 12}
    state = worn(create_encoder(**spec)).state_dict()
    path = tmp_path / "vit.pth"
    save(path, {f"base_encoder.{name}": value for name, value in state.items()}, wrapped=True)
    released = read_released(path)
    assert released.spec["num_heads"] == 12
    encoder = create_encoder(**released.spec).eval()
    load_strictly(encoder, released["encoder"], path)
    images = torch.rand(1, 3, 224, 224)
    norm = lambda x, name: functional.layer_norm(  # noqa: E731
        x, (384,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6
    )
    linear = lambda x, name: functional.linear(  # noqa: E731
        x, state[f"{name}.weight"], state[f"{name}.bias"]
    )
    patches = functional.conv2d(
        images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16
    )
    x = torch.cat([state["cls_token"], patches.flatten(2).transpose(1, 2)], 1) + state["pos_embed"]
    for i in range(12):
        block = f"blocks.{i}"
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.reshape(1, 197, 3, 12, 32).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / 32**0.5).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).reshape(1, 197, 384), f"{block}.attn.proj")
        hidden = functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    with torch.no_grad():
        found = encoder(images)
    torch.testing.assert_close(found, norm(x, "norm")[:, 0], rtol=1e-3, atol=1e-3)


class TestRefused:
    def check(self, path, capsys, message, *more):
        out = path.parent / "out"
        assert main(["import", str(path), "--out", str(out), *more]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert message in error
        assert not out.exists()

    @pytest.fixture
    def state(self):
        return simclr_state(resnet(), Head(512))

    def test_unknown_tensor(self, tmp_path, capsys, state):
        state["backbone.extra.weight"] = torch.zeros(2)
        path = save(tmp_path / "m.pt", state)
        self.check(
            path, capsys, "1 tensors have no place in a checkpoint of kind 'bcl': backbone.ex"
        )

    def test_missing_tensor(self, tmp_path, capsys, state):
        del state["backbone.layer3.0.bn2.weight"]
        path = save(tmp_path / "m.pt", state)
        self.check(path, capsys, "1 missing (layer3.0.bn2.weight)")

    def test_misshapen_tensor(self, tmp_path, capsys, state):
        state["backbone.layer2.0.conv1.weight"] = torch.zeros(7, 64, 3, 3)
        path = save(tmp_path / "m.pt", state)
        self.check(path, capsys, "layer2.0.conv1.weight (7, 64, 3, 3) for (128, 64, 3, 3)")

    def test_foreign_names(self, tmp_path, capsys):
        path = save(tmp_path / "m.pt", {"features.weight": torch.zeros(2)})
        self.check(path, capsys, "features.weight")

    def test_wrong_kind(self, tmp_path, capsys, state):
        path = save(tmp_path / "m.pt", state)
        self.check(path, capsys, "no place", "--kind", "cacr-moco")
        self.check(path, capsys, "did you mean 'cacr'", "--kind", "cacre")
        self.check(path, capsys, "leave --normalization out", "--normalization", "cifar10")

    def test_code_in_the_file_is_not_run(self, tmp_path, capsys):
        path = tmp_path / "m.pt"
        torch.save({"state_dict": {}, "model": nn.Linear(2, 2)}, path)
        self.check(path, capsys, "run code")

    def test_own_and_broken_files(self, tmp_path, capsys):
        path = tmp_path / "m.pt"
        torch.save({"bcl": {}, "state_dict": {}}, path)
        self.check(path, capsys, "`bcl export`")
        path.write_bytes(b"PK")
        self.check(path, capsys, "plain values")
        torch.save({"state_dict": {"a": 1}}, path)
        self.check(path, capsys, "'a' is not a tensor")
        torch.save({"state_dict": {7: torch.zeros(1)}}, path)
        self.check(path, capsys, "'7' is not a tensor")
        path.write_bytes(b"")
        self.check(path, capsys, "cannot be read")
        self.check(tmp_path, capsys, "cannot be read")
        self.check(tmp_path / "none.pt", capsys, "No such file")

    def test_checkpoint_needs_a_configuration(self, tmp_path, capsys, state):
        path = save(tmp_path / "m.pt", state)
        assert main(["import", str(path), "--out", str(tmp_path / "x.ckpt")]) == 2
        assert "needs --config" in capsys.readouterr().err

    def test_configuration_of_another_head(self, tmp_path, capsys, state):
        path = save(tmp_path / "m.pt", state)
        more = ["--config", "digits_lt/cacr_moco", "--out", str(tmp_path / "x.ckpt")]
        assert main(["import", str(path), *more]) == 2
        assert "queue" in capsys.readouterr().err
        assert not (tmp_path / "x.ckpt").exists()
