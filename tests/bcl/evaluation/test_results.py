"""Reports on disk: what is saved is loaded, what was cut short or edited is refused."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FakeData, encode

import bcl
from bcl.core.errors import InputError
from bcl.evaluation import EvaluationOptions, ProbeOptions, ProbeReport


@pytest.fixture(scope="module")
def report():
    tracker = bcl.MemorizationTracker(128)
    tracker.update(torch.arange(128), torch.linspace(1, 2, 128))
    tracker.refresh()
    record = {"name": "two\nlines |", "history": [{"epoch": 0, "loss": 5.0}]}
    return bcl.evaluate(encode, FakeData(), "full,knn", tracker=tracker, record=record)


def test_a_report_that_cannot_be_saved_leaves_the_older_one(report, tmp_path, monkeypatch):
    report.save(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    new = bcl.evaluate(lambda x: -encode(x), FakeData(), "full,knn", record={"name": "new"})

    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("bcl.evaluation.results.write_text", full)
    with pytest.raises(InputError, match="No space left"):
        new.save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_saves_and_loads(report, tmp_path):
    path = report.save(tmp_path / "a")
    values = json.loads(path.read_text())
    assert values["schema_version"] == 2
    again = ProbeReport.load(tmp_path / "a")
    assert again.to_dict() == report.to_dict()
    assert again.predictions["full"].equal(report.predictions["full"])
    assert [image.content for image in again.images] == [image.content for image in report.images]
    assert again.folder == tmp_path / "a"
    for name, tensor in again.sample.tensors().items():
        assert tensor.equal(report.sample.tensors()[name]), name


ODD = [
    "",
    "a\nb",
    '"\\\u2028</script>',
    "\udcff.png",
    "甲虫",
    "\x00\x1b[2J",
    "NaN",
    "null",
    "1e999",
]
NUMBERS = [math.inf, -math.inf, math.nan, 1e308, -1e308, 5e-324, 0.0, 2**63, 10**40, True, None]


def test_odd_values_come_back_equal(report, tmp_path):
    """NaN is null on disk, as what is not finite."""
    names = {name: [dict(zip(ODD, NUMBERS, strict=False)), NUMBERS, []] for name in ODD}
    report = copy.deepcopy(report)
    report.record |= {"config": names, "history": [names], "name": "\udcff", "notes": ODD}
    report.data |= {"class_names": [f"{name} {i}" for i, name in enumerate(ODD[:6])], "notes": ODD}
    report.record["numpy"] = [np.float32(0.5), np.int64(3), np.arange(2), torch.ones(2)]
    again = ProbeReport.load(report.save(tmp_path))
    assert again.to_dict() == report.to_dict()
    assert again.data["class_names"] == report.data["class_names"]
    assert again.record["notes"] == ODD
    assert again.record["config"][ODD[3]][1][3:] == [1e308, -1e308, 5e-324, *NUMBERS[6:]]
    assert again.record["config"][ODD[3]][1][:3] == [None] * 3
    assert again.record["numpy"] == [0.5, 3, [0, 1], [1.0, 1.0]]
    second = ProbeReport.load(again.save(tmp_path / "second"))
    assert second.to_dict() == report.to_dict()


def test_a_strangers_report_names_no_file_outside_its_folder(report, tmp_path):
    path = report.save(tmp_path / "in")
    values = json.loads(path.read_text())
    values["images"] = values["images"][:2]
    values["images"][0]["file"], values["images"][1]["file"] = "../../../a.webp", "/a.webp"
    path.write_text(json.dumps(values))
    ProbeReport.load(path).save(tmp_path / "out" / "of")
    written = {file.relative_to(tmp_path).parts[0] for file in tmp_path.rglob("a.webp")}
    assert written == {"out"}
    assert [file.parent.name for file in tmp_path.rglob("a.webp")] == ["images"]


def test_names_stay_on_one_line(report):
    assert report.name == "two lines |"


def test_a_protocol_that_is_not_there_names_the_others(report):
    with pytest.raises(InputError, match="full, knn@1"):
        report.protocol("10-shot")


@pytest.mark.parametrize(
    "change",
    [
        {"record": None},
        {"groups": {}},
        {"protocols": []},
        {"protocols": [1]},
        {"images": [{"id": 1}]},
        {"images": ["text"]},
        {"data": {}},
        {"protocols": [{"name": "full", "kind": "linear"}]},
    ],
)
def test_edited_reports_are_refused_in_one_line(report, change, tmp_path):
    path = report.save(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match="cut short or edited"):
        ProbeReport.load(tmp_path)


@pytest.mark.parametrize("content", [torch.zeros(3), {"labels": torch.zeros(3)}])
def test_predictions_of_another_report_are_refused(report, content, tmp_path):
    report.save(tmp_path)
    torch.save(content, tmp_path / "predictions.pt")
    with pytest.raises(InputError, match="does not belong to"):
        ProbeReport.load(tmp_path)


@pytest.mark.slow
def test_small_numbers_survive_saving(tmp_path):
    report = bcl.evaluate(
        encode, FakeData(), "full", EvaluationOptions(probe=ProbeOptions(l2=3e-7)),
        record={"name": "small", "config": {"weight_decay": 1.5e-8}},
    )  # fmt: skip
    gap = report.protocols[0].draws[0].chosen["gap"]
    report.save(tmp_path)
    again = ProbeReport.load(tmp_path)
    chosen = again.protocols[0].draws[0].chosen
    assert chosen["l2"] == 3e-7
    assert chosen["gap"] == pytest.approx(gap, rel=1e-4)
    assert again.record["config"]["weight_decay"] == 1.5e-8


@pytest.mark.parametrize(
    "change",
    [
        None,  # no tensors at all
        {"ids": torch.arange(3)},
        {"labels": torch.full((128,), 6)},
        {"scores": torch.zeros(1)},
        {"sizes": torch.zeros(0)},
    ],
)
def test_a_damaged_sample_is_named(report, change, tmp_path):
    report.save(tmp_path)
    file = tmp_path / "sample.pt"
    if change is None:
        file.write_bytes(b"short")
    else:
        torch.save({**torch.load(file, weights_only=True), **change}, file)
    with pytest.raises(InputError, match=r"sample\.pt is damaged"):
        ProbeReport.load(tmp_path)
    file.unlink()
    assert ProbeReport.load(tmp_path).sample is None


def test_what_an_older_report_kept_does_not_stay(report, tmp_path):
    report.save(tmp_path)
    replace(report, sample=None, predictions={}).save(tmp_path)
    again = ProbeReport.load(tmp_path)
    assert again.sample is None
    assert again.predictions == {}
