"""`bcl report`."""

import copy
import functools
import json
import operator

import pytest
from fakes import QUICK, FakeData, encode
from probe_reports import recorded
from refusals import refused

import bcl
from bcl.cli import main
from bcl.core.errors import InputError
from bcl.evaluation import ProbeReport
from bcl.report import render_report


@pytest.mark.slow
def test_a_comparison_never_replaces_results(tmp_path, capsys):
    report = bcl.evaluate(encode, FakeData(), "full", QUICK)
    path = report.save(tmp_path)
    before = path.read_text()
    words = ["report", str(tmp_path), "--out", str(tmp_path / "report.html"), "--overwrite"]
    assert main([*words, "--formats", "json"]) == 2
    assert "comparison" in capsys.readouterr().err
    with pytest.raises(InputError, match="never replace"):
        render_report(report, tmp_path / "report.html", formats=["json"])
    assert path.read_text() == before
    assert not (tmp_path / "report.html").exists()
    assert main(words) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a probe writes, as values."""
    folder = tmp_path_factory.mktemp("whole")
    return json.loads(recorded("one", 0, 0.3).save(folder).read_text())


@pytest.fixture
def undrawn(monkeypatch):
    """Charts without their drawing, which takes most of the time."""
    monkeypatch.setattr(
        "vl_convert.vegalite_to_svg", lambda spec: f"<svg>{len(json.dumps(spec))}</svg>"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("record", []),
        ("record evaluation_seconds", [None]),
        ("data class_counts", [10**30] * 6),
        ("data num_classes", "9" * 5000),
        ("groups thirds many", [10**30]),
        ("protocols 0 summary thirds", -1),
        ("protocols 0 summary thirds many", 10**9),
        ("protocols 0 draws", {}),
        ("tracker samples", None),
        ("tracker by_class 5", {}),
        ("tracker signals loss", True),
        ("images 0 label", {"a": 1}),
        ("images 0 file", {}),
        ("images", [[]] * 3),
    ],
)
def test_an_edited_report_is_one_line(place, value, whole, undrawn, tmp_path, capsys):
    values = copy.deepcopy(whole)
    *path, last = [int(word) if word.isdigit() else word for word in place.split()]
    functools.reduce(operator.getitem, path, values)[last] = value
    (tmp_path / "report.json").write_text(json.dumps(values))
    told = refused(["report", str(tmp_path), "--out", str(tmp_path / "a.html")], capsys)
    assert str(tmp_path / "report.json") in told
    assert "bcl probe" in told
    assert not (tmp_path / "a.html").exists()


def test_a_report_that_is_nested_without_end_is_one_line(tmp_path, capsys):
    (tmp_path / "report.json").write_text('{"schema": ' + "[" * 100_000 + "]" * 100_000 + "}")
    told = refused(["report", str(tmp_path), "--out", str(tmp_path / "a.html")], capsys)
    assert "not a probe report" in told


@pytest.mark.slow
def test_names_that_are_not_of_any_encoding_are_on_the_page(undrawn, tmp_path):
    """Folders are named in bytes; a page and a table cannot hold those that are no text."""
    report = recorded("one", 0, 0.3)
    report.data["class_names"][0] = "\udcff"
    folder = report.save(tmp_path).parent
    assert ProbeReport.load(folder).data["class_names"][0] == "\udcff"
    words = [
        "report",
        str(folder),
        "--out",
        str(tmp_path / "a.html"),
        "--formats",
        "md,tex,csv,json",
    ]
    assert main(words) == 0
    assert "\\udcff" in (tmp_path / "a.html").read_text("utf-8")
