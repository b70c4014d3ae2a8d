"""The online probe: it sees everything and touches nothing."""

import csv
import json
import sys

import pytest
import pytorch_lightning as pl
import torch
from commands import launch
from places import HELPERS
from small_runs import Cut, Images, Pixels, StopError, fit, method

from bcl import BCL, SDCLR, ContrastiveViews, InputError, OnlineProbe, shot_groups
from bcl.augment import ChainSettings
from bcl.cli import main
from bcl.evaluation.knn import knn_predict
from bcl.memorization.history import TrackerHistory
from bcl.training import RunRecorder
from bcl.training.checkpoints import Checkpoints, TorchRandomState
from cacr import CACR
from cacr.method import TeacherSettings
from datamodules import DigitsLT


@pytest.mark.slow
def test_the_run_is_the_same_to_the_last_bit_with_and_without_it():
    states, numbers = [], []
    for callbacks in ([], [OnlineProbe()]):
        torch.manual_seed(1)
        model = method()
        fit(model, *callbacks)
        states.append(model.state_dict())
        numbers.append(torch.rand(3))
    assert states[0].keys() == states[1].keys()  # the head is no part of the method
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert numbers[0].equal(numbers[1])  # nor was torch's generator used
    head = {id(parameter) for parameter in callbacks[0].head.parameters()}
    assert len(head) == 2
    assert not head & {id(parameter) for parameter in model.parameters()}
    assert callbacks[0].head[1].weight.abs().max() > 0


@pytest.mark.slow
def test_values_are_those_of_a_count_by_hand():
    recorder = RunRecorder({"name": "x"}, "unused")
    probe = OnlineProbe(neighbors=5)
    recorder.on_train_end = lambda *_: None  # no file
    model, data = method(), DigitsLT()
    trainer = fit(model, recorder, probe, data=data)
    test, bank = data.test_set(), data.probe_set()
    features = model.encode(test.images(torch.arange(len(test))))
    known = model.encode(bank.images(torch.arange(len(bank))))
    found = {
        "online_linear": probe.head.eval()(features).argmax(1),
        "online_knn": knn_predict(known, bank.labels, features, (5,), num_classes=10)[5],
    }
    row = recorder.record["history"][-1]
    groups = shot_groups(data.class_counts).as_dict()
    for name, predicted in found.items():
        right = (predicted == test.labels).double()
        assert row[f"{name}/all"] == pytest.approx(right.mean().item())
        for group, ids in groups.items():
            shares = [right[test.labels == c].mean().item() for c in ids.tolist()]
            assert row[f"{name}/{group}"] == pytest.approx(sum(shares) / len(shares))
        assert trainer.callback_metrics[f"{name}/all"] == pytest.approx(row[f"{name}/all"])
    assert row["online_knn/all"] > 0.3
    assert [row["epoch"] for row in recorder.record["history"]] == [0, 1]


@pytest.mark.slow
def test_the_linear_head_learns_from_long_tailed_batches():
    probe = OnlineProbe(neighbors=0, learning_rate=0.02, every_n_epochs=15)
    views = ContrastiveViews(16, chain=ChainSettings(scale=(0.8, 1.0), flip_probability=0.0))
    model = method(encoder=Pixels, views=views, learning_rate=1e-9)  # the encoder stays
    values = fit(model, probe, max_epochs=15).callback_metrics
    assert values["online_linear/all"] > 0.75
    assert values["online_linear/many"] > values["online_linear/few"] > 0.4
    assert "online_knn/all" not in values


@pytest.mark.slow
def test_it_measures_every_n_epochs_and_after_the_last():
    recorder = RunRecorder({"name": "x"}, "unused")
    recorder.on_train_end = lambda *_: None
    probe = OnlineProbe(every_n_epochs=2, neighbors=0)
    fit(method(), recorder, probe, max_epochs=3)
    assert [("online_linear/all" in row) for row in recorder.record["history"]] == [
        False,
        True,
        True,
    ]


SHORT_QUEUE = TeacherSettings(queue_size=64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "more", "settings", "views"),
    [
        (BCL, {}, {"accumulate_grad_batches": 2}, 2),
        (SDCLR, {"prune_fraction": 0.5}, {"precision": "bf16-mixed"}, 1),
        (
            CACR,
            {"form": "moco", "teacher": TeacherSettings(queue_size=64)},
            {"limit_train_batches": 2},
            5,
        ),
    ],
)
def test_all_methods_accumulation_and_half_precision(cls, more, settings, views):
    probe = OnlineProbe()
    seen = []
    model = method(cls, **more)

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, *_):
            seen.append(batch["label"])
            # Of the encoder's first pass: all views, and of SDCLR the dense one alone.
            assert probe._features.shape[0] == views * len(batch["label"])

    trainer = fit(model, Watch(), probe, max_epochs=1, **settings)
    assert probe.optimizer.state_dict()["state"][0]["step"] == len(seen)
    assert 0 <= trainer.callback_metrics["online_knn/all"] <= 1
    assert probe.head[1].weight.dtype == torch.float32
    assert probe.head[1].weight.isfinite().all()
    assert not model.encoder._forward_hooks  # nothing is left behind


@pytest.mark.slow
def test_a_run_that_was_cut_within_an_epoch_goes_on_with_the_same_head(tmp_path):
    def callbacks(folder):
        recorder = RunRecorder({"name": "x"}, folder)
        probe = OnlineProbe(neighbors=0)
        saver = Checkpoints(folder, every_n_steps=1)
        return probe, [recorder, TorchRandomState(), saver, probe]

    whole, used = callbacks(tmp_path / "whole")
    expected = method()
    fit(expected, *used, enable_checkpointing=True)
    _, used = callbacks(tmp_path / "cut")
    with pytest.raises(StopError):
        fit(method(), *used, Cut(step=4), enable_checkpointing=True)
    path = tmp_path / "cut" / "last.ckpt"
    saved = torch.load(path, weights_only=True)["callbacks"]["OnlineProbe"]
    assert saved["head"]["1.weight"].abs().sum() > 0
    again, used = callbacks(tmp_path / "cut")
    model = method()
    fit(model, *used, resume=path, enable_checkpointing=True)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    for name, value in whole.head.state_dict().items():
        assert torch.equal(value, again.head.state_dict()[name]), name
    first, second = whole.optimizer.state_dict(), again.optimizer.state_dict()
    for key, values in first["state"].items():
        for name, value in values.items():
            assert torch.equal(value, second["state"][key][name])
    files = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("whole", "cut")]
    assert files[0]["history"] == files[1]["history"]


@pytest.mark.slow
def test_a_head_of_other_classes_is_refused(tmp_path):
    saver = Checkpoints(tmp_path)
    recorder = RunRecorder({"name": "x"}, tmp_path)
    fit(method(), saver, recorder, OnlineProbe(neighbors=0), enable_checkpointing=True)
    path = tmp_path / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["callbacks"]["OnlineProbe"]["head"]["1.bias"] = torch.zeros(7)
    torch.save(content, path)
    with pytest.raises(InputError, match="other features or classes"):
        fit(method(), Checkpoints(tmp_path), RunRecorder({"name": "x"}, tmp_path),
            OnlineProbe(), resume=path, enable_checkpointing=True, max_epochs=3)  # fmt: skip


class NoTest(DigitsLT):
    def build(self):
        sets = super().build()
        sets.test = None
        return sets


@pytest.mark.parametrize(
    ("data", "told"), [(Images, "needs labels, but Images"), (NoTest, "no test set")]
)
def test_data_without_labels_is_one_clear_error(data, told):
    with pytest.raises(InputError, match=told):
        fit(method(), OnlineProbe(), data=data())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs"),
        ({"neighbors": -1}, "neighbors"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments(arguments, told):
    with pytest.raises(InputError, match=told):
        OnlineProbe(**arguments)


def run(ranks, out):
    out.mkdir()
    program = launch(ranks, [sys.executable, HELPERS / "ddp_online_script.py", ranks, out])
    said, _ = program.communicate()
    assert program.returncode == 0, said
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.mark.slow
def test_two_ranks_hold_the_numbers_of_one_and_stop_together(tmp_path):
    (alone,) = run(1, tmp_path / "one")
    first, second = run(2, tmp_path / "two")
    # The online probe: the same on both ranks, and as in one process.
    names = [name for name in alone["history"][-1] if name.startswith("online_")]
    assert len(names) == 8
    for row, mine, other in zip(alone["history"], first["history"], second["history"], strict=True):
        for name in names:
            assert mine[name] == other[name]
            assert mine[name] == pytest.approx(row[name], abs=0.011)  # five of 500 images
            # Each test image counts once: shares of 500 are whole numbers of images.
            assert mine["online_knn/all"] * 500 == pytest.approx(
                round(mine["online_knn/all"] * 500), abs=1e-6
            )
    for name, value in first["head"].items():
        assert torch.equal(value, second["head"][name])
        torch.testing.assert_close(value, alone["head"][name], rtol=1e-2, atol=1e-3)
    # What rank 0 wrote: the mean loss of both ranks, and the tracker's history.
    with (tmp_path / "two/good/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in first["history"]]
    assert float(rows[-1]["loss"]) == pytest.approx(alone["history"][-1]["loss"], rel=1e-4)
    history = TrackerHistory(tmp_path / "two/good")
    assert history.epochs == [0, 1]
    seen = history.seen()[-1]
    assert torch.equal(history.momentum_loss()[-1][seen], first["tracker"]["momentum_loss"][seen])
    # A loss that is not finite on one rank stops both, and enters neither's tracker.
    for state in (first, second):
        assert "step 3: loss not finite for sample ids" in state["error"]
        assert state["finite"]
        assert state["steps"] == 3
        assert torch.equal(state["updated"], first["updated"])
        assert int((state["updated"] >= 0).sum()) == 3 * 96
    saved = torch.load(tmp_path / "two/bad/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 3


@pytest.mark.slow
def test_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.yaml").write_text("online: {every_n_epochs: 1, neighbors: 3}\nlog: [csv]\n")
    common = ["--trainer.accelerator", "cpu", "--model.encoder.args.width", "4"]
    assert main(["fit", "--config", "digits_lt/simclr", "--config", "more.yaml", "--name", "run",
                 "--trainer.max_epochs", "1",
                 "--history.every_n_epochs", "1", "--watch.every_n_epochs", "1",
                 "--watch.images", "50", *common]) == 0  # fmt: skip
    record = json.loads((tmp_path / "outputs/run/run.json").read_text())
    assert 0 <= record["history"][0]["online_knn/few"] <= 1
    assert "3 cosine neighbors in the probe set; thirds: " in record["online_probe"]
    assert "50 training images" in record["watch"]
    assert "features/uniformity" in record["history"][0]
    assert TrackerHistory("outputs/run").momentum_loss().shape == (1, 417)
    resume = ["fit", "--config", "digits_lt/simclr", "--config", "more.yaml", "--name", "run",
              "--trainer.max_epochs", "2", "--log", "csv", "--history.every_n_epochs", "1",
              "--ckpt_path", "last", *common]  # fmt: skip
    assert main(resume) == 0
    with (tmp_path / "outputs/run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [int(row["step"]) for row in rows] == [2, 5]
    assert float(rows[0]["online_knn/few"]) == record["history"][0]["online_knn/few"]
    assert TrackerHistory("outputs/run").epochs == [0, 1]
