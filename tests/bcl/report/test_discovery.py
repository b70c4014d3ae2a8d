"""The panel on the tail: words, rows by signal, the chart by epoch."""

from types import SimpleNamespace

import pytest

from bcl.report import discovery
from bcl.report.compare import Method


@pytest.mark.parametrize(
    ("auc", "words"),
    [
        ((0.7, 0.6, 0.8), "yes"),
        ((0.4, 0.3, 0.49), "no: the head"),
        ((0.6, 0.4, 0.8), "not shown"),
    ],
)
def test_the_tail_is_found_where_the_interval_says_so(auc, words):
    assert words in discovery.found_tail({"auc": auc})
    assert discovery.found_tail(None) == "not measured"


def method(tracker):
    return Method("A", 0, [SimpleNamespace(tracker=tracker)])


def test_a_report_of_one_tracker_has_one_signal():
    old = {"discovery": {"auc": [0.5, 0.4, 0.6]}, "discovery_note": None}
    assert discovery.signals(old) == {"loss": old}
    assert discovery.by_epoch(method(old)) == ""
    assert discovery.by_epoch(method(None)) == ""


def test_the_chart_has_a_line_per_signal():
    rows = [{"epoch": epoch, "auc": 0.5 + epoch / 10, "phi": 1.0} for epoch in range(3)]
    signals = {name: {"discovery": None, "epochs": rows} for name in ("loss", "isolation")}
    signals["tailness"] = {"discovery": None, "epochs": rows[:1]}  # no line of one point
    svg = discovery.by_epoch(method({"signals": signals}))
    assert "isolation\t2\t0.700" in svg
    assert ">isolation</text>" in svg
    assert "tailness" not in svg
