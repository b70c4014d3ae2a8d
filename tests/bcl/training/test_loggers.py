"""Loggers of a run: what lands in their files, what a resume does to them, and what is missing."""

import csv
import importlib.util
import json

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from small_runs import fit, method

import bcl.training.loggers as loggers
from bcl import InputError, OnlineProbe
from bcl.cli import main
from bcl.training import LogHistory, RunRecorder
from bcl.training.checkpoints import Checkpoints, TorchRandomState
from datamodules import ArraysLT, DigitsLT


def recorded(folder, names, epochs=2, resume=None, resumed_at=None, more=()):
    """A run of some epochs with a record and loggers; returns method and record."""
    record = {"name": "digits", "seed": 0, "method": "SimCLR"}
    recorder = RunRecorder(record, folder)
    model = method()
    fit(
        model,
        recorder,
        TorchRandomState(),
        OnlineProbe(neighbors=3),
        Checkpoints(folder / "checkpoints"),
        LogHistory(recorder, names, resumed_at),
        *more,
        max_epochs=epochs,
        enable_checkpointing=True,
        resume=resume,
    )
    return model, recorder.record


@pytest.mark.slow
def test_csv_goes_on_after_a_resume_and_forgets_what_came_after_the_checkpoint(tmp_path):
    recorded(tmp_path, "csv")
    file = tmp_path / "metrics.csv"
    before = list(csv.DictReader(file.open(newline="")))
    # A killed run had logged an epoch more than it had saved, and was cut within a line.
    with file.open("a") as lines:
        lines.write("2,6,0.1,9.9\n2,8")
    last = tmp_path / "checkpoints" / "last.ckpt"
    _, record = recorded(tmp_path, "csv", 4, last, resumed_at=6)
    rows = list(csv.DictReader(file.open(newline="")))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [int(row["step"]) for row in rows] == [2, 5, 8, 11]
    assert rows[:2] == before
    for row, known in zip(rows, record["history"], strict=True):
        for name in ("loss", "learning_rate", "score_mean", "online_knn/all", "online_linear/few"):
            assert float(row[name]) == known[name]
    recorded(tmp_path, "csv", 1)  # a new run in the place of the old
    assert len(list(csv.DictReader(file.open(newline="")))) == 1


class Ask(pl.Callback):
    """Ask for the end after a batch, as the timer of ``max_time`` does."""

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.global_step == 4


@pytest.mark.slow
def test_a_run_that_was_stopped_within_an_epoch_goes_on_as_if_it_had_not_been(tmp_path):
    expected, record = recorded(tmp_path / "whole", "csv", 3)
    recorded(tmp_path / "cut", "csv", 3, more=(Ask(),))
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert len((tmp_path / "cut" / "metrics.csv").read_text().splitlines()) == 2
    model, again = recorded(tmp_path / "cut", "csv", 3, last, resumed_at=4)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert again["history"] == record["history"]
    files = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_lightning_logs_the_loss_by_itself_where_there_is_no_record(tmp_path):
    fit(method(), logger=pl.loggers.CSVLogger(tmp_path, "", ""))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open(newline="")))
    assert [float(row["loss"]) > 0 for row in rows] == [True, True]


@pytest.mark.slow
def test_tensorboard_holds_curves_and_histogram_and_a_resume_purges_the_rest(tmp_path):
    event_file = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, record = recorded(tmp_path, "tensorboard")
    stale, _ = recorded(tmp_path, "tensorboard", 3, tmp_path / "checkpoints/last.ckpt", 6)
    del stale
    found = event_file.EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0})
    found.Reload()
    tags = found.Tags()
    assert {"loss", "learning_rate", "online_knn/many", "online_linear/all"} <= set(tags["scalars"])
    assert tags["histograms"] == ["scores"]
    events = found.Scalars("loss")
    assert [event.step for event in events] == [2, 5, 8]
    assert events[0].value == pytest.approx(record["history"][0]["loss"])


@pytest.mark.slow
def test_wandb_offline_holds_histogram_table_and_probe_curves(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb_file import history, records

    for name, value in {
        "MODE": "offline", "SILENT": "true", "DISABLE_GIT": "true", "DISABLE_CODE": "true",
        "DATA_DIR": str(tmp_path / "data"), "CACHE_DIR": str(tmp_path / "cache"),
        "CONFIG_DIR": str(tmp_path / "config"),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"WANDB_{name}", value)
    try:
        model, record = recorded(tmp_path, "wandb")
        wandb.finish()
        (first,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
        recorded(tmp_path, "wandb", 3, tmp_path / "checkpoints/last.ckpt", resumed_at=6)
    finally:
        wandb.finish()
        wandb.teardown()
    rows = history(first)
    assert len(rows) == 2
    for row, known in zip(rows, record["history"], strict=True):
        for name, value in known.items():
            if name != "score_histogram":
                assert row[name] == pytest.approx(value), name
        assert row["scores/_type"] == "histogram"
        assert row["scores/values"] == known["score_histogram"]
        assert sum(row["scores/values"]) == 417
        np.testing.assert_allclose(row["scores/bins"], np.linspace(0, 1, 21))
    curves = {name for name in rows[0] if name.startswith("online_")}
    groups = ("all", "many", "medium", "few")
    assert curves == {f"online_{kind}/{group}" for kind in ("linear", "knn") for group in groups}
    assert "tail/path" not in rows[0]
    table = json.loads((first.parent / "files" / rows[1]["tail/path"]).read_text())
    assert table["columns"] == [
        "id", "class", "class images", "momentum loss", "score", "image"
    ]  # fmt: skip
    data, tracker = DigitsLT(), model.tracker
    largest = tracker.momentum_loss.topk(32)
    assert [row[0] for row in table["data"]] == largest.indices.tolist()
    for sample, name, count, loss, score, _ in table["data"]:
        label = int(data.train_set().labels[sample])
        assert (name, count) == (str(label), int(data.class_counts[label]))
        assert loss == pytest.approx(tracker.momentum_loss[sample].item())
        assert score == pytest.approx(tracker.scores[sample].item(), abs=1e-5)
    settings = next(r.run for r in records(first) if r.WhichOneof("record_type") == "run")
    assert settings.display_name == "digits"
    assert "SimCLR" in [json.loads(item.value_json) for item in settings.config.update]
    # The resumed run writes a second offline file of the same wandb run.
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert {path.name for path in files} == {f"run-{settings.run_id}.wandb"}
    assert sorted(len(history(path)) for path in files) == [1, 2] or len(files) == 1
    assert (tmp_path / "wandb-id.txt").read_text().strip() == settings.run_id


@pytest.mark.slow
def test_tail_table_without_labels_and_with_large_images():
    wandb = pytest.importorskip("wandb")
    tracker = method(num_samples=4).tracker
    tracker.update(torch.tensor([0, 2]), torch.tensor([1.0, 3.0]))
    table = loggers.tail_table(tracker)
    assert table.data == [
        [2, None, None, 3.0, 1.0, None],
        [0, None, None, 1.0, 0.0, None],
    ]
    unlabeled = ArraysLT(np.zeros((4, 16, 16, 3), np.uint8), image_size=16)
    assert [row[:3] for row in loggers.tail_table(tracker, unlabeled).data] == [
        [2, None, None],
        [0, None, None],
    ]
    data = DigitsLT(image_size=200)
    image = loggers.tail_table(tracker, data).data[0][5]
    assert isinstance(image, wandb.Image)
    assert (image.image.width, image.image.height) == (96, 96)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_line_that_names_the_extra(name, monkeypatch, tmp_path, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == name else real(n, *a)
    )
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "digits_lt/simclr", "--log", f"csv,{name}",
                 "--trainer.accelerator", "cpu"]) == 2  # fmt: skip
    told = capsys.readouterr().err
    assert f"pip install 'bcl-cacr[{name}]'" in told
    assert "Traceback" not in told
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--log", "cvs"], "did you mean 'csv'"),
        (["--online.every_n_epochs", "0"], "at least 1"),
        (["--online.every_n_epochs", "1", "--online.neighbors", "-2"], "neighbors"),
        (["--history.every_n_epochs", "0"], "at least 1"),
    ],
)
def test_wrong_options_are_one_line(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ["--config", "digits_lt/simclr", "--trainer.accelerator", "cpu"]
    assert main(["fit", *common, *arguments]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said


def test_wandb_without_access_says_what_to_do(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("no API key")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(InputError, match=r"no API key\. Log in with `wandb login`"):
        recorded(tmp_path, "wandb")
    assert not (tmp_path / "wandb-id.txt").exists()
