"""Checkpoints of other formats and configurations; when they are saved."""

import copy
import socket
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from small_runs import fit, method

from bcl import BCL, InputError, SimCLR
from bcl.methods import EncoderSettings, OptimizerSettings, ScheduleSettings
from bcl.training import RunRecorder
from bcl.training.checkpoints import (
    FORMAT,
    KEY,
    Checkpoints,
    Run,
    TorchRandomState,
    load_run,
    read_checkpoint,
)
from bcl.training.fit import fit as fit_with
from bcl.training.fit import make_trainer
from bcl.training.record import new_record
from datamodules import DigitsLT


@pytest.fixture
def saved(tmp_path):
    """The content of a checkpoint, and its path."""
    config = {
        "model": {"class_path": "bcl.SimCLR", "init_args": {"encoder": "resnet8"}},
        "data": {"class_path": "datamodules.DigitsLT", "init_args": {"batch_size": 32}},
    }
    fit(
        method(),
        RunRecorder({"name": "x", "seed": 0, "config": config}, tmp_path),
        Checkpoints(tmp_path),
        max_epochs=1,
        enable_checkpointing=True,
    )
    path = tmp_path / "last.ckpt"
    return torch.load(path, weights_only=True), path


def refused(content, path, read=load_run):
    torch.save(content, path)
    with pytest.raises(InputError) as error:
        read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("read", [read_checkpoint, load_run])
def test_a_checkpoint_from_before_the_new_names_says_what_it_is_and_what_to_do(saved, read):
    content, path = saved
    content[KEY]["format"] = 1
    told = refused(content, path, read)
    for word in (str(path), "earlier bcl-cacr", "train again", "state_dict"):
        assert word in told


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"class_path": "bcl.Simclr"}, "bcl.Simclr"),
        ({"init_args": {"pixels": 16}}, "pixels"),
        ({"init_args": {"encoder": "resnet7"}}, "resnet7"),
    ],
)
def test_a_configuration_that_does_not_build_is_one_line_with_the_file(saved, change, word):
    content, path = saved
    content[KEY]["record"]["config"]["model"] |= change
    told = refused(content, path)
    assert str(path) in told
    assert word in told


def test_a_configuration_of_another_model_is_refused(saved):
    assert "another model" in refused(*saved)  # the weights are those of a small encoder


class _Code:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_strangers_checkpoint_decides_nothing_but_what_it_is(tmp_path, monkeypatch):
    """It opens offline at once, runs nothing, and writes nothing."""
    monkeypatch.chdir(tmp_path)
    torch.save(_Code(), tmp_path / "second.pth")

    def dial(self, address):
        raise AssertionError(f"{address} was called")

    monkeypatch.setattr(socket.socket, "connect", dial)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: dial(None, address))
    arguments = {
        "pretrained": True,
        "checkpoint_path": "second.pth",
        "pretrained_cfg": {"url": "http://127.0.0.1:9/evil.pth", "file": "second.pth"},
        "pretrained_cfg_overlay": {"file": "second.pth"},
        "cache_dir": "theirs",
    }
    encoder = {"name": "test_resnet", "args": arguments}
    model = {"class_path": "bcl.SimCLR", "init_args": {"encoder": encoder, "views": 16}}
    data = {"class_path": "datamodules.ImageCollection", "init_args": {"cache_dir": "theirs"}}
    data["init_args"]["root"] = "images"
    method = SimCLR(EncoderSettings("test_resnet"), views=16, num_samples=4)
    record = {"config": {"model": model, "data": data}, "encoder": method.encoder.spec}
    content = {"state_dict": method.state_dict(), KEY: {"format": FORMAT, "record": record}}
    torch.save(content, "stranger.ckpt")
    run = load_run("stranger.ckpt")
    own, opened = method.state_dict(), run.method.state_dict()
    assert all(torch.equal(opened[name], value) for name, value in own.items())
    assert run.data.cache_dir is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["second.pth", "stranger.ckpt"]


@pytest.mark.parametrize("weights", [{"a": 1}, {1: torch.ones(1)}])
def test_weights_that_are_no_tensors_are_refused(saved, weights):
    content, path = saved
    content["state_dict"] = weights
    assert "weights are not mappings" in refused(content, path)


@pytest.mark.parametrize("encoder", ["x", [1], {1: 2}])
def test_an_encoder_that_is_no_mapping_is_refused(saved, encoder):
    content, path = saved
    content[KEY]["record"]["encoder"] = encoder
    assert "encoder is no mapping" in refused(content, path)


@pytest.mark.parametrize("spec", ["x", None, {"class_path": "torch.nn.Identity"}])
def test_what_is_no_method_or_datamodule_is_refused(saved, spec):
    content, path = saved
    config = content[KEY]["record"]["config"]
    config["model"] = config["data"] = spec
    assert "in the place of a LightningModule" in refused(content, path)
    with pytest.raises(InputError, match="in the place of a LightningDataModule"):
        _ = Run(None, content[KEY]["record"], path).data


@pytest.mark.slow
def test_a_configuration_nested_without_end_is_refused(saved):
    content, path = saved
    deep = {}
    for _ in range(400):
        deep = {"args": deep}
    content[KEY]["record"]["config"]["model"]["init_args"]["encoder"] = deep
    assert "cannot be rebuilt" in refused(content, path)


@pytest.mark.parametrize(
    "intervals",
    [{"every_n_epochs": 0}, {"every_n_steps": 0}, {"every_minutes": 0.0}, {"every_minutes": -1}],
)
def test_intervals_must_be_positive(tmp_path, intervals):
    with pytest.raises(InputError, match="between checkpoints"):
        Checkpoints(tmp_path, **intervals)


def steps(folder, monkeypatch, accumulate=1, **intervals):
    """Global steps at which a run of two epochs of three batches is saved."""
    found = []
    saver = Checkpoints(folder, **intervals)
    save = pl.Trainer.save_checkpoint
    monkeypatch.setattr(
        pl.Trainer, "save_checkpoint", lambda t, path: (found.append(t.global_step), save(t, path))
    )
    recorder = RunRecorder({"name": "x"}, folder)
    fit(method(), recorder, saver, enable_checkpointing=True, accumulate_grad_batches=accumulate)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accumulate", "intervals", "expected"),
    [
        (1, {}, [3, 6]),
        (1, {"every_n_epochs": 5}, [6]),
        (1, {"every_n_steps": 2}, [2, 3, 5, 6]),
        (1, {"every_n_epochs": 9, "every_n_steps": 2}, [2, 4, 6]),
        (2, {"every_n_steps": 1}, [1, 2, 3, 4]),  # batches 1 to 2, and 3; never between 1 and 2
        (1, {"every_n_epochs": 9, "every_minutes": 1e-9}, [1, 2, 4, 5, 6]),
    ],
)
def test_when_a_run_is_saved(tmp_path, monkeypatch, accumulate, intervals, expected):
    assert steps(tmp_path, monkeypatch, accumulate, **intervals) == expected


VIT = {"img_size": 16, "patch_size": 8, "depth": 2, "embed_dim": 24, "drop_path_rate": 0.3}


class Stop(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def train(method, folder, seed, stop=None, resume=None, random_state=True):
    settings = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [Stop(stop)] if stop else [],
    }
    record = new_record("test", method, 0, {})
    trainer = make_trainer(record, folder, settings, save={"every_n_steps": 1})
    if not random_state:
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, TorchRandomState)]
    torch.manual_seed(seed)
    if stop is None:
        fit_with(trainer, method, DigitsLT(batch_size=128, image_size=16), resume)
        return method.state_dict()
    with pytest.raises(KeyboardInterrupt):
        fit_with(trainer, method, DigitsLT(batch_size=128, image_size=16), resume)
    return None


def vit():
    torch.manual_seed(0)
    adamw = OptimizerSettings("adamw", learning_rate=1e-3, decay_norm_and_bias=False)
    return BCL(
        EncoderSettings("vit_tiny_patch16_224", VIT),
        views=16,
        optimizer=adamw,
        schedule=ScheduleSettings(warmup_epochs=0),
    )


@pytest.mark.slow
def test_a_vision_transformer_with_drop_path_resumes_bit_for_bit(tmp_path):
    method = vit()
    before = copy.deepcopy(method.encoder.state_dict())
    whole = train(method, tmp_path / "whole", seed=7)
    assert all(not torch.equal(whole[f"encoder.{name}"], value) for name, value in before.items())
    train(vit(), tmp_path / "cut", seed=7, stop=3)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    kept = last.read_bytes()
    # Another process stands elsewhere in its generator.
    resumed = train(vit(), tmp_path / "cut", seed=99, resume=last)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    # Without the generator's state the paths that are dropped are others.
    last.write_bytes(kept)
    other = train(vit(), tmp_path / "cut", seed=99, resume=last, random_state=False)
    assert not torch.equal(other["encoder.norm.weight"], whole["encoder.norm.weight"])
