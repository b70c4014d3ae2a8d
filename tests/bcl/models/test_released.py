"""Checkpoints with the names of the released code, made here, give the features of that network.

The networks stand in torchvision or are written out below; only the names are the released code's.
"""

import re

import pytest
import torch
import torchvision
from released_files import MEAN, STD, Head, resnet, save, simclr_state, worn
from torch import nn
from torch.nn import functional

from bcl import BCL, SDCLR, create_encoder, load_encoder
from bcl.cli import main
from bcl.models.released import read_released
from bcl.models.weights import load_strictly
from bcl.training.checkpoints import load_run


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


def imported(path, capsys, *more):
    out = path.with_suffix("")
    assert main(["import", str(path), "--out", str(out), *more]) == 0
    return load_encoder(out), capsys.readouterr().out


IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))
READY = (IMAGES - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


@pytest.mark.slow
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


@pytest.mark.slow
def test_sdclr_single_norms_imagenet_stem_and_parallel_prefix(tmp_path, capsys):
    bottleneck = torchvision.models.resnet.Bottleneck
    network, head = resnet((1, 1, 1, 1), False, bottleneck), worn(Head(2048))
    path = save(tmp_path / "m.pt", simclr_state(network, head, "", "fc."), wrapped=True, optim={})
    encoder, message = imported(path, capsys)
    assert "sdclr-simclr:" in message
    assert encoder.spec["layers"] == [1, 1, 1, 1]
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder(images), network(images))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "prefix", "top", "layers"), [("sdclr", "", "fc.", 3)])
def test_sdclr_dual_norms_take_the_dense_branch(tmp_path, capsys, kind, prefix, top, layers):
    networks, heads = [resnet(seed=s) for s in (0, 1)], [worn(Head(512, layers), s) for s in (0, 1)]
    state = released_dual(networks[0], heads[0], networks[1], heads[1], prefix, top)
    encoder, message = imported(save(tmp_path / "m.pt", state, wrapped=True), capsys)
    torch.testing.assert_close(encoder(READY), networks[0](READY))
    assert f"{kind}: {len(state)} tensors in the file" in message
    assert "pruned branch" in message


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_moco_v3_takes_the_base_encoder(tmp_path, capsys):
    base, teacher = resnet(small=False, seed=0), resnet(small=False, seed=1)
    state = {"predictor.0.weight": torch.randn(8, 8), "base_encoder.fc.0.weight": torch.zeros(2, 2)}
    for name, network in (("base_encoder", base), ("momentum_encoder", teacher)):
        state |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    encoder, message = imported(save(tmp_path / "m.pt", state, wrapped=True, scaler={}), capsys)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder(images), base(images))
    assert "left out: 1 head, 72 momentum encoder, 1 predictor" in message


@pytest.mark.slow
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
