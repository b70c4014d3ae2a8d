"""A signal ends a run after the step that it meets, with a checkpoint that resumes exactly."""

import importlib
import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from places import ROOT
from small_runs import method

from bcl.core.errors import Interrupted
from bcl.training import make_trainer
from bcl.training.fit import fit
from datamodules import DigitsLT


class Send(pl.Callback):
    """Send a signal to this process within a batch."""

    def __init__(self, number, batch):
        self.number, self.batch = number, batch

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            os.kill(os.getpid(), self.number)


def run(folder, *callbacks, resume=None, accumulate=1):
    settings = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
    settings |= {"logger": False, "enable_model_summary": False, "callbacks": list(callbacks)}
    settings["accumulate_grad_batches"] = accumulate
    trainer = make_trainer({"name": "x"}, folder, settings)
    model = method()
    fit(trainer, model, DigitsLT(), resume)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch", "accumulate", "step"),
    [("SIGTERM", 2, 1, 2), ("SIGUSR1", 3, 1, 3), ("SIGINT", 1, 2, 1)],
)
def test_a_signal_ends_a_run_that_goes_on_exactly(tmp_path, name, batch, accumulate, step):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    expected = run(tmp_path / "whole", accumulate=accumulate).state_dict()
    with pytest.raises(Interrupted, match=f"{name} after step {step}; resume with") as error:
        run(tmp_path / "cut", Send(number, batch), accumulate=accumulate)
    assert error.value.status == 128 + number
    assert signal.getsignal(number) == before
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == step
    resumed = run(tmp_path / "cut", resume=last, accumulate=accumulate).state_dict()
    assert all(torch.equal(resumed[key], value) for key, value in expected.items())


def test_a_second_interrupt_is_at_once(tmp_path):
    twice = [Send(signal.SIGINT, 2), Send(signal.SIGINT, 2)]
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted\. There is no checkpoint") as error:
        run(tmp_path, *twice)
    assert not isinstance(error.value, Interrupted)


@pytest.mark.slow
def test_two_ranks_end_together(monkeypatch, tmp_path):
    """A signal to rank 0 alone ends both ranks, whoever started them; so does a rank's death."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    stop_ranks = importlib.import_module("stop_ranks")
    for number, forked in [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGKILL, True)]:
        place = tmp_path / f"{number.name}{forked}"
        found = stop_ranks.attempt(place, number, group=False, delay=0.2, forked=forked)
        assert found.startswith("ok"), found
