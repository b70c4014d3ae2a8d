"""The watch: it measures what the formulas say, needs no labels and touches nothing."""

import json

import pytest
import torch
from small_runs import Cut, Images, StopError, fit, method

from bcl import InputError
from bcl.augment import ContrastiveViews
from bcl.evaluation.measures import (
    alignment,
    effective_rank,
    nearest_neighbors,
    neighbor_agreement,
    uniformity,
)
from bcl.training import FeatureWatch, RunRecorder, make_trainer
from bcl.training.checkpoints import Checkpoints, TorchRandomState
from bcl.training.fit import fit as fit_with
from datamodules import ArraysLT, DigitsLT


def unlabeled(count=60):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return ArraysLT(images.numpy(), image_size=16, batch_size=20)


def recorder(folder="unused"):
    found = RunRecorder({"name": "x"}, folder)
    if folder == "unused":
        found.on_train_end = found.on_train_start = lambda *_: None  # no file
    return found


def watched(*callbacks, model=None, data=None, **settings):
    record = recorder()
    fit(model or method(), record, *callbacks, data=data or unlabeled(), **settings)
    return record.record


@pytest.mark.slow
def test_the_run_is_the_same_to_the_last_bit_with_and_without_it():
    states, numbers = [], []
    for callbacks in ([], [FeatureWatch(every_n_epochs=1)]):
        model = method()
        torch.manual_seed(1)
        fit(model, *callbacks)
        states.append(model.state_dict())  # batch norm's statistics, too
        numbers.append(torch.rand(3))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert numbers[0].equal(numbers[1])
    assert callbacks[0]._before is not None


@pytest.mark.slow
def test_values_are_those_of_the_formulas():
    model, data = method(), unlabeled()
    before = model.encode(data.train_set().images(torch.arange(60)))
    features = []

    class Keep(FeatureWatch):
        def measure(self, trainer, pl_module):
            features.append(pl_module.encode(data.train_set().images(torch.arange(60))))
            return super().measure(trainer, pl_module)

    rows = watched(Keep(1, neighbors=3), model=model, data=data)["history"]
    assert "features/neighbors_kept" not in rows[0]  # nothing to compare with
    assert not before.equal(features[0])
    for row, x in zip(rows, features, strict=True):
        assert row["features/uniformity"] == pytest.approx(uniformity(x), abs=1e-6)
        assert row["features/effective_rank"] == pytest.approx(effective_rank(x), rel=1e-6)
    tables = [nearest_neighbors(x, 3) for x in features]
    assert rows[1]["features/neighbors_kept"] == neighbor_agreement(*tables)
    ids = torch.arange(60)
    pair = ContrastiveViews(16)(data.train_set().images(ids), ids=ids)
    encoded = [model.encode((view * 255).round().to(torch.uint8)) for view in pair]
    assert rows[1]["features/alignment"] == pytest.approx(alignment(*encoded), rel=1e-5)


@pytest.mark.slow
def test_it_watches_data_without_labels_by_default_and_others_when_asked():
    epochs = {"max_epochs": 12}
    assert "watch" not in watched(FeatureWatch(), data=DigitsLT(batch_size=400), max_epochs=1)
    history = watched(FeatureWatch(), **epochs)["history"]
    seen = [row["epoch"] for row in history if "features/uniformity" in row]
    assert seen == [0, 9, 11]
    asked = watched(FeatureWatch(1, images=50), data=DigitsLT(batch_size=400), max_epochs=1)
    assert "50 training images" in asked["watch"]
    assert "features/alignment" in asked["history"][0]
    assert "watch" not in watched(FeatureWatch(0), max_epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "seen"), [(60, "60"), (300, "100"), (1200, "120")])
def test_it_measures_a_tenth_of_the_images_but_at_least_a_hundred(count, seen):
    record = watched(FeatureWatch(), data=unlabeled(count), max_epochs=1)
    assert record["watch"].startswith(f"{seen} training images")
    rank = record["history"][0]["features/effective_rank"]
    assert 1 <= rank <= int(seen)


@pytest.mark.slow
def test_a_collapse_is_told_once(capsys):
    class Constant(torch.nn.Module):
        num_features = 12

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(12))

        def forward(self, x):
            return 1e-4 * x.mean((2, 3)).repeat(1, 4) + self.weight

    record = watched(FeatureWatch(1), model=method(encoder=Constant), max_epochs=3)
    lines = [line for line in capsys.readouterr().out.splitlines() if "collapsed" in line]
    assert len(lines) == 1
    assert "collapsed in epoch 0" in lines[0]
    assert "of 12" in lines[0]
    assert [note in lines[0] for note in record["notes"]] == [True]
    healthy = watched(FeatureWatch(1), data=DigitsLT(), max_epochs=3)
    assert "notes" not in healthy
    assert "collapsed" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_resumed_run_compares_with_the_neighbors_before(tmp_path):
    def run(folder, *more, resume=None):
        callbacks = [TorchRandomState(), Checkpoints(folder), FeatureWatch(1), *more]
        fit(method(), recorder(folder), *callbacks, data=unlabeled(), max_epochs=3,
            resume=resume, enable_checkpointing=True)  # fmt: skip
        return json.loads((folder / "run.json").read_text())["history"]

    whole = run(tmp_path / "whole")
    with pytest.raises(StopError):
        run(tmp_path / "cut", Cut(epoch=2))
    again = run(tmp_path / "cut", resume=tmp_path / "cut" / "last.ckpt")
    assert whole == again
    assert "features/neighbors_kept" in again[2]


def test_every_run_has_it_and_foreign_parts_are_left_alone(tmp_path):
    settings = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False,
                "logger": False, "enable_model_summary": False}  # fmt: skip
    trainer = make_trainer({"name": "x"}, tmp_path / "a", settings, log="csv")
    fit_with(trainer, method(), unlabeled())
    assert "features/effective_rank" in (tmp_path / "a" / "metrics.csv").read_text()
    trainer = make_trainer({"name": "x"}, tmp_path / "b", settings)
    fit_with(trainer, method(), Images())  # not a datamodule of this library
    with pytest.raises(InputError, match="train_set"):
        fit(method(), FeatureWatch(1), data=Images())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"every_n_epochs": -1}, "every_n_epochs"),
        ({"images": 1}, "images"),
        ({"neighbors": 0}, "neighbors"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments(arguments, told):
    with pytest.raises(InputError, match=told):
        FeatureWatch(**arguments)
