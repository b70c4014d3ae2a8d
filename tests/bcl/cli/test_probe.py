"""`bcl probe` and `bcl report` with a made-up run in the checkpoint's place."""

import argparse
import json
import types

import pytest
import torch
from fakes import FakeData, encode
from folders import make_folder

import bcl
from bcl.cli import main, probe, report
from bcl.core.errors import InputError


class FakeMethod(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Identity()
        self.tracker = bcl.MemorizationTracker(128)
        self.tracker.update(torch.arange(128), torch.linspace(1, 2, 128))
        self.tracker.refresh()

    def encode(self, images):
        return encode(images)


class SetUpData(FakeData):
    root = "."

    def prepare_data(self):
        pass

    def setup(self, stage):
        self.ready = True


def command(module, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    import bcl.training.checkpoints

    loaded = []

    def load_run(path):
        method = FakeMethod() if "linear" not in str(path) else torch.nn.Linear(2, 2)
        run = types.SimpleNamespace(
            method=method, data=SetUpData(), record={"name": path.parent.name, "seed": 0}
        )
        loaded.append(run)
        return run

    monkeypatch.setattr(bcl.training.checkpoints, "load_run", load_run)
    for name in ("simclr", "bcl_i"):
        folder = tmp_path / name / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "last.ckpt").write_bytes(name.encode())
    return types.SimpleNamespace(
        paths=[tmp_path / name / "checkpoints" / "last.ckpt" for name in ("simclr", "bcl_i")],
        loaded=loaded,
    )


@pytest.mark.slow
def test_probe_then_report(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    words = [*checkpoint.paths, "--protocol", "full,10-shot", "--out", out]
    assert command(probe, *words, "--cache", tmp_path / "cache", "--data.root", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "Many" in printed
    assert "10-shot" in printed
    assert (out / "simclr-last" / "report.json").is_file()
    assert (out / "bcl_i-last" / "report.json").is_file()
    assert checkpoint.loaded[0].data.root == str(tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    page = tmp_path / "page.html"
    assert command(report, out, "--out", page, "--formats", "md,json", "--title", "Mine") == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert "<title>Mine</title>" in page.read_text()
    assert page.with_suffix(".md").is_file()
    assert not list(out.rglob(".*"))


def test_labels_from_elsewhere(checkpoint, tmp_path, capsys):
    train = make_folder(tmp_path / "train", {"ant": 9, "bee": 6, "cat": 5}, side=8)
    test = make_folder(tmp_path / "test", {"ant": 2, "bee": 3}, side=8)
    words = [tmp_path / "simclr", "--out", tmp_path / "out", "--train", train, "--test", test]
    assert command(probe, *words, "--protocol", "full,2-shot,knn@3") == 0  # a run's folder
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert values["data"]["class_names"] == ["ant", "bee", "cat"]
    assert values["data"]["class_counts"] == [9, 6, 5]
    assert values["data"]["test_counts"] == [2, 3, 0]
    assert f"tested on {test}" in values["data"]["recipe"]
    assert values["tracker"] is None  # of other images
    assert values["record"]["checkpoint"] == str(checkpoint.paths[0])
    assert not hasattr(checkpoint.loaded[0].data, "ready")  # the run's data may be gone


def test_data_without_labels_asks_for_some(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(SetUpData, "class_names", [], raising=False)
    monkeypatch.setattr(FakeData, "__init__", lambda self: None)
    with pytest.raises(InputError, match="--labels FILE"):
        command(probe, checkpoint.paths[0], "--out", tmp_path / "out")


def test_a_collection_that_moved(tmp_path):
    data = types.SimpleNamespace(roots=["old"])
    probe._move(data, str(tmp_path))
    assert data.roots == [str(tmp_path)]
    with pytest.raises(InputError, match="no folder that could move"):
        probe._move(types.SimpleNamespace(roots=["a", "b"]), str(tmp_path))


@pytest.mark.slow
def test_values_to_choose_from(checkpoint, tmp_path):
    out = tmp_path / "out"
    words = ["--protocol", "full,full:ridge,full:sgd,10-shot", "--l2", "1e-3,0.1", "--epochs", "3"]
    command(probe, checkpoint.paths[0], "--out", out, *words, "--learning-rates", "0.1,30")
    entries = json.loads((out / "report.json").read_text())["protocols"]
    chosen = {entry["name"]: entry["draws"][0]["chosen"] for entry in entries}
    assert chosen["full"]["l2"] in (0.001, 0.1)
    assert chosen["full:sgd"]["learning_rate"] in (0.1, 30)
    for name, values in {
        "full": (1e-3, 0.1),
        "full:ridge": (1e-3, 0.1),
        "full:sgd": (0.1, 30),
    }.items():
        tried = {one["value"]: one["validation_accuracy"] for one in chosen[name]["tried"]}
        assert sorted(tried) == pytest.approx(sorted(values))
        assert chosen[name]["choice"] == "validation part"
        best = max(tried.values())
        assert chosen[name]["validation_accuracy"] == pytest.approx(best, abs=1e-6)
    page = tmp_path / "page.html"
    command(report, out, "--out", page)
    text = page.read_text()
    assert text.count("chosen on the validation part") == 4
    assert "0.001 " in text
    single = tmp_path / "single"
    command(probe, checkpoint.paths[0], "--out", single, "--protocol", "full", "--l2", "0.5")
    entry = json.loads((single / "report.json").read_text())["protocols"][0]
    assert entry["draws"][0]["chosen"]["choice"] == "given"
    assert entry["draws"][0]["chosen"]["l2"] == 0.5


@pytest.mark.slow
def test_existing_results_are_kept(checkpoint, tmp_path):
    out = tmp_path / "out"
    words = [checkpoint.paths[0], "--protocol", "full", "--out", out]
    command(probe, *words)
    with pytest.raises(InputError, match="holds a report"):
        command(probe, *words)
    command(probe, *words, "--overwrite")
    page = tmp_path / "page.html"
    command(report, out, "--out", page)
    with pytest.raises(InputError, match="exists; name another file, or pass --overwrite"):
        command(report, out, "--out", page)


@pytest.mark.slow
def test_baseline_by_name(checkpoint, tmp_path):
    out = tmp_path / "out"
    command(probe, *checkpoint.paths, "--protocol", "full", "--out", out)
    values = json.loads((out / "simclr-last" / "report.json").read_text())
    name = values["record"]["name"]
    page = tmp_path / "page.html"
    with pytest.raises(InputError, match="unknown run 'simcl'"):
        command(report, out, "--out", page, "--baseline", "simcl")
    command(report, out, "--out", page, "--baseline", name)
    assert page.is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "ful"], "did you mean 'full'"),
        (["--batch-size", "0"], "batch_size must be"),
        (["--epochs", "0"], "epochs must be"),
        (["--l2", "0.1;1"], "--l2 takes positive numbers"),
        (["--l2", "0.1,-1"], "--l2 takes positive"),
        (["--l2", "0.1,nan"], "--l2 takes positive"),
        (["--learning-rates", "0.1"], "--learning-rates is for the solvers adam, sgd, moco, cacr"),
        (["--l2", "0.1", "--protocol", "knn"], "--l2 is for the solvers lbfgs, ridge"),
        (["--earlier", "missing.ckpt"], "no checkpoint at missing.ckpt"),
        (["--train", "a", "--labels", "b.csv"], "both give training labels"),
        (["--test", "a"], "--test goes with"),
        (["--train", "a", "--protocol", "full,long-tailed"], "'long-tailed'"),
        (["--train", "no/such/folder"], "does not exist"),
        (["--data.root", "no/such/folder"], "nothing at no/such/folder"),
        (["--layer", "blocks"], "unknown layer 'blocks'"),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used here"),
    ],
)
def test_bad_probe_options(checkpoint, tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        command(probe, checkpoint.paths[0], "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out" / "report.json").exists()


def test_checkpoint_without_encoder(checkpoint, tmp_path):
    path = tmp_path / "linear.ckpt"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="Linear has no encoder"):
        command(probe, path, "--out", tmp_path / "out")


def test_missing_things(checkpoint, tmp_path):
    with pytest.raises(InputError, match="no checkpoint at"):
        command(probe, tmp_path / "none.ckpt", "--out", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        command(probe, checkpoint.paths[0], "--out", tmp_path / "file")
    with pytest.raises(InputError, match="cannot write"):
        command(probe, checkpoint.paths[0], "--out", tmp_path / "file" / "out")
    with pytest.raises(InputError, match="no report in"):
        command(report, tmp_path / "simclr", "--out", tmp_path / "page.html")
    words = [*checkpoint.paths, "--earlier", checkpoint.paths[0], "--out", tmp_path / "out"]
    with pytest.raises(InputError, match="probe its checkpoint alone"):
        command(probe, *words)


def test_cache_that_is_a_file_is_refused_first(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    words = ["probe", str(file), "--out", str(tmp_path / "out"), "--cache", str(file)]
    assert main(words) == 2
    assert "--cache" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bad_checkpoint_leaves_no_folder(tmp_path, capsys):
    file = tmp_path / "last.ckpt"
    file.write_bytes(b"no checkpoint")
    assert main(["probe", str(file), "--out", str(tmp_path / "new" / "out")]) == 2
    assert "checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
