"""The chart of differences: what is drawn, filled and said."""

import re

from probe_reports import by_hand

from bcl.report.charts import COLORS
from bcl.report.compare import compare, methods
from bcl.report.effects import effect_charts

FLAT = [0.5] * 6


def charts(*reports):
    return effect_charts(compare(reports), methods(reports))


def tips(svg):
    return [tip.split("\t") for tip in re.findall(r'data-tip="([^"]*)"', svg)]


def filled(svg):
    """The fill of each mark."""
    return re.findall(r'<path[^>]*data-tip[^>]*fill="([^"]*)"', svg)


def test_a_mark_per_group_with_its_interval():
    (chart,) = charts(by_hand("base", 0, FLAT), by_hand("a<b", 0, [0.6, 0.5, 0.5, 0.5, 0.5, 0.5]))
    assert chart["name"] == "full"
    shown = tips(chart["svg"])
    assert [row[:2] for row in shown] == [
        ["a&lt;b", group] for group in ("All", "Many", "Medium", "Few")
    ]
    assert shown[1][2] == "5"
    assert float(shown[1][3]) < 5 < float(shown[1][4])
    assert 'data-columns="run\tgroup\tpoints over base\tlow\thigh\tp"' in chart["svg"]
    assert set(filled(chart["svg"])) == {"#fff"}  # one seed: nothing is established
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", chart["svg"])
    assert [each for each in labels if each.isalpha()] == ["All", "Many", "Medium", "Few"]


def test_established_differences_are_filled():
    base = [by_hand("base", s, [x] * 6) for s, x in enumerate((0.5, 0.55, 0.45))]
    other = [
        by_hand("other", s, [x] * 4 + [y] * 2)
        for s, (x, y) in enumerate(((0.5, 0.7), (0.55, 0.76), (0.45, 0.64)))
    ]
    (chart,) = charts(*base, *other)
    values = {row[1]: row[2] for row in tips(chart["svg"])}
    assert values["Many"] == "0"
    fills = dict(zip((row[1] for row in tips(chart["svg"])), filled(chart["svg"]), strict=True))
    assert fills == {"All": COLORS[1], "Many": "#fff", "Medium": "#fff", "Few": COLORS[1]}


def test_protocols_share_a_scale():
    names = ("full", "knn@1")
    found = charts(by_hand("base", 0, FLAT, names), by_hand("other", 0, [0.9] * 6, names))
    assert [each["name"] for each in found] == list(names)
    assert found[0]["svg"].split(">", 3)[3] == found[1]["svg"].split(">", 3)[3]


def test_a_single_run_shows_accuracies():
    (chart,) = charts(by_hand("only", 0, FLAT))
    assert "accuracy, %" in chart["svg"]
    assert all(float(row[3]) < 50 < float(row[4]) for row in tips(chart["svg"]))
    assert set(filled(chart["svg"])) == {COLORS[0]}


def test_no_common_protocol_has_no_chart():
    assert charts(by_hand("a", 0, FLAT), by_hand("b", 0, FLAT, ["knn@1"])) == []
