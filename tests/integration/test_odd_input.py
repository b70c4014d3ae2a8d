"""What a hostile tester found, each now one clear error or a number that is right."""

import json
import os
import stat
import struct

import numpy as np
import pytest
import torch
from folders import make_folder, module
from probe_reports import recorded
from small_runs import fit, method

from bcl import InputError, TrackerHistory, contrastive_signals, nt_xent, shot_groups
from bcl.cli.configuration import find_config
from bcl.cli.histogram import histogram_text
from bcl.cli.output import new_folder
from bcl.evaluation.knn import knn_predict
from bcl.models import create_encoder, load_encoder
from bcl.models.exported import save_encoder
from bcl.report.tables import Table, markdown_table
from bcl.training.checkpoints import Checkpoints
from datamodules import ImageListLT
from datamodules.images import files as image_files
from datamodules.tail.splits import load_split


@pytest.mark.parametrize("counts", [None, {"a": 1}, {1, 2, 3}, "abc", [[1, 2], [3]], [None]])
def test_counts_that_are_none(counts):
    with pytest.raises(InputError, match="one row of counts"):
        shot_groups(counts)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"num_classes": 1}, "classes are 0 to 0"), ({"ks": (0,)}, "k must"),
     ({"metric": "cos"}, "metric"), ({"train_labels": torch.zeros(3)}, "one label per feature"),
     ({"train_labels": torch.tensor([-1, 0, 1, 2])}, r"\[-1, 2\]")],
)  # fmt: skip
def test_neighbors_of_odd_labels(change, word):
    good = {"train_labels": torch.arange(4), "ks": (1,)}
    given = good | change
    with pytest.raises(InputError, match=word):
        knn_predict(torch.eye(4), given.pop("train_labels"), torch.eye(4), given.pop("ks"), **given)


def test_a_histogram_of_nothing():
    assert histogram_text([]) == "no classes"
    assert "\\x1b" in histogram_text([3], ["a\x1b[2J"])


def test_a_history_that_is_an_archive(tmp_path):
    with (tmp_path / "epoch000000.npy").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(InputError, match="complete"):
        TrackerHistory(tmp_path)


@pytest.mark.parametrize("shape", ["99999999999999999999,", "1" * 30 + ",", "-5,"])
def test_an_array_of_an_impossible_shape(tmp_path, shape):
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({shape}), }}".ljust(117) + "\n"
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    (tmp_path / "a.npy").write_bytes(raw)
    (tmp_path / "epoch000000.npy").write_bytes(raw)
    with pytest.raises(InputError):
        load_split(tmp_path / "a.npy")
    with pytest.raises(InputError):
        TrackerHistory(tmp_path)


def test_a_list_with_a_nul(tmp_path):
    (tmp_path / "train.txt").write_text("a\0.png 0\n")
    with pytest.raises(InputError, match="NUL"):
        ImageListLT(str(tmp_path), "train.txt").setup()


@pytest.mark.parametrize("depth", [9, 40])
def test_aliases_that_stand_for_too_much(tmp_path, depth):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match="more than 100,000"):
        find_config(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text("a: " + "[" * 3000 + "]" * 3000)
    with pytest.raises(InputError):
        find_config(str(tmp_path / "b.yaml"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", None), ("name", 3), ("width", -4), ("width", "x"), ("features_only", True),
     ("in_channels", -1), ("mean", 5), ("std", [0, 0, 0]),
     ("mean", [0.5]), ("std", ["x", 1, 1]), ("mean", [float("nan")] * 3), ("std", None)],
)  # fmt: skip
def test_an_export_of_odd_values(tmp_path, key, value):
    save_encoder(create_encoder("resnet8", 16, width=4), tmp_path, [0.5] * 3, [0.5] * 3)
    config = json.loads((tmp_path / "config.json").read_text())
    where = config["bcl"] if key in ("mean", "std") else config["bcl"]["encoder"]
    where[key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError):
        load_encoder(tmp_path)


def test_a_folder_follows_the_umask(tmp_path):
    former = os.umask(0o077)
    try:
        with new_folder(tmp_path / "out"):
            pass
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700


@pytest.mark.slow
def test_statistics_that_are_not_finite_are_not_saved(tmp_path):
    model = method()
    next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)).momentum = None
    model.encoder.layers[1].register_buffer("odd", torch.tensor(float("inf")))
    with pytest.raises(InputError, match=r"not finite \(first: 'encoder\.layers\.1\.odd'\)"):
        fit(model, Checkpoints(tmp_path), enable_checkpointing=True, max_epochs=1)
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize("kinds", [(torch.float16, torch.bfloat16), (torch.float64,) * 2])
def test_rows_of_two_halves_under_autocast(kinds):
    z = [torch.randn(6, 4).to(kind) for kind in kinds]
    wanted = nt_xent(z[0].double(), z[1].double())
    for reduced in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", reduced):
            found = nt_xent(*z)
            contrastive_signals(*z, num_neighbors=2)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


def test_markup_in_a_markdown_table():
    table = Table(["Run"], [["<img src=x onerror=alert(1)>|a\x1b[2J"]])
    assert "<img" not in table.markdown()
    assert "\\|" in table.markdown()
    assert "\x1b" not in table.text() + table.markdown()
    report = recorded("one", 0, 0.1)
    report.protocols[0].name += "<script>"
    report.protocols[0].description += "<script>"
    assert "<script>" not in markdown_table([report])


def test_memory_that_is_missing_is_said(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "set", {"ant": 20, "bee": 20})

    def short(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(image_files, "decode", short)
        with pytest.raises(InputError, match="not enough memory"):
            module(folder, cache_dir=str(tmp_path)).setup()
    module(folder, cache_dir=str(tmp_path)).setup()  # nothing of it is remembered


def test_a_cache_that_is_cut_in_use(tmp_path):
    data = module(make_folder(tmp_path / "set", {"ant": 40, "bee": 40}), cache_dir=str(tmp_path))
    data.setup()
    (path,) = tmp_path.rglob("*.u8")
    os.truncate(path, 100)
    with pytest.raises(InputError, match="cut short"):
        data.train_set().images(torch.arange(4))
