"""Progress: a bar in a terminal, lines elsewhere."""

import io

import pytest
from small_runs import method

from bcl.training import make_trainer
from bcl.training.fit import fit
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


@pytest.mark.slow
def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere(tmp_path, monkeypatch, capsys):
    fit(*trainer(tmp_path / "lines"), DigitsLT())
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  loss")[0] for line in lines] == ["run: epoch 1/2", "run: epoch 2/2"]
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    fit(*trainer(tmp_path / "bar"), DigitsLT())
    shown = screen.getvalue()
    assert "3/3" in shown  # batches of an epoch
    assert "loss" in shown
    assert "run: epoch" not in shown


@pytest.mark.slow
def test_a_run_without_progress_prints_nothing(tmp_path, capsys):
    model = method()
    settings = {**SETTINGS, "enable_progress_bar": False}
    fit(make_trainer({"name": "x"}, tmp_path, settings), model, DigitsLT())
    assert capsys.readouterr().out == ""
