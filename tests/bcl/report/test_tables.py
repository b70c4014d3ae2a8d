"""Tables: one writer, four formats that say the same."""

import csv
import io
import json
import math
import re

import pytest
from fakes import FakeData, encode
from probe_reports import by_hand, replace, strong_and_weak

import bcl
from bcl.evaluation import EvaluationOptions
from bcl.evaluation.results import Estimate
from bcl.report.compare import compare
from bcl.report.tables import (
    CSV_FIELDS,
    Cell,
    Table,
    comparison_json,
    csv_table,
    latex_table,
    markdown_table,
    tex,
    text_table,
)


@pytest.fixture(scope="module")
def reports():
    return strong_and_weak()


def test_formats_agree(reports):
    value = compare(reports)[0].rows[0].values["all"].mean
    shown = f"{100 * value:.2f}"
    assert shown in text_table(reports)
    markdown = markdown_table(reports)
    assert shown in markdown
    assert "strong\\|one" in markdown
    assert "\\*\\*" in markdown
    latex = latex_table(reports)
    assert shown in latex
    assert "weak\\_one" in latex
    assert latex.count("\\begin{table}") == latex.count("\\end{table}") == 2
    assert "% " not in latex.replace("\\%", "")
    rows = list(csv.DictReader(io.StringIO(csv_table(reports))))
    assert tuple(rows[0]) == CSV_FIELDS
    assert len(rows) == 2 * 2 * 7
    first = next(row for row in rows if row["column"] == "all")
    assert float(first["mean"]) == pytest.approx(value, abs=1e-6)
    values = json.loads(comparison_json(reports), parse_constant=pytest.fail)
    assert values["schema"] == "bcl-cacr/comparison"
    assert values["schema_version"] == 2
    assert len(values["reports"]) == 6


def test_a_single_run_has_wilsons_interval_in_every_format(reports):
    low, high = compare(reports[:1])[0].rows[0].values["few"].wilson
    shown = f"[{100 * low:.1f}, {100 * high:.1f}]"
    for text in (markdown_table(reports[:1]), latex_table(reports[:1])):
        assert shown in text
        assert "one image is 2.5 points" in text
    rows = csv.DictReader(io.StringIO(csv_table(reports[:1])))
    few = next(row for row in rows if row["column"] == "few")
    assert [float(few["low"]), float(few["high"])] == [low, high]
    assert "one image is 2.5 points" in text_table(reports[:1])


def test_a_cell_in_every_format():
    table = Table(["run", "x"], [["a,b", Cell("1.0", "± 0.1", "**", bold=True)]])
    assert table.text().splitlines()[1] == "a,b  1.0 ± 0.1**"
    assert table.markdown().splitlines()[2] == "| a,b | **1.0 ± 0.1\\*\\*** |"
    assert "a,b & \\textbf{1.0} $\\pm$ 0.1$^{**}$ \\\\" in table.latex("")
    assert Table(["run", "x"], [["a,b", "1"]]).csv() == 'run,x\n"a,b",1\n'


def test_only_what_is_established_is_bold(reports):
    assert "\\textbf" not in latex_table([reports[0], reports[3]])  # one seed
    base = [by_hand("base", s, [x] * 6) for s, x in enumerate((0.5, 0.55, 0.45))]
    other = [
        by_hand("other", s, [x] * 4 + [y] * 2)
        for s, (x, y) in enumerate(((0.5, 0.7), (0.55, 0.76), (0.45, 0.64)))
    ]
    _, first, second = re.findall(r"^.* & .*$", latex_table([*base, *other]), re.MULTILINE)
    assert "\\textbf" not in first
    assert [cell.strip().startswith("\\textbf") for cell in second.split("&")[1:5]] == [
        True, False, False, True,
    ]  # fmt: skip
    # The other way round the baseline is the better one.
    _, first, second = re.findall(r"^.* & .*$", latex_table([*other, *base]), re.MULTILINE)
    assert first.count("\\textbf") == 2
    assert "\\textbf" not in second


def test_the_interval_of_a_difference_is_in_the_csv_table(reports):
    rows = list(csv.DictReader(io.StringIO(csv_table(reports))))
    found = next(r for r in rows if r["method"] == "strong|one" and r["column"] == "few")
    low, high = compare(reports)[0].rows[1].values["few"].gain_interval
    assert [found["over"], float(found["gain_low"]), float(found["gain_high"])] == [
        "seeds",
        low,
        high,
    ]
    assert {r["over"] for r in rows if r["method"] == "weak_one"} == {""}


def test_latex_escapes_its_commands():
    assert tex("50_% & $x^2$ \\ {#}") == (
        "50\\_\\% \\& \\$x\\textasciicircum{}2\\$ \\textbackslash{} \\{\\#\\}"
    )


def test_a_summary_without_top5_is_a_dash(reports):
    nothing = Estimate(math.nan, math.nan)
    entry = replace(reports[0].protocol("full"), top5=nothing)
    lacking = replace(reports[0], protocols=[entry])
    assert compare([lacking])[0].rows[0].values["top5"].mean is None
    assert "–" in markdown_table([lacking])


def test_empty_groups_are_dashes():
    # With thresholds, the made-up set has no class above 100 images.
    report = bcl.evaluate(encode, FakeData(), "full", EvaluationOptions(grouping="thresholds"))
    values = compare([report])[0].rows[0].values
    assert values["many"].mean is None
    assert values["std_sample"].mean is None
    assert "–" in text_table([report])
    assert "--" in latex_table([report])
    assert math.isfinite(values["all"].mean)
