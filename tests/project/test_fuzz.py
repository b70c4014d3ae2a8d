"""The fuzzer finds nothing in a few trials, and finds what is put there."""

import importlib

import pytest
import torch
from places import ROOT


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("fuzz")


TARGETS = ("nt_xent", "signals", "cacr", "scores", "tracker", "views")


@pytest.mark.parametrize("target", TARGETS)
def test_a_few_trials(fuzz, target):
    found = {trial: fuzz.attempt(target, trial) for trial in range(30)}
    assert {trial: words for trial, words in found.items() if words is not None} == {}


def off(call, by):
    """A function whose results are off by a little."""

    def wrong(*arguments, **more):
        result = call(*arguments, **more)
        if isinstance(result, tuple):
            return type(result)(*(each * (1 + by) for each in result))
        return result * (1 + by)

    return wrong


@pytest.mark.parametrize(
    ("target", "name"),
    [("nt_xent", "nt_xent"), ("signals", "contrastive_signals"), ("cacr", "cacr_terms"),
     ("scores", "memorization_scores")],
)  # fmt: skip
def test_a_wrong_number_is_found(fuzz, monkeypatch, target, name):
    monkeypatch.setattr(fuzz, name, off(getattr(fuzz, name), 1e-2))
    assert any("differ by" in str(fuzz.attempt(target, trial)) for trial in range(10))


def test_a_wrong_state_a_crash_and_a_cut_are_found(fuzz, monkeypatch):
    class Late(fuzz.MemorizationTracker):
        def _refuse(self, ids, losses):
            self.momentum_loss += 1
            super()._refuse(ids, losses)

    monkeypatch.setattr(fuzz, "MemorizationTracker", Late)
    assert any("changed" in str(fuzz.attempt("tracker", trial)) for trial in range(30))
    monkeypatch.setattr(fuzz, "nt_xent", lambda *_, **__: torch.zeros(3)[5])
    assert "IndexError" in str(fuzz.attempt("nt_xent", 0))

    class Cut(fuzz.ContrastiveViews):
        def forward(self, images, *arguments, **more):
            return super().forward(images, *arguments, **more) * (1 - 1e-3 * (len(images) % 2))

    monkeypatch.setattr(fuzz, "ContrastiveViews", Cut)
    assert any("batch is cut" in str(fuzz.attempt("views", trial)) for trial in range(20))


def test_a_run_prints_its_counts(fuzz, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fuzz", "--count", "2", "--only", "scores", "--trial", "5"])
    assert fuzz.main() == 0
    assert "scores: 2 trials, 0 findings" in capsys.readouterr().out
    monkeypatch.setitem(fuzz.TARGETS, "scores", lambda draw: 1 / 0)
    assert fuzz.main() == 1
    assert "scores, trial 5: ZeroDivisionError" in capsys.readouterr().out
