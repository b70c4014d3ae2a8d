"""A stranger's file runs no code, whichever loader reads it; what is wrong is one clear error."""

import ast
import json
import re

import hostile
import pytest
from places import ROOT
from probe_reports import by_hand

from bcl import InputError, TrackerHistory, load_encoder
from bcl.cli import main
from bcl.discovery.table import read_table
from bcl.evaluation import ProbeReport
from bcl.evaluation.features import _read as read_features
from bcl.models.weights import open_weights
from bcl.training.checkpoints import load_run
from datamodules import HuggingFaceLT, ImageCollection
from datamodules.tail.splits import load_split


def fit_from(path):
    words = ["fit", "--config", "digits_lt/simclr", "--ckpt_path", str(path)]
    assert main([*words, "--trainer.default_root_dir", str(path.parent / "run")]) == 2
    raise InputError("said")


def command(*words):
    def call(path):
        assert main([*words[:1], str(path), *words[1:], "--out", str(path.parent / "out")]) == 2
        raise InputError("said")

    return call


def report_with(path):
    """A whole report but for one of its files."""
    content = path.read_bytes()
    by_hand("run", 0, [0.5] * 6).save(path.parent)
    path.write_bytes(content)
    ProbeReport.load(path.parent)


def report_with_a_sample(path):
    report_with(path)


# By loader: the name under which it reads a file.
LOADERS = {
    load_run: "last.ckpt",
    fit_from: "last.ckpt",
    open_weights: "weights.pth",
    command("probe"): "last.ckpt",
    command("export"): "last.ckpt",
    command("import"): "model.pt",
    load_encoder: "model.safetensors",
    lambda path: open_weights(path.with_suffix(".safetensors")): "model.safetensors",
    TrackerHistory: "epoch000001.npy",
    load_split: "split.npy",
    read_table: "embedding.npz",
    report_with: "predictions.pt",
    report_with_a_sample: "sample.pt",
}
FOLDERS = (load_encoder, TrackerHistory)
ENCODER = {"bcl": {"encoder": {"name": "resnet8"}, "mean": [0.5] * 3, "std": [0.5] * 3}}


@pytest.mark.parametrize("kind", hostile.FORMATS)
@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: LOADERS[loader])
def test_nothing_is_unpickled(loader, kind, tmp_path, capsys):
    marker, path = tmp_path / "ran", tmp_path / LOADERS[loader]
    path.write_bytes(hostile.FORMATS[kind](marker))
    (tmp_path / "config.json").write_text(json.dumps(ENCODER))
    with pytest.raises(InputError):
        loader(tmp_path if loader in FOLDERS else path)
    assert not marker.exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", hostile.FORMATS)
def test_a_cache_is_made_again(kind, tmp_path):
    path = tmp_path / "features.pt"
    path.write_bytes(hostile.FORMATS[kind](tmp_path / "ran"))
    assert read_features(path, 3) is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", hostile.DATASETS)
def test_data_sets_run_no_code(kind, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hub"))
    folder, marker = tmp_path / "stranger", tmp_path / "ran"
    hostile.dataset(folder, kind, marker)
    options = {"imbalance_factor": None, "cache_dir": str(tmp_path), "workers": 0}
    for data in (
        HuggingFaceLT(str(folder), test_split=None, **options),
        HuggingFaceLT(str(folder), label_column=None, **options),
        ImageCollection(str(folder), cache_dir=str(tmp_path), workers=0),
    ):
        with pytest.raises(InputError):
            data.setup()
    assert not marker.exists()


# --- in the source itself -------------------------------------------------------------------------

SAFE = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}
SAFE |= {"numpy.load": "allow_pickle=False", "np.lib.format.read_array": "allow_pickle=False"}
# What runs or unpickles whatever it is given.
UNSAFE = r"(pickle|dill|joblib|shelve|marshal|cloudpickle)\.\w*loads?$|.*\.(read_pickle|full_load)$"
UNSAFE += (
    r"|(exec|eval|__import__)$|yaml\.(load|unsafe_load)$|os\.(system|popen)$|torch\.jit\.load$"
)


def unsafe_calls(text):
    """Calls that could run code of a file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords}
            if re.match(UNSAFE, name) or (name in SAFE and SAFE[name] not in given):
                yield f"{name}, line {node.lineno}"


def test_no_loader_of_ours_unpickles():
    paths = [p for name in ("bcl", "cacr", "datamodules") for p in (ROOT / name).rglob("*.py")]
    assert len(paths) > 100
    texts = {path: path.read_text("utf-8") for path in paths}
    assert {path: found for path, text in texts.items() if (found := [*unsafe_calls(text)])} == {}


@pytest.mark.parametrize(
    "text",
    ["torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)", "pickle.loads(b)",
     "pd.read_pickle(p)", "eval(t)", "yaml.load(t, yaml.Loader)", "torch.jit.load(p)"],
)  # fmt: skip
def test_the_search_finds(text):
    assert len(list(unsafe_calls(text))) == 1
