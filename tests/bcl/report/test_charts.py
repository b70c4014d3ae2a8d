"""Charts: what is drawn, labeled and escaped."""

import re
import sys

import numpy as np
import pytest
from probe_reports import recorded

from bcl.core.errors import InputError
from bcl.report import charts
from bcl.report.compare import methods


@pytest.fixture(scope="module")
def together():
    return methods([recorded("base", 0, 0.3), recorded("<better>", 0, 0.1)])


def tips(svg):
    return [tip.split("\t") for tip in re.findall(r'data-tip="([^"]*)"', svg)]


def classes(svg):
    return re.findall(r'class="mark-(\w+) role-mark (\w+?)x\d+_marks"', svg)


@pytest.mark.slow
def test_a_mark_per_class_and_run_with_its_values(together):
    svg = charts.accuracy_over_frequency(together, "full")
    accuracy = together[1].per_class("full")
    counts = (60, 30, 20, 10, 5, 3)
    assert tips(svg)[6:] == [
        ["&lt;better&gt;", f"class &lt;{c}&gt;", f"{counts[c]}", f"{100 * accuracy[c]:.1f}"]
        for c in range(6)
    ]
    assert 'data-columns="run\tclass\ttraining images\taccuracy, %"' in svg
    assert [each for each in classes(svg) if each[0] == "symbol"] == [
        ("symbol", "run0"), ("symbol", "run1")
    ]  # fmt: skip
    assert svg.count("#0b61a4") >= 7
    assert "<better>" not in svg


@pytest.mark.slow
def test_gains_are_signed(together):
    svg = charts.gain_over_baseline(together, "full")
    assert all(re.fullmatch(r"[+-]\d+\.\d", tip[-1]) for tip in tips(svg))
    assert ("rule", "all") in classes(svg)  # the level of no gain
    assert charts.gain_over_baseline(together[:1], "full") == ""


def test_few_shot_curve_has_a_stem_where_there_are_draws(together):
    svg = charts.few_shot_curve(together)
    assert len(tips(svg)) == 4
    assert charts.solver_lines(together) == "lbfgs"
    assert {kind for kind, _ in classes(svg)} == {"line", "rule", "symbol"}


def test_history_of_each_run_is_a_line(together):
    svg = charts.history_curve(together, "loss", "Loss", "mean loss")
    assert classes(svg) == [("line", "run0"), ("line", "run1")]
    assert charts.history_curve(together, "missing", "x", "y") == ""
    values = re.search(r'data-values="([^"]*)"', svg)[1].split("\n")
    assert len(values) == 2 * 4
    assert values[5].split("\t") == ["&lt;better&gt;", "0", "1", "2.75"]
    names = [each["name"] for each in charts.online_curves(together)]
    assert names == [
        "Online knn, All",
        "Online linear, All",
        "Online linear, Few",
        "Online linear, strange",
    ]


def test_long_histories_are_thinned(together):
    (method,) = methods([recorded("long", 0, 0.1)])
    method.first.record["history"] = [{"epoch": e, "loss": 1 / (e + 1)} for e in range(1000)]
    svg = charts.history_curve([method], "loss", "Loss", "mean loss")
    epochs = [row.split("\t")[2] for row in re.search(r'-values="([^"]*)"', svg)[1].split("\n")]
    assert epochs == [str(epoch) for epoch in range(0, 1000, 4)]


def labels(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_axes_of_short_and_flat_histories_are_right(together):
    flat = labels(charts.history_curve(together, "score_mean", "Scores", "mean score"))
    assert {"0.46", "0.50", "0.54"} <= set(flat)
    assert "1" in flat  # an epoch
    short = labels(charts.history_curve(together, "online_knn/all", "knn", "accuracy"))
    assert [each for each in short if each][:4] == ["1", "2", "3", "epoch"]


def test_measures_of_the_features_are_curves_over_the_epochs_that_have_them(together):
    drawn = {each["name"]: each["svg"] for each in charts.feature_curves(together)}
    assert list(drawn) == ["Effective rank (RankMe)", "Neighbors kept"]
    assert {"4.0", "6.0"} <= set(labels(drawn["Effective rank (RankMe)"]))
    assert {"40", "60"} <= set(labels(drawn["Neighbors kept"]))  # per cent
    assert all(classes(svg) == [("line", "run0"), ("line", "run1")] for svg in drawn.values())


@pytest.mark.slow
def test_scores_over_training_or_at_the_end(together):
    assert "over training" in charts.score_histogram(together[0])
    (method,) = methods([recorded("short", 0, 0.1)])
    method.first.record["history"] = []
    svg = charts.score_histogram(method)
    assert "at the end of training" in svg
    assert len(tips(svg)) == 20
    assert len(tips(charts.momentum_loss(method))) == 6


def test_every_chart_says_what_it_shows(together):
    svg = charts.class_histogram([5, 0], "a < b", ["x&y", "z"])
    assert svg.startswith("<svg xmlns=")
    assert 'role="img" aria-label="a &lt; b: images per class' in svg
    assert "<title>a &lt; b</title><desc>images per class" in svg
    assert "<title>x&amp;y: 5</title>" in svg  # a file of its own has no script to show a tip
    assert "<title>z: 0</title>" in svg
    assert not re.search(r"href|url\(|<script|\bid=", svg)


def test_smoothing_is_local_and_linear():
    x = [1, 2, 4, 8, 16]
    line = charts.smooth(x, [3.0, 5.0, 7.0, 9.0, 11.0])
    assert np.allclose([p["y"] for p in line], 3 + 2 * np.log2([p["x"] for p in line]))
    assert charts.smooth([1, 1, 2], [0, 1, 2]) == []
    many = [2 ** (place / 8) for place in range(40)]
    bump = charts.smooth(many, [float(8 < place < 24) for place in range(40)])
    assert max(bump, key=lambda point: point["y"])["x"] == pytest.approx(4, rel=0.1)


def test_few_classes_have_a_straight_line():
    x, y = [1, 2, 4, 8, 16], [0.0, 0.0, 5.0, 0.0, 1.0]
    slope, height = np.polyfit(np.log(x), y, 1)
    line = charts.smooth(x, y)
    assert np.allclose([p["y"] for p in line], height + slope * np.log([p["x"] for p in line]))


def test_numbers_in_names_stay_as_they_are():
    svg = charts.class_histogram([5], "a", ["1.23456"])
    assert "<title>1.23456: 5</title>" in svg


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(InputError, match=r"bcl-cacr\[report\]"):
        charts.class_histogram([1], "a")
