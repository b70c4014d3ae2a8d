"""A run whose last checkpoint is damaged, missing, or not yet there."""

import csv

import pytest
import pytorch_lightning as pl
import small_runs
import torch

from bcl import InputError
from bcl.cli import main
from bcl.training import RunRecorder, make_trainer
from bcl.training.checkpoints import Checkpoints, damage
from bcl.training.fit import check_launch

FIT = ("fit", "--config", "digits_lt/simclr", "--model.encoder.args.width", "4")
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


def test_damage_names_the_intact_one_before_it_and_the_run_goes_on_from_there(place, capsys):
    assert fit(3) == 0
    expected = torch.load(place / "last.ckpt", weights_only=True)
    last = (place / "last.ckpt").read_bytes()
    previous = (place / "previous.ckpt").read_bytes()
    for harm, why in ((cut, "truncated"), (flip, "checksum"), (foreign, "another program")):
        harm(place / "last.ckpt")
        assert fit(3, "--ckpt_path", "last") == 2
        told = capsys.readouterr().err
        assert why in told
        assert "run/checkpoints/previous.ckpt, step " in told
        assert "is intact; name that one" in told
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
    assert "No other checkpoint in its folder is intact" in capsys.readouterr().err
    (place / "last.ckpt").unlink()
    (place / "previous.ckpt").write_bytes(previous)
    assert fit(3, "--ckpt_path", "last") == 2
    told = capsys.readouterr().err
    assert "no checkpoint run/checkpoints/last.ckpt" in told
    assert "run/checkpoints/previous.ckpt, step" in told
    assert damage(place / "last.ckpt")


def test_a_job_that_is_started_again_begins_or_goes_on_or_ends(place, capsys):
    assert fit(1, "--ckpt_path", "last") == 0
    assert "No checkpoint in run/checkpoints yet" in capsys.readouterr().out
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


def test_a_checkpoint_from_elsewhere_that_replaces_a_run_takes_nothing_of_it(place, tmp_path):
    log = ("--log", "csv", "--history.every_n_epochs", "1")
    assert fit(3, "--seed_everything", "1", *log) == 0
    old = (place.parent / "tracker" / "epoch000001.npy").read_bytes()
    other = main([*FIT, *CPU[:3], "other", "--trainer.max_epochs", "1"])
    assert other == 0
    source = "other/checkpoints/last.ckpt"
    assert fit(2, "--ckpt_path", source, "--overwrite", *log) == 0
    with (place.parent / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1"]
    # Epoch 0 was not this folder's run, and epoch 2 is not there yet.
    names = [path.name for path in (place.parent / "tracker").iterdir()]
    assert names == ["epoch000001.npy"]
    assert (place.parent / "tracker" / "epoch000001.npy").read_bytes() != old
    assert torch.load(place / "last.ckpt", weights_only=True)["bcl"]["record"]["seed"] == 0


def test_a_replaced_run_is_not_gone_on_with_before_the_first_checkpoint(tmp_path):
    """Killed or diverged before its first save, the new run has the checkpoint it came from."""

    def run(folder, *callbacks, **settings):
        saver = Checkpoints(folder / "checkpoints")
        recorder = RunRecorder({"name": "x"}, folder)
        small_runs.fit(
            small_runs.method(),
            recorder,
            *callbacks,
            saver,
            enable_checkpointing=True,
            **settings,
        )

    run(tmp_path / "old", max_epochs=2)
    run(tmp_path / "other", max_epochs=1)

    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            raise InputError("stop.")

    source = tmp_path / "other" / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match=f"is {source}, which the run resumed from"):
        run(tmp_path / "old", Stop(), resume=source, max_epochs=2)
    assert not list((tmp_path / "old" / "checkpoints").glob("*"))
    assert source.exists()
    with pytest.raises(InputError, match=f"The last good checkpoint is {source}"):
        run(tmp_path / "other", Stop(), resume=source, max_epochs=2)
    assert source.exists()  # its own is kept


def test_a_run_that_ends_by_its_steps_ends_as_by_its_epochs(place):
    more = ("--save.every_n_epochs", "50", "--history.every_n_epochs", "50")
    more += ("--online.every_n_epochs", "50", "--online.neighbors", "0")
    assert fit(9, "--trainer.max_steps", "5", *more) == 0
    content = torch.load(place / "last.ckpt", weights_only=True)
    assert content["global_step"] == 5
    assert "online_linear/all" in content["bcl"]["record"]["history"][-1]
    assert [path.name for path in (place.parent / "tracker").iterdir()] == ["epoch000001.npy"]


class _Strategy:
    def broadcast(self, value):
        return value


class _Trainer:
    world_size = 2
    ckpt_path = "run/last.ckpt"
    is_global_zero = True
    strategy = _Strategy()


def test_ranks_must_see_the_same_checkpoint(monkeypatch):
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

    monkeypatch.chdir(tmp_path)
    variables = {
        "NTASKS": 4, "NTASKS_PER_NODE": 2, "NNODES": 2, "PROCID": 3, "LOCALID": 1, "NODEID": 1,
        "JOB_ID": 77, "JOB_NAME": "bcl", "NODELIST": "gpu[1-2]",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    settings = {"accelerator": "cpu", "strategy": "ddp", "logger": False}
    trainer = make_trainer({"name": "r"}, "run", {**settings, "devices": 2, "num_nodes": 2})
    environment = trainer.strategy.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert (trainer.world_size, trainer.global_rank, trainer.local_rank) == (4, 3, 1)
    assert environment.main_address == "gpu1"
    assert not trainer.is_global_zero
    with pytest.raises(InputError, match="no SyncBatchNorm for CPU ranks"):
        check_launch(trainer, sync_batchnorm=True)
    told = r"4 processes.*--trainer\.devices 2 --trainer\.num_nodes 2"
    with pytest.raises(InputError, match=told):
        make_trainer({"name": "r"}, "run", {**settings, "devices": 1})
