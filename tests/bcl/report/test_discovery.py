"""The panel on the tail: words, rows by signal, the chart by epoch."""

from types import SimpleNamespace

import pytest

from bcl.report import discovery
from bcl.report.compare import Method


@pytest.mark.parametrize(
    ("auc", "words"),
    [
        ((0.7, 0.6, 0.8), "Yes"),
        ((0.4, 0.3, 0.49), "No"),
        ((0.6, 0.4, 0.8), "Not shown"),
    ],
)
def test_the_tail_is_found_where_the_interval_says_so(auc, words):
    assert discovery.found_tail({"auc": auc}) == words
    assert discovery.found_tail(None) == "Not measured"


def method(*trackers):
    return Method("A", 0, [SimpleNamespace(tracker=tracker) for tracker in trackers])


def signal(auc, name="loss"):
    found = None if auc is None else {"auc": auc}
    return {"signals": {name: {"discovery": found, "discovery_note": "2 samples are too few."}}}


@pytest.mark.parametrize(
    ("aucs", "short", "words"),
    [
        ([(0.7, 0.6, 0.8)], "Yes", "A: its momentum loss is higher for rare classes than for "
            "frequent ones (AUC 0.70 [0.60, 0.80], chance 0.50; one seed)."),
        ([(0.4, 0.3, 0.49)], "No", "A: its momentum loss is higher for frequent classes than for "
            "rare ones (AUC 0.40 [0.30, 0.49], chance 0.50; one seed)."),
        ([(0.6, 0.4, 0.8)], "Not shown", "A: its momentum loss is not shown to tell rare "
            "from frequent classes (AUC 0.60 [0.40, 0.80], chance 0.50; one seed)."),
        ([None], "Not measured", "A: its momentum loss. 2 samples are too few."),
        ([(0.7, 0.6, 0.8), (0.65, 0.55, 0.7)], "Yes", "A: its momentum loss is higher for rare "
            "classes than for frequent ones (AUC 0.65 to 0.70, chance 0.50; yes in 2 of 2 seeds)."),
        ([(0.7, 0.6, 0.8), (0.5, 0.4, 0.6), (0.3, 0.2, 0.4)], "Not shown", "A: its momentum loss "
            "does not give one answer in all seeds (AUC 0.30 to 0.70, chance 0.50; yes in 1, "
            "not shown in 1, no in 1 of 3 seeds)."),
        ([(0.7, 0.6, 0.8), (0.53, 0.4, 0.6)], "Not shown", "A: its momentum loss does not "
            "give one answer in all seeds (AUC 0.53 to 0.70, chance 0.50; yes in 1, "
            "not shown in 1 of 2 seeds)."),
    ],
)  # fmt: skip
def test_the_answer_in_words(aucs, short, words):
    (answer,) = discovery.answers(method(*map(signal, aucs)))
    assert answer == (short, words)


def test_every_signal_has_an_answer():
    both = signal((0.7, 0.6, 0.8)), signal((0.3, 0.2, 0.4), "tailness")
    tracker = {"signals": both[0]["signals"] | both[1]["signals"]}
    answers = discovery.answers(method(both[0], None, tracker))  # one seed has one signal only
    assert [(each.short, each.words.split(" is ")[0]) for each in answers] == [
        ("Yes", "A: its momentum loss"), ("No", "A: its tailness"),
    ]  # fmt: skip


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
