"""SIGKILL and resume: the finished run equals one that was left alone."""

import importlib.util
import os

import pytest
from commands import launch
from places import ROOT

PATH = ROOT / "benchmarks" / "kill_and_resume.py"
spec = importlib.util.spec_from_file_location("kill_and_resume", PATH)
kill_and_resume = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kill_and_resume)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "ranks", "kills", "watched"),
    [
        ("digits_lt/bcl_i", 1, 3, True),
        ("digits_lt/bcl_d", 2, 1, False),
        ("digits_lt/cacr_moco", 1, 1, False),
    ],
)
def test_killed_runs_end_as_if_nothing_had_happened(
    monkeypatch, tmp_path, config, ranks, kills, watched
):
    monkeypatch.setenv("PYTHONPATH", str(PATH.parent.parent))
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    job = kill_and_resume.Job((config,), ranks, watched, epochs=2, batch_size=96)
    by_hand = kill_and_resume.start

    def start(words):
        # Untouched, the command starts its second rank itself.
        alone = ranks == 1 or "untouched" not in str(words)
        return launch(ranks, words) if alone else by_hand(words)

    monkeypatch.setattr(kill_and_resume, "start", start)
    results = kill_and_resume.trial(job, kills, 1, tmp_path)
    if watched:
        state = kill_and_resume.final_state(tmp_path / "untouched")
        assert state["online"] is not None
        assert len(state["log"]) - 1 == len(state["files"]) == job.epochs
    assert results == [[]] * kills
    assert not list(tmp_path.rglob(".*"))  # no temporary file of a killed writer is left behind


def test_differences_are_found():
    import torch

    first = {"a": [torch.tensor([1.0, 2.0]), 3], "b": 0.5}
    assert kill_and_resume.differences(first, first, exact=True) == []
    second = {"a": [torch.tensor([1.0, 2.0001]), 3], "b": 0.5}
    assert kill_and_resume.differences(first, second, exact=True) == [".a[0]"]
    assert kill_and_resume.differences(first, {"a": []}, exact=True) == [" (keys)"]
