"""Signals of features in a run: values, times, steering, resume, what is refused."""

import pytest
import torch
from small_runs import SIZE, TINY, Cut, Images, StopError, fit, method, train

from bcl import BCL, InputError, SimCLR
from bcl.evaluation import feature_signals
from bcl.methods import MemorySettings
from bcl.training import FeatureSignals, HistoryWriter, RunRecorder
from bcl.training.checkpoints import Checkpoints, TorchRandomState
from datamodules import ArraysLT

ALL = MemorySettings(
    watch=("neighbors_1", "neighbors", "sparseness", "projected_neighbors"), every_n_epochs=2
)


class Measured(FeatureSignals):
    """Keep what the formulas give at each measurement."""

    def measure(self, trainer, pl_module):
        data = trainer.datamodule
        ids = torch.arange(data.num_samples)
        both = pl_module.embed(data.train_set().images(ids))
        features, projections = both
        self.found = {
            **feature_signals(features, ("neighbors_1", "neighbors", "sparseness")),
            "projected_neighbors": feature_signals(projections, ("neighbors",))["neighbors"],
        }
        self.epochs = [*getattr(self, "epochs", []), trainer.current_epoch]
        return super().measure(trainer, pl_module)


@pytest.mark.slow
def test_trackers_hold_the_last_measurement(capsys):
    model, measured = method(memory=ALL), Measured()
    recorder = RunRecorder({"name": "x"}, "unused")
    recorder.on_train_end = recorder.on_train_start = lambda *_: None  # no file
    fit(model, recorder, measured, max_epochs=5)
    assert measured.epochs == [0, 1, 3, 4]
    for name, values in measured.found.items():
        tracker = model.watched[name]
        torch.testing.assert_close(tracker.momentum_loss, values, rtol=1e-4, atol=1e-5)
        assert bool(tracker.seen.all())
        assert int(tracker.epoch) == 5
    assert model.tracker.momentum == 0.97
    assert recorder.record["feature_signals"]["measurements"] == 4
    assert recorder.record["feature_signals"]["seconds"] > 0
    assert capsys.readouterr().out.count("after an epoch of") == 1


@pytest.mark.slow
def test_a_run_is_the_same_to_the_last_bit_with_and_without_watching():
    states = []
    for settings in (MemorySettings(), ALL):
        model = method(memory=settings)
        torch.manual_seed(1)
        fit(model, FeatureSignals())
        states.append(model.state_dict())
    plain, watching = states
    assert all(torch.equal(value, watching[name]) for name, value in plain.items())
    assert {name for name in watching if name not in plain} == {
        f"watched.{signal}.{name}"
        for signal in ALL.watch
        for name in ("momentum_loss", "scores", "updated_in", "epoch")
    }


@pytest.mark.slow
def test_neighbors_steer_the_views():
    steered = []

    class Spy(BCL):
        def view_scores(self, ids):
            found = super().view_scores(ids)
            steered.append((self.current_epoch, ids, found, self.tracker.scores.clone()))
            return found

    model = method(Spy, lambda: TINY, memory=MemorySettings(signal="neighbors"))
    fit(model, FeatureSignals(), max_epochs=3)
    assert list(model.trackers) == ["neighbors", "loss"]
    assert all(scores.eq(0).all() for epoch, _, scores, _ in steered if epoch == 0)
    late = [row for row in steered if row[0] == 1]
    assert all(torch.equal(scores, held[ids]) for _, ids, scores, held in late)
    assert late[0][3].max() == 1
    loss = model.trackers["loss"]
    assert bool(loss.seen.any())


@pytest.mark.slow
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    settings = MemorySettings(signal="isolation", watch=("loss", "neighbors"), every_n_epochs=2)

    def run(folder, *more, resume=None):
        model = method(memory=settings)
        recorder = RunRecorder({"name": "x"}, folder)
        callbacks = [recorder, TorchRandomState(), Checkpoints(folder), FeatureSignals()]
        callbacks += [HistoryWriter(folder / "tracker", keep=resume is not None), *more]
        fit(model, *callbacks, max_epochs=4, resume=resume, enable_checkpointing=True)
        return model.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(StopError):
        run(tmp_path / "cut", Cut(epoch=2))
    again = run(tmp_path / "cut", resume=tmp_path / "cut" / "last.ckpt")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    names = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("epoch*.npy")]
    assert len(names) == 3 * 4
    for name in names:
        files = [tmp_path / run / name for run in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_a_trainer_that_measures_nothing_is_refused():
    with pytest.raises(InputError, match="FeatureSignals"):
        train(SimCLR(TINY, views=SIZE, memory=MemorySettings(watch=("neighbors",))))


def test_data_that_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="train_set"):
        fit(method(memory=ALL), FeatureSignals(), data=Images())
    images = torch.zeros(20, 3, 16, 16, dtype=torch.uint8).numpy()
    few = ArraysLT(images, image_size=16, batch_size=10)
    with pytest.raises(InputError, match="more than 20 images"):
        fit(method(memory=MemorySettings(signal="neighbors_100")), FeatureSignals(), data=few)
