"""Checkpoints of other formats and configurations; when they are saved."""

import pytest
import pytorch_lightning as pl
import torch
from small_runs import fit, method

from bcl import InputError
from bcl.training import RunRecorder
from bcl.training.checkpoints import KEY, Checkpoints, load_run, read_checkpoint


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
    for word in (str(path), "before bcl-cacr 0.1.0", "train again", "state_dict"):
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
