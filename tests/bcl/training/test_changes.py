"""A resumed run is the run that was started; what may differ is named, and both are recorded."""

import functools
import json

import pytest
import torch
import yaml

from bcl.cli import main
from bcl.cli.configuration import KEYS, compose
from bcl.cli.fit import parse
from bcl.core.errors import InputError
from bcl.training.changes import check_changes

FIT = ("fit", "--config", "digits_lt/bcl_i", "--model.encoder.args.width", "4",
       "--data.batch_size", "200", "--trainer.accelerator", "cpu",
       "--trainer.default_root_dir", "run")  # fmt: skip


def fit(epochs, *more):
    return main([*FIT, "--trainer.max_epochs", str(epochs), *more])


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A run of one epoch, in whose folder the tests work."""
    place = tmp_path_factory.mktemp("changes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert fit(1) == 0
    return (place / "run" / "checkpoints" / "last.ckpt").read_bytes()


@pytest.fixture
def folder(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").write_bytes(started)
    return tmp_path / "run"


CHANGED = {
    "rule": ("model.memory.normalization", "max", "rank"),
    "signal": ("model.memory.signal", "loss", "isolation"),
    "momentum": ("model.memory.momentum", 0.97, 0.5),
    "temperature": ("model.loss.temperature", 0.2, 0.5),
    "scheme": ("model.views.boost.scheme", "bcl-i", "bcl-d"),
    "policy": ("model.views.boost.policy", "reference", "monotone"),
    "learning rate": ("model.optimizer.learning_rate", 0.5, 0.1),
    "batch": ("data.batch_size", 128, 100),
    "views": ("model.views.size", 16, 24),
    "image size": ("data.image_size", 16, 24),
    "rows of a set": ("trainer.overfit_batches", 0.0, 1),
    "batch norm": ("trainer.sync_batchnorm", False, True),
    "precision": ("trainer.precision", "32-true", "bf16-mixed"),
}


@functools.cache
def configured(*words):
    """The plain configuration of a command line, as a run records it."""
    parser, options = parse(list(words), compose("digits_lt/bcl_i"))
    plain = yaml.safe_load(parser.dump(options, skip_link_targets=False, skip_unset=False))
    return {key: plain[key] for key in KEYS}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGED)
def test_another_run_is_refused(name):
    option, old, new = CHANGED[name]
    saved, own = configured(), configured(f"--{option}", str(new))
    with pytest.raises(InputError) as error:
        check_changes(saved, own)
    for word in (f"--{option}", repr(old), repr(new), f"--change {option}"):
        assert word in str(error.value)
    assert check_changes(saved, own, [option]) == [(option, old, new)]


@pytest.mark.slow
def test_places_speed_and_length_are_free():
    more = ("--trainer.devices", "2", "--trainer.precision", "32-true")
    more += ("--model.channels_last", "false", "--trainer.max_epochs", "9")
    (found,) = check_changes(configured(), configured(*more, "--seed_everything", "3"))
    assert found.option == "trainer.max_epochs"


@pytest.mark.slow
def test_a_refused_run_is_left_as_it_was(folder, capsys):
    before = (folder / "checkpoints" / "last.ckpt").read_bytes()
    assert fit(2, "--ckpt_path", "last", "--model.loss.temperature", "0.5") == 2
    assert "--change model.loss.temperature" in capsys.readouterr().err
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.slow
def test_a_change_by_name_acts_and_both_values_are_recorded(folder, capsys):
    change = ("--model.optimizer.learning_rate", "0.125", "--model.schedule.warmup_epochs", "0",
              "--change", "model.optimizer, --model.schedule.warmup_epochs")  # fmt: skip
    assert fit(3, "--ckpt_path", "last", *change) == 0
    assert "learning_rate from 0.5 to 0.125" in capsys.readouterr().out
    record = json.loads((folder / "run.json").read_text())
    found = {each.pop("option"): each for each in record["changes"]}
    place = {"epoch": 0, "step": 2}
    assert found["model.optimizer.learning_rate"] == place | {"old": 0.5, "new": 0.125}
    assert found["trainer.max_epochs"] == place | {"old": 1, "new": 3}
    assert record["config"]["model"]["init_args"]["optimizer"]["learning_rate"] == 0.125
    rates = [row["learning_rate"] for row in record["history"]]
    # Half a cosine over 6 steps; a row has the rate that follows its epoch's last step.
    expected = [0.0625 * (1 + torch.cos(torch.tensor(torch.pi * t / 6))) for t in (5, 6)]
    assert rates[1:] == pytest.approx([float(rate) for rate in expected], abs=2e-6)
    # The same command again: nothing differs now, and what was changed stays on record.
    assert fit(3, "--ckpt_path", "last", *change) == 0
    again = json.loads((folder / "run.json").read_text())
    assert len(again["changes"]) == len(found)


@pytest.mark.slow
def test_what_a_run_is_made_of_cannot_change():
    other = configured("--model.optimizer.name", "lars")
    with pytest.raises(InputError, match=r"--model\.pretrained"):
        check_changes(configured(), other, ["model.optimizer"])
    with pytest.raises(InputError, match=r"--change model\.optimizer\.lr is no option"):
        check_changes(configured(), configured(), ["model.optimizer.lr"])


def test_parts_are_compared_by_class_first():
    old = {"model": {"init_args": {"loss": {"class_path": "bcl.A", "init_args": {"t": 1}}}}}
    new = {"model": {"init_args": {"loss": {"class_path": "bcl.B", "init_args": {"t": 2}}}}}
    with pytest.raises(InputError, match=r"model\.loss\.class_path 'bcl\.A'"):
        check_changes(old, new)
    (found,) = check_changes(old, new, ["model.loss"])
    assert found.option == "model.loss.class_path"
    none = {"model": {"init_args": {"loss": None}}}
    assert check_changes(none, old, ["model.loss"])[0].old is None
    assert check_changes({}, old) == []
