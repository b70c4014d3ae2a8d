"""What a run says: a header, then its progress on one line, or on lines in a file."""

import io
import re
import sys
from types import SimpleNamespace

import pytest
from small_runs import method

from bcl.training import make_trainer
from bcl.training.fit import fit
from bcl.training.progress import RunProgress
from bcl.training.record import new_record
from datamodules import DigitsLT

SETTINGS = {"accelerator": "cpu", "logger": False, "enable_model_summary": False, "max_epochs": 2}


def trainer(folder, *callbacks, **options):
    model = method()
    settings = {**SETTINGS, "callbacks": list(callbacks)}
    return make_trainer(new_record("run", model, 0, {}), folder, settings, **options), model


class Terminal(io.StringIO):
    def isatty(self):
        return True


HEADER = """images: 417 in 10 classes of 124 to 6
method: SimCLR, encoder Dropping (936 parameters), views of 16 px
device: cpu (
steps:  3 per epoch of 128 images; 33 others left out, new ones in each
epochs: 1 to 2
folder: """


@pytest.mark.slow
def test_a_run_says_what_it_does_and_how_far_it_is(tmp_path, monkeypatch, capsys):
    fit(*trainer(tmp_path / "lines"), DigitsLT(batch_size=128))
    lines = capsys.readouterr().out.splitlines()
    for line, start in zip(lines, HEADER.splitlines(), strict=False):
        assert line.startswith(start)
    first, last = lines[6:]
    shown = r"run: epoch {} of 2  loss \d\.\d{{4}}  [\d,]+ images/s"
    assert re.fullmatch(shown.format(1) + r"  0:00:\d\d left", first)
    assert re.fullmatch(shown.format(2), last)
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr("bcl.core.progress.LIVE", 0.0)
    fit(*trainer(tmp_path / "screen"), DigitsLT(batch_size=128))
    *drawn, last, end = re.split("[\r\n]", sys.stdout.getvalue())[6:]
    assert len(drawn) == 5  # after each step, and at the end of an epoch
    assert all(line.startswith("run: epoch ") for line in (*drawn, last))
    assert " left" not in last
    assert end == ""


def test_the_time_is_that_of_the_run_by_epochs_or_by_steps():
    loop = {"max_epochs": 5, "num_training_batches": 4, "current_epoch": 2, "max_steps": -1}
    fake = SimpleNamespace(**loop, accumulate_grad_batches=2)
    progress = RunProgress(None)
    progress._batch = 10
    assert (progress._done(fake, 1), progress._total(fake)) == (100, 200)
    fake.max_steps = 6  # of two batches
    assert progress._total(fake) == 120


@pytest.mark.slow
def test_a_run_without_progress_prints_nothing(tmp_path, capsys):
    model = method()
    settings = {**SETTINGS, "enable_progress_bar": False}
    fit(make_trainer({"name": "x"}, tmp_path, settings), model, DigitsLT())
    assert capsys.readouterr().out == ""
