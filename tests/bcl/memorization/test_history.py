"""The tracker's history on disk."""

import numpy as np
import pytest
import torch
from small_runs import fit, method

from bcl import InputError, MemorizationTracker, TrackerHistory
from bcl.memorization.history import forget_epochs, write_epoch
from bcl.methods import MemorySettings
from bcl.training import HistoryWriter


def tracker_at(value, samples=4, normalization="max"):
    tracker = MemorizationTracker(samples, normalization=normalization)
    tracker.update(torch.tensor([0, 1, 3]), torch.tensor([1.0, 2.0, 4.0]) + value)
    return tracker


@pytest.mark.parametrize("normalization", ["max", "rank"])
def test_what_is_written_is_read(tmp_path, normalization):
    for epoch in (0, 5):
        tracker = tracker_at(epoch, normalization=normalization)
        write_epoch(tmp_path / "tracker", epoch, tracker)
    tracker.refresh()
    history = TrackerHistory(tmp_path)  # the run's folder does too
    assert history.epochs == [0, 5]
    assert history.num_samples == 4
    assert history.momentum_loss([3, 0]).tolist() == [[4.0, 1.0], [9.0, 6.0]]
    assert history.momentum_loss()[:, 2].isnan().all()
    assert history.seen().tolist() == [[True, True, False, True]] * 2
    assert torch.equal(history.scores()[1], tracker.scores)  # as after the refresh
    assert history.scores(torch.tensor([2])).tolist() == [[0.0], [0.0]]
    table = np.load(tmp_path / "tracker" / "epoch000005.npy", mmap_mode="r")
    assert (table.dtype, table.shape) == (np.float32, (2, 4))  # the documented format


def test_the_same_epoch_again_replaces_the_file_and_a_failure_leaves_the_old_one(
    tmp_path, monkeypatch
):
    write_epoch(tmp_path, 0, tracker_at(0))
    write_epoch(tmp_path, 0, tracker_at(1))
    assert TrackerHistory(tmp_path).momentum_loss([0]).tolist() == [[2.0]]

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_epoch(tmp_path, 0, tracker_at(2))
    monkeypatch.undo()
    assert TrackerHistory(tmp_path).momentum_loss([0]).tolist() == [[2.0]]
    assert [path.name for path in tmp_path.iterdir()] == ["epoch000000.npy"]


def test_files_of_epochs_to_come_are_forgotten(tmp_path):
    for epoch in range(4):
        write_epoch(tmp_path, epoch, tracker_at(0))
    (tmp_path / ".epoch000003.npy.x.tmp").write_bytes(b"of a killed writer")
    (tmp_path / "notes.npy").write_bytes(b"the user's own")
    forget_epochs(tmp_path, 2)
    kept = ["epoch000000.npy", "epoch000001.npy", "notes.npy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    forget_epochs(tmp_path / "missing", 0)


def test_unreadable_histories_are_refused(tmp_path):
    with pytest.raises(InputError, match="no history"):
        TrackerHistory(tmp_path)
    write_epoch(tmp_path, 0, tracker_at(0))
    with pytest.raises(InputError, match=r"id 4 lies outside \[0, 4\)"):
        TrackerHistory(tmp_path).scores([4])
    write_epoch(tmp_path, 1, tracker_at(0, samples=5))
    with pytest.raises(InputError, match="4 to 5 samples"):
        TrackerHistory(tmp_path)
    path = tmp_path / "epoch000001.npy"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="not a complete"):
        TrackerHistory(tmp_path)
    np.save(path, np.zeros(3))
    with pytest.raises(InputError, match="float64"):
        TrackerHistory(tmp_path)


@pytest.mark.slow
def test_a_run_writes_every_n_epochs_and_the_last(tmp_path):
    (tmp_path / "epoch000009.npy").write_bytes(b"of a run that is replaced")
    model = method()
    fit(model, HistoryWriter(tmp_path, every_n_epochs=2), max_epochs=5)
    history = TrackerHistory(tmp_path)
    assert history.epochs == [1, 3, 4]
    seen = model.tracker.seen
    assert torch.equal(history.seen()[-1], seen)
    assert torch.equal(history.momentum_loss()[-1][seen], model.tracker.momentum_loss[seen])
    assert torch.equal(history.scores()[-1], model.tracker.scores)


@pytest.mark.slow
def test_signals_that_are_watched_have_folders_of_their_own(tmp_path):
    model = method(memory=MemorySettings(watch=("misalignment", "isolation")))
    fit(model, HistoryWriter(tmp_path / "tracker"), max_epochs=3)
    assert TrackerHistory(tmp_path).epochs == [0, 1, 2]
    for signal, tracker in model.trackers.items():
        history = TrackerHistory(tmp_path, None if signal == "loss" else signal)
        assert torch.equal(history.momentum_loss()[-1], tracker.momentum_loss), signal
        assert torch.equal(history.scores()[-1], tracker.scores), signal
    with pytest.raises(InputError, match="signal 'tailness'"):
        TrackerHistory(tmp_path, "tailness")
    forget_epochs(tmp_path / "tracker", 1)
    assert TrackerHistory(tmp_path, "isolation").epochs == [0]


def test_some_epochs_evenly_spread_with_the_last(tmp_path):
    for epoch in range(7):
        write_epoch(tmp_path, epoch, tracker_at(epoch))
    history = TrackerHistory(tmp_path, most=3)
    assert history.epochs == [0, 3, 6]
    assert history.momentum_loss([0]).tolist() == [[1.0], [4.0], [7.0]]
    assert TrackerHistory(tmp_path, most=9).epochs == list(range(7))
