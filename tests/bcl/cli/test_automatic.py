"""What ``bcl fit --config images/METHOD`` chooses, says and keeps."""

import csv
from pathlib import Path

import pytest
import timm
import torch
from folders import make_folder

from bcl import InputError, load_encoder
from bcl.cli import automatic, main
from bcl.cli.configuration import compose
from bcl.training.checkpoints import KEY, load_run, read_checkpoint

OPENED = "images/bcl_i"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("BCL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return make_folder(tmp_path / "set", {"2021": 20, "2022": 20}, side=40)


def test_options_by_name():
    words = ["--data.init_args.root", "a b", "--size=64", "--overwrite", "--x", "[a, b]"]
    found = automatic.given(words)
    assert found == {"data.root": "a b", "size": 64, "overwrite": None, "x": ["a", "b"]}
    config = {"model": {"init_args": {"views": {"init_args": {"size": 3}}}}}
    assert dict(automatic.leaves(config)) == {"model.views.size": 3}


@pytest.mark.parametrize(
    ("side", "gpu", "size"),
    [(12, True, 32), (32, False, 32), (60, False, 64), (3000, False, 64), (3000, True, 224)],
)
def test_sizes_of_views(side, gpu, size):
    assert automatic.usual_size(side, gpu) == size


@pytest.mark.parametrize(
    ("images", "most", "devices", "batch"),
    [(7, 256, 1, 7), (7, 256, 2, 6), (600, 256, 1, 32), (3000, 256, 1, 128), (10**7, 256, 3, 255)],
)
def test_batches(images, most, devices, batch):
    assert automatic.usual_batch(images, most, devices) == batch


@pytest.mark.slow
def test_choices_follow_what_is_given(folder):
    settled = {"data.root": str(folder), "data.batch_size": 16}
    chosen, about = automatic.choose(OPENED, settled)
    found = dict(automatic.leaves(chosen))
    assert (found["model.views.size"], found["data.image_size"]) == (32, 37)
    assert found["model.optimizer.learning_rate"] == pytest.approx(0.5 * 16 / 256, abs=1e-3)
    assert "40 images, shorter side 40 px" in about
    assert "batch 16" in about
    large = dict(automatic.leaves(automatic.choose(OPENED, settled | {"size": 224})[0]))
    paper = dict(automatic.leaves(compose("imagenet_lt/bcl_i")["model"], "model"))
    for key in ("model.views.chain.scale", "model.views.boost.scheme"):
        assert large[key] == paper[key]
    with pytest.raises(InputError, match=r"--data\.root"):
        automatic.choose(OPENED, {})


def test_numbers_that_yaml_takes_for_words(folder):
    given = {"data.root": str(folder), "model.optimizer.learning_rate": "1e-3"}
    assert "learning rate 0.001" in automatic.choose("images/simclr", given)[1]
    for name in ("size", "data.batch_size", "model.optimizer.learning_rate"):
        with pytest.raises(InputError, match=f"--{name}: expected a number, got 'few'"):
            automatic.choose("images/simclr", {"data.root": str(folder), name: "few"})


def test_size_changes_views_and_stored_images():
    config = automatic.resized(compose("imagenet_lt/simclr"), 112)
    found = dict(automatic.leaves(config))
    assert (found["model.views.size"], found.get("data.image_size")) == (112, None)
    config["data"]["init_args"]["image_size"] = 128
    found = dict(automatic.leaves(automatic.resized(config, 224)))
    assert (found["model.views.size"], found["data.image_size"]) == (224, 256)


@pytest.mark.slow
def test_a_folder_in_one_command_and_resumed(folder, capsys):
    (folder / "2021" / "bad.png").write_bytes(b"")
    words = ["fit", "--config", OPENED, "--data.root", str(folder), "--trainer.max_epochs"]
    assert main([*words, "1", "--data.workers", "0"]) == 0
    said = capsys.readouterr()
    assert "resnet8, batch 32" in said.out
    assert "left out: 1 unreadable; unreadable: 2021/bad.png (empty file)" in said.err
    run = folder.parent / "outputs" / "images" / "bcl_i"
    with (run / "images.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 40
    assert "empty file" in (run / "unreadable.csv").read_text()
    config = read_checkpoint(run / "checkpoints" / "last.ckpt")[KEY]["record"]["config"]
    assert config["model"]["init_args"]["encoder"]["name"] == "resnet8"
    assert config["data"]["init_args"]["batch_size"] == 32
    make_folder(folder / "more", {"2023": 300}, side=10)  # other choices, were it a new run
    assert main([*words, "2", "--ckpt_path", "last"]) == 2
    assert "tracks 40 samples" in capsys.readouterr().err
    for path in (folder / "more" / "2023").iterdir():
        path.unlink()
    assert main([*words, "2", "--ckpt_path", "last"]) == 0
    assert "what the run chose" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_starts_from_weights_and_goes_on_without_them(folder, capsys):
    """A file, then that run; the file is gone when the run goes on."""
    pytest.importorskip("safetensors")
    torch.manual_seed(0)
    state = timm.create_model("test_vit", img_size=32).state_dict()
    torch.save(state, "first.pth")
    words = ["fit", "--config", OPENED, "--data.root", str(folder), "--data.workers", "0"]
    words += ["--trainer.max_epochs"]
    first = ["--model.encoder", "test_vit", "--model.encoder.args.img_size", "32"]
    first += ["--model.pretrained", "first.pth", "--size", "32", "--name", "first"]
    assert main([*words, "1", *first]) == 0
    out = capsys.readouterr().out
    assert "encoder test_vit" in out
    assert "note: encoder test_vit starts from first.pth" in out
    Path("first.pth").unlink()
    assert main([*words, "2", *first, "--ckpt_path", "last"]) == 0
    last = "outputs/first/checkpoints/last.ckpt"
    run = load_run(last)
    assert run.record["epochs"] == 2
    expected = timm.get_pretrained_cfg("test_vit").mean
    assert run.method.mean.flatten().tolist() == pytest.approx(expected)
    assert main(["export", last, "--out", "exported"]) == 0
    assert load_encoder("exported").mean == pytest.approx(expected)
    again = [*words, "1", "--model.pretrained", "outputs/first", "--name", "second"]
    assert main(again) == 0
    assert "32 px (decoded to 37), test_vit" in capsys.readouterr().out
    config = load_run("outputs/second/checkpoints/last.ckpt").record["config"]["model"]
    encoder = config["init_args"]["encoder"]
    assert encoder["args"]["mean"] == pytest.approx(expected)
    assert encoder["args"]["pretrained"] == "outputs/first"
    assert main([*again, "--overwrite", "--model.encoder", "resnet8"]) == 2
    assert "of 'test_vit', not 'resnet8'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_size_follows_the_encoder(folder):
    settled = {"data.root": str(folder), "model.encoder.name": "vit_tiny_patch16_224"}
    for more in ({}, {"model.encoder.args.pretrained": True}):
        found = dict(automatic.leaves(automatic.choose(OPENED, settled | more)[0]))
        assert found["model.views.size"] == 224
    weights = {"data.root": str(folder), "model.encoder.args.pretrained": True}
    chosen, about = automatic.choose(OPENED, weights)
    assert dict(automatic.leaves(chosen))["model.views.size"] == 176
    assert "resnet10t" in about
