"""How a method differs from another: over seeds, over draws, over test images."""

import pytest
import torch
from probe_reports import by_hand, replace
from scipy import stats

from bcl.report.compare import Method, compare
from bcl.report.differences import TESTED, difference
from bcl.report.significance import mcnemar, paired_interval, paired_t

ROWS = ([0.5] * 6, [0.6, 0.5, 0.5, 0.5, 0.4, 0.45], [0.55] * 6)
BETTER = ([0.6] * 6, [0.7, 0.5, 0.65, 0.5, 0.4, 0.6], [0.6] * 6)


def method(index, *reports):
    return Method(reports[0].name, index, list(reports))


def test_over_common_seeds():
    base = method(0, *(by_hand("base", seed, row) for seed, row in enumerate(ROWS)))
    other = method(1, *(by_hand("other", seed, row) for seed, row in enumerate(BETTER)))
    found = difference(base, other, "full", "thirds")
    assert (found.over, found.units) == ("seeds", 3)
    many = [sum(row[:2]) / 2 for row in ROWS], [sum(row[:2]) / 2 for row in BETTER]
    assert found.p["many"] == pytest.approx(paired_t(*many))
    theirs = stats.ttest_rel(many[1], many[0]).confidence_interval()
    assert found.intervals["many"] == pytest.approx((theirs.low, theirs.high), abs=1e-5)
    assert found.gains["many"] == pytest.approx(sum(many[1]) / 3 - sum(many[0]) / 3, abs=1e-6)
    # Only the seeds that both have count, for the mean as well.
    fewer = difference(base, method(1, *other.reports[1:]), "full", "thirds")
    assert fewer.units == 2
    (table,) = compare([*base.reports, *other.reports[1:]])
    value = table.rows[1].values["all"]
    assert value.gain == pytest.approx(fewer.gains["all"])
    assert value.gain != pytest.approx(value.mean - table.rows[0].values["all"].mean)
    low, high = value.gain_interval
    assert (low + high) / 2 == pytest.approx(value.gain, abs=1e-5)


def test_equal_differences_have_no_interval():
    reports = [by_hand("base", seed, row) for seed, row in enumerate(ROWS)]
    same = difference(method(0, *reports), method(1, *reports), "full", "thirds")
    assert same.gains == dict.fromkeys(TESTED, 0)
    assert same.intervals == {}
    assert set(same.p.values()) == {None}


def test_over_draws():
    base, other = by_hand("base", 0, ROWS), by_hand("other", 0, BETTER)
    found = difference(method(0, base), method(1, other), "full", "thirds")
    assert (found.over, found.units) == ("draws", 3)
    few = [sum(row[4:]) / 2 for row in ROWS], [sum(row[4:]) / 2 for row in BETTER]
    assert found.p["few"] == pytest.approx(paired_t(*few))
    elsewhere = replace(other, data={**other.data, "probe_hash": "x"})
    assert difference(method(0, base), method(1, elsewhere), "full", "thirds").over == ""


def test_over_test_images():
    base, other = by_hand("base", 0, [0.5] * 6), by_hand("other", 0, [0.6, 0.5, 0.5, 0.5, 0.4, 0.4])
    found = difference(method(0, base), method(1, other), "full", "thirds")
    assert (found.over, found.units) == ("images", 120)
    # Two images of class 0 are won, two each of classes 4 and 5 are lost.
    counts = {"all": (4, 2), "many": (0, 2), "medium": (0, 0), "few": (4, 0)}
    assert found.p == {column: mcnemar(*count) for column, count in counts.items()}
    assert found.intervals["all"] == pytest.approx(paired_interval(4, 2, 120), abs=1e-5)
    assert found.intervals["few"] == pytest.approx(paired_interval(4, 0, 40), abs=1e-5)
    assert found.intervals["many"] == pytest.approx(paired_interval(0, 2, 40), abs=1e-5)


def test_images_of_classes_of_unequal_size_count_by_their_class():
    base, other = by_hand("base", 0, [0.5] * 6), by_hand("other", 0, [0.5] * 4 + [0.4, 0.5])
    # Five of the twenty images of class 5 are tested.
    kept = torch.arange(120)[:105]
    both = []
    for report in (base, other):
        data = {**report.data, "test_counts": [20] * 5 + [5], "test_images": 105}
        predictions = {name: x[..., kept] for name, x in report.predictions.items()}
        both.append(replace(report, data=data, predictions=predictions))
    found = difference(method(0, both[0]), method(1, both[1]), "full", "thirds")
    images = 4 / (1 / 20 + 1 / 5)  # as many of equal weight vary like the mean of both classes
    lost = 2 / 20 / 2 * images
    assert found.intervals["few"] == pytest.approx(paired_interval(lost, 0, images), abs=1e-5)
    assert found.p.keys() == {"all", "many", "medium"}  # in Few they do not weigh alike


def test_without_predictions_nothing_is_tested():
    base, other = (replace(by_hand(n, 0, ROWS[0]), predictions={}) for n in ("base", "other"))
    found = difference(method(0, base), method(1, other), "full", "thirds")
    assert (found.over, found.words, found.p) == ("", None, {})
