"""`bcl report`."""

import pytest
from fakes import QUICK, FakeData, encode

import bcl
from bcl.cli import main
from bcl.core.errors import InputError
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
