"""A run whose last checkpoint is damaged, missing, or not yet there."""

import pytest
import torch

from bcl import InputError
from bcl.checkpoints import is_damaged
from bcl.cli import main

FIT = ("fit", "--config", "digits_lt/simclr", "--model.encoder_args", '{"width": 4}')
CPU = ("--trainer.accelerator", "cpu", "--trainer.default_root_dir", "run")


def fit(epochs, *more):
    return main([*FIT, *CPU, "--trainer.max_epochs", str(epochs), *more])


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run" / "checkpoints"


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def foreign(path):
    torch.save({"state_dict": {"fc.weight": torch.zeros(1)}}, path)


def test_damage_names_the_whole_one_before_it_and_the_run_goes_on_from_there(place, capsys):
    assert fit(3) == 0
    expected = torch.load(place / "last.ckpt", weights_only=True)
    last = (place / "last.ckpt").read_bytes()
    previous = (place / "previous.ckpt").read_bytes()
    for harm, why in ((cut, "truncated"), (flip, "checksum"), (foreign, "another program")):
        harm(place / "last.ckpt")
        assert fit(3, "--ckpt_path", "last") == 2
        told = capsys.readouterr().err
        assert why in told
        assert "run/checkpoints/previous.ckpt (step " in told
        assert "is whole; resume from it with --ckpt_path run/checkpoints/previous.ckpt" in told
        assert "Traceback" not in told
        (place / "last.ckpt").write_bytes(last)
    cut(place / "last.ckpt")
    assert fit(3, "--ckpt_path", "run/checkpoints/previous.ckpt") == 0
    resumed = torch.load(place / "last.ckpt", weights_only=True)
    assert all(
        torch.equal(value, expected["state_dict"][name])
        for name, value in resumed["state_dict"].items()
    )
    # The damaged file did not take the place of the whole one.
    assert (place / "previous.ckpt").read_bytes() == previous
    cut(place / "last.ckpt")
    cut(place / "previous.ckpt")
    assert fit(3, "--ckpt_path", "last") == 2
    assert "No whole checkpoint lies beside it" in capsys.readouterr().err
    (place / "last.ckpt").unlink()
    (place / "previous.ckpt").write_bytes(previous)
    assert fit(3, "--ckpt_path", "last") == 2
    told = capsys.readouterr().err
    assert "no checkpoint run/checkpoints/last.ckpt" in told
    assert "--ckpt_path run/checkpoints/previous.ckpt" in told
    assert is_damaged(place / "last.ckpt")


def test_a_job_that_is_started_again_begins_or_goes_on_or_ends(place, capsys):
    assert fit(1, "--ckpt_path", "last") == 0
    assert "No checkpoint in run/checkpoints yet: the run starts at its beginning." in (
        capsys.readouterr().out
    )
    before = (place / "last.ckpt").read_bytes()
    assert fit(1, "--ckpt_path", "last") == 0  # it is finished
    assert (place / "last.ckpt").read_bytes() == before
    assert fit(2, "--ckpt_path", "last") == 0
    content = torch.load(place / "last.ckpt", weights_only=True)
    assert [row["epoch"] for row in content["bcl"]["record"]["history"]] == [0, 1]


def test_a_checkpoint_from_elsewhere_does_not_replace_a_run(place, tmp_path, capsys):
    assert fit(1) == 0
    before = (place / "last.ckpt").read_bytes()
    (tmp_path / "other.ckpt").write_bytes(before)
    assert fit(2, "--ckpt_path", "other.ckpt") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (place / "last.ckpt").read_bytes() == before


class _Trainer:
    world_size = 2
    ckpt_path = "run/last.ckpt"


def test_ranks_must_see_the_same_checkpoint(monkeypatch):
    from bcl.learners.saving import Checkpoints

    seen = [True, False]

    def gather(found, own):
        found[:] = seen

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(InputError, match=r"ranks \[1\] see no checkpoint in run"):
        Checkpoints("run").setup(_Trainer(), None, "fit")
    seen[:] = [True, True]
    Checkpoints("run").setup(_Trainer(), None, "fit")


def test_slurm_says_the_ranks(monkeypatch, tmp_path):
    """Two nodes of two tasks, as srun sets them."""
    from lightning_fabric.plugins.environments import SLURMEnvironment

    from bcl.cli.fit import _build, _check_launch
    from bcl.configuration import compose

    monkeypatch.chdir(tmp_path)
    variables = {
        "NTASKS": 4, "NTASKS_PER_NODE": 2, "NNODES": 2, "PROCID": 3, "LOCALID": 1, "NODEID": 1,
        "JOB_ID": 77, "JOB_NAME": "bcl", "NODELIST": "gpu[1-2]",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    words = ["--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.devices"]
    trainer = _build(
        [*words, "2", "--trainer.num_nodes", "2"], compose("digits_lt/bcl_i"), "r"
    ).trainer
    environment = trainer.strategy.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert (trainer.world_size, trainer.global_rank, trainer.local_rank) == (4, 3, 1)
    assert environment.main_address == "gpu1"
    assert not trainer.is_global_zero
    _check_launch(trainer)
    with pytest.raises(InputError, match="no SyncBatchNorm for CPU ranks"):
        _check_launch(trainer, sync_batchnorm=True)
    cli = _build([*words, "1", "--trainer.num_nodes", "1"], compose("digits_lt/bcl_i"), "r")
    told = r"4 processes.*--trainer\.devices 2 --trainer\.num_nodes 2"
    with pytest.raises(InputError, match=told):
        _check_launch(cli.trainer)
