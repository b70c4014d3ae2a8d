"""Seeds together, paired tests, and the tables in every format."""

import csv
import io
import json
import math
import sys
import types

import pytest
import torch
from fakes import FakeData, encode

import bcl
from bcl.core.errors import InputError
from bcl.evaluation import ProbeReport
from bcl.report.compare import compare, difference_notes, methods
from bcl.report.confusion import tail_confusion
from bcl.report.significance import holm, mcnemar, paired_t, student_t_p
from bcl.report.tables import (
    CSV_FIELDS,
    comparison_dict,
    csv_table,
    latex_table,
    markdown_table,
    tex,
    text_table,
)


def noisy(seed, strength):
    def noisy_encode(images):
        generator = torch.Generator().manual_seed(seed)
        x = encode(images)
        return x + strength * torch.randn(x.shape, generator=generator)

    return noisy_encode


@pytest.fixture(scope="module")
def reports():
    data, found = FakeData(), []
    for name, strength in (("weak_one", 0.35), ("strong|one", 0.1)):
        for seed in range(3):
            found.append(
                bcl.evaluate(
                    noisy(seed, strength),
                    data,
                    protocols="full,10-shot",
                    record={"name": name, "seed": seed},
                    measures=False,
                )
            )
    return found


def test_p_values_equal_those_of_scipy():
    from scipy.stats import binomtest, t, ttest_rel

    for statistic, degrees in ((0.0, 1), (2.776, 4), (-1.3, 9), (12.0, 2), (0.4, 200)):
        assert student_t_p(statistic, degrees) == pytest.approx(2 * t.sf(abs(statistic), degrees))
    a, b = [0.50, 0.52, 0.51, 0.49], [0.53, 0.56, 0.53, 0.50]
    assert paired_t(a, b) == pytest.approx(ttest_rel(a, b).pvalue)
    for first, second in ((10, 2), (0, 5), (300, 260), (7, 7)):
        expected = binomtest(min(first, second), first + second).pvalue
        assert mcnemar(first, second) == pytest.approx(expected)
    assert paired_t([0.5], [0.6]) is None
    assert paired_t([0.5, 0.6], [0.5, 0.6]) is None
    assert mcnemar(0, 0) is None
    assert holm([0.04, 0.01, None, 0.03]) == pytest.approx([0.06, 0.03, None, 0.06])


def test_seeds_of_one_name_are_averaged(reports):
    together = methods(reports)
    assert [(m.label, m.seeds) for m in together] == [
        ("weak_one", [0, 1, 2]),
        ("strong|one", [0, 1, 2]),
    ]
    table = compare(reports)[0]
    row = table["rows"][1]
    singles = [r.protocol("full")["summary"]["accuracy"]["mean"] for r in reports[3:]]
    assert row["values"]["all"]["mean"] == pytest.approx(sum(singles) / 3, abs=1e-5)
    assert row["values"]["all"]["gain"] > 0.1
    assert row["values"]["all"]["p"] < 0.05
    assert "3 seeds" in table["test"]
    assert "p" not in table["rows"][0]["values"]["all"]


def test_single_runs_are_tested_over_images(reports):
    table = compare([reports[0], reports[3]])[0]
    assert "McNemar" in table["test"]
    values = table["rows"][1]["values"]
    assert values["all"]["p"] < 0.05
    assert values["many"]["p"] is None


def test_draws_of_single_runs_are_paired(reports):
    table = compare([reports[0], reports[3]])[1]
    assert "5 draws" in table["test"]
    values = table["rows"][1]["values"]
    first, second = (
        [draw["accuracy"] for draw in report.protocol("10-shot")["draws"]]
        for report in (reports[0], reports[3])
    )
    assert values["all"]["p"] == pytest.approx(paired_t(first, second), rel=1e-3)
    assert values["few"]["p"] is not None


def test_a_summary_without_top5_is_a_dash(reports):
    entry = {**reports[0].protocol("full")}
    entry["summary"] = {k: v for k, v in entry["summary"].items() if k != "top5"}
    lacking = ProbeReport(**{**reports[0].__dict__, "protocols": [entry]})
    assert compare([lacking])[0]["rows"][0]["values"]["top5"]["mean"] is None
    assert "–" in markdown_table([lacking])


def test_same_seed_twice_stays_apart(reports):
    labels = [method.label for method in methods([reports[0], reports[0], reports[1]])]
    assert labels == ["weak_one", "weak_one (2)"]


def test_interval_of_a_single_run_is_over_draws(reports):
    few = compare([reports[0]])[1]["rows"][0]
    full = compare([reports[0]])[0]["rows"][0]
    assert few["values"]["all"]["ci95"] > 0
    assert full["values"]["all"]["ci95"] is None
    assert few["draws"] == 5


def test_formats_agree(reports):
    value = compare(reports)[0]["rows"][0]["values"]["all"]["mean"]
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
    assert "\\textbf{" in latex
    assert "% " not in latex.replace("\\%", "")
    rows = list(csv.DictReader(io.StringIO(csv_table(reports))))
    assert tuple(rows[0]) == CSV_FIELDS
    assert len(rows) == 2 * 2 * 7
    first = next(row for row in rows if row["column"] == "all")
    assert float(first["mean"]) == pytest.approx(value, abs=1e-6)
    values = json.loads(json.dumps(comparison_dict(reports), allow_nan=False))
    assert values["schema"] == "bcl-cacr/comparison"
    assert values["schema_version"] == 1
    assert len(values["reports"]) == 6


def test_latex_escapes_its_commands():
    assert tex("50_% & $x^2$ \\ {#}") == (
        "50\\_\\% \\& \\$x\\textasciicircum{}2\\$ \\textbackslash{} \\{\\#\\}"
    )


def test_other_pretraining_images_are_said(reports):
    other = ProbeReport(
        **{
            **reports[3].__dict__,
            "data": {**reports[3].data, "content_hash": "x", "notes": ["one file left out"]},
        }
    )
    notes = difference_notes([reports[0], other])
    assert notes == [
        "Other pretraining images than weak_one: strong|one.",
        "strong|one: one file left out",
    ]


def test_the_same_names_with_other_bytes_are_said(reports):
    """A re-encoded copy of a data set has the same content hash."""
    one, other = (
        ProbeReport(
            **{
                **report.__dict__,
                "data": {
                    **reports[0].data,
                    "images_hash": f"p{place}",
                    "test_images_hash": f"t{place}",
                },
            }
        )
        for place, report in enumerate((reports[0], reports[3]))
    )
    words = "images of the same names hold other bytes"
    notes = [note for note in difference_notes([one, other]) if words in note]
    assert [note.split(" images")[0] for note in notes] == ["The pretraining", "The test"]
    assert not [note for note in difference_notes([one, one]) if words in note]
    # Reports from before the hash was kept say nothing either way.
    del other.data["images_hash"], other.data["test_images_hash"]
    assert not [note for note in difference_notes([one, other]) if words in note]


def test_confusion_of_a_known_case():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    predictions = torch.tensor([[0, 0, 1, 0, 0, 1]])
    groups = {"many": [0], "medium": [1], "few": [2]}
    found = tail_confusion(predictions, labels, groups, [9, 5, 1])
    assert found["groups"][2] == {"group": "few", "right": 0, "many": 0.5, "medium": 0.5, "few": 0}
    assert found["classes"][0]["class"] == 2
    assert found["classes"][0]["taken_for"][0]["share"] == 0.5
    assert found["classes"][2]["taken_for"] == []


def test_wandb_table(reports, monkeypatch):
    from bcl.report.wandb_table import log_table

    logged = {}

    class Table:
        def __init__(self, columns):
            self.columns, self.rows = columns, []

        def add_data(self, *row):
            self.rows.append(row)

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def log(self, values):
            logged.update(values)

    fake = types.SimpleNamespace(Table=Table, init=lambda **_: Run())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log_table(reports, "project")
    assert len(logged["probe"].rows) == 4
    assert len(logged["probe"].rows[0]) == len(logged["probe"].columns)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install"):
        log_table(reports, "project")


def test_nothing_to_compare():
    with pytest.raises(InputError, match="no report"):
        compare([])


def test_empty_groups_are_dashes():
    # With the threshold rule, the made-up set has no class above 100 images.
    report = bcl.evaluate(encode, FakeData(), protocols="full", rule="thresholds", measures=False)
    values = compare([report])[0]["rows"][0]["values"]
    assert values["many"]["mean"] is None
    assert values["std_sample"]["mean"] is None
    assert "–" in text_table([report])
    assert "--" in latex_table([report])
    assert math.isfinite(values["all"]["mean"])
