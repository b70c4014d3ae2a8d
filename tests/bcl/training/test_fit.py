"""The one trainer of a recorded run, and errors that end it."""

import re
import socket
import subprocess
import sys

import pytest
import pytorch_lightning as pl
from small_runs import method

from bcl import InputError, OnlineProbe
from bcl.training import LogHistory, RunRecorder, make_trainer
from bcl.training.checkpoints import AtomicCheckpointIO, Checkpoints
from bcl.training.fit import _lost_rank, fit
from bcl.training.record import new_record
from datamodules import DigitsLT

SETTINGS = {"accelerator": "cpu", "logger": False, "enable_model_summary": False, "max_epochs": 2}


class Stop(pl.Callback):
    """An input error at a step, or before the first."""

    def __init__(self, step=None):
        self.step = step

    def setup(self, trainer, module, stage):
        if self.step is None:
            raise InputError("too early.")

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise InputError("step 4: no.")


def trainer(folder, *callbacks, **options):
    model = method()
    settings = {**SETTINGS, "callbacks": list(callbacks)}
    return make_trainer(new_record("run", model, 0, {}), folder, settings, **options), model


@pytest.mark.slow
def test_callbacks_and_plugins_of_the_user_join_those_of_the_run(tmp_path):
    probe = OnlineProbe(neighbors=0)
    made, model = trainer(tmp_path, probe, log="csv", history_every=1)
    kinds = [type(each) for each in made.callbacks]
    assert kinds.index(RunRecorder) < kinds.index(OnlineProbe) < kinds.index(LogHistory)
    assert kinds[-1] is Checkpoints  # after all that it saves
    assert made.checkpoint_callback is made.callbacks[-1]
    assert isinstance(made.strategy.checkpoint_io, AtomicCheckpointIO)
    fit(made, model, DigitsLT())
    assert "online_linear/few" in (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert "linear head" in (tmp_path / "run.json").read_text()
    assert len(list((tmp_path / "tracker").iterdir())) == 2


@pytest.mark.parametrize(
    ("step", "told"),
    [(None, "too early."), (0, "no. There is no checkpoint yet."), (4, "no. The last good")],
)
def test_an_error_in_training_names_the_last_good_checkpoint(tmp_path, step, told):
    made, model = trainer(tmp_path, Stop(step))
    with pytest.raises(InputError) as error:
        fit(made, model, DigitsLT())
    assert told in str(error.value)
    assert (str(tmp_path / "checkpoints" / "last.ckpt") in str(error.value)) == (step == 4)


@pytest.mark.parametrize(
    "settings",
    [{"devices": 0}, {"accelerator": "gpuu"}, {"strategy": "dpp"}, {"precision": "7"}],
)
def test_settings_that_lightning_refuses_are_one_line(tmp_path, settings):
    with pytest.raises(InputError, match="trainer: ") as error:
        make_trainer({"name": "x"}, tmp_path, {**SETTINGS, **settings})
    assert "\n" not in str(error.value)


def test_a_second_run_in_a_folder_is_refused(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    code = "import sys; from bcl.core.locks import locked\n"
    code += "with locked(sys.argv[1]): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        made, model = trainer(tmp_path)
        told = f"process {first.pid} on {socket.gethostname()}"
        with pytest.raises(InputError, match=told):
            fit(made, model, DigitsLT())
        first.kill()
    assert [path.name for path in folder.iterdir()] == [".lock"]  # stale: no bar to the next run
    made, model = trainer(tmp_path, Stop())
    with pytest.raises(InputError, match="too early"):
        fit(made, model, DigitsLT())
    assert not list(folder.iterdir())
    made, model = trainer(tmp_path / "new", Stop())
    with pytest.raises(InputError, match="too early"):
        fit(made, model, DigitsLT())
    assert not (tmp_path / "new").exists()  # nothing is left of a run that was refused


def test_a_new_run_is_not_resumed_from_what_lightning_left(tmp_path):
    (tmp_path / "hpc_ckpt_1.ckpt").touch()
    made, model = trainer(tmp_path, Stop())
    with pytest.raises(InputError, match="hpc_ckpt_1"):
        fit(made, model, DigitsLT())


def test_a_lost_rank_is_an_error_of_one_line():
    told = _lost_rank(RuntimeError("[pair.cc:1] gloo: Connection closed by peer\nmore"))
    assert "another rank has ended" in str(told)
    assert not {"more", "pair"} & set(re.findall("[a-z]+", str(told)))
    # The only text of gloo that does not name it, seen where a host was cut off.
    assert _lost_rank(RuntimeError("Application timeout caused pair closure"))
    assert _lost_rank(RuntimeError("out of memory")) is None
