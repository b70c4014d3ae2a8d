"""Seeds together, differences tested, notes on what differs."""

import sys

import pytest
from fakes import QUICK, FakeData, encode
from probe_reports import replace, strong_and_weak
from scipy.stats import binomtest

import bcl
from bcl.core.errors import InputError
from bcl.evaluation.metrics import wilson_interval
from bcl.report.compare import compare, difference_notes, methods, small_group_notes
from bcl.report.significance import paired_t


@pytest.fixture(scope="module")
def reports():
    return strong_and_weak()


@pytest.mark.slow
def test_seeds_of_one_name_are_averaged(reports):
    together = methods(reports)
    assert [(m.label, m.seeds) for m in together] == [
        ("weak_one", [0, 1, 2]),
        ("strong|one", [0, 1, 2]),
    ]
    table = compare(reports)[0]
    row = table.rows[1]
    singles = [r.protocol("full").accuracy.mean for r in reports[3:]]
    assert row.values["all"].mean == pytest.approx(sum(singles) / 3, abs=1e-5)
    assert row.values["all"].gain > 0.1
    assert row.values["all"].p < 0.05
    assert "3 seeds" in table.test
    assert table.rows[0].values["all"].p is None


@pytest.mark.slow
def test_single_runs_are_tested_over_images(reports):
    table = compare([reports[0], reports[3]])[0]
    assert "McNemar" in table.test
    values = table.rows[1].values
    assert values["all"].p < 0.05
    assert values["few"].p > 0.05
    assert values["top5"].p is None


def test_draws_of_single_runs_are_paired(reports):
    table = compare([reports[0], reports[3]])[1]
    assert "5 draws" in table.test
    values = table.rows[1].values
    first, second = (
        [draw.accuracy for draw in report.protocol("10-shot").draws]
        for report in (reports[0], reports[3])
    )
    assert values["all"].p == pytest.approx(paired_t(first, second), rel=1e-3)
    assert values["few"].p is not None


def test_same_seed_twice_stays_apart(reports):
    labels = [method.label for method in methods([reports[0], reports[0], reports[1]])]
    assert labels == ["weak_one", "weak_one (2)"]


def test_interval_of_a_single_run_is_over_draws(reports):
    few = compare([reports[0]])[1].rows[0]
    full = compare([reports[0]])[0].rows[0]
    assert few.values["all"].ci95 > 0
    assert full.values["all"].ci95 is None
    assert few.draws == 5
    assert few.values["all"].wilson is None


def test_interval_of_a_single_draw_is_wilsons_over_test_images(reports):
    values = compare([reports[0]])[0].rows[0].values
    for column, images in (("all", 120), ("few", 40), ("top5", 120)):
        share = values[column].mean
        theirs = binomtest(round(share * images), images).proportion_ci(method="wilson")
        assert values[column].wilson == pytest.approx(tuple(theirs), abs=1e-5)
    assert values["std_sample"].wilson is None
    assert all(value.wilson is None for value in compare(reports)[0].values)  # three seeds


def test_classes_of_few_test_images_widen_their_groups_interval(reports):
    data = {**reports[0].data, "test_counts": [20, 20, 20, 20, 38, 2]}
    uneven = compare([replace(reports[0], data=data)])[0].rows[0].values["few"]
    even = compare([reports[0]])[0].rows[0].values["few"]
    assert uneven.mean == even.mean
    # (38 + 2) images, but the mean of both classes varies like a share of 7.6.
    assert uneven.wilson == pytest.approx(
        wilson_interval(even.mean, 4 / (1 / 38 + 1 / 2)), abs=1e-5
    )


def test_one_image_of_a_small_group_has_a_worth(reports):
    report = reports[0]
    assert small_group_notes(report)[2] == "Few has 40 test images: one image is 2.5 points."
    uneven = replace(report, data={**report.data, "test_counts": [50, 50, 99, 0, 3, 47]})
    assert small_group_notes(uneven) == [
        "Medium has 99 test images: one image is 1.01 points.",
        "Few has 50 test images: one image is up to 16.7 points.",
    ]


def test_other_pretraining_images_are_noted(reports):
    data = {**reports[3].data, "content_hash": "x", "notes": ["one file left out"]}
    notes = difference_notes([reports[0], replace(reports[3], data=data)])
    assert notes == [
        "Other pretraining images than weak_one: strong|one.",
        "strong|one: one file left out",
    ]


def test_notes_of_all_runs_stand_alone(reports):
    both = [replace(r, data={**r.data, "notes": ["no labels"]}) for r in reports[2:4]]
    assert difference_notes(both) == ["No labels"]


def test_other_class_counts_are_noted(reports):
    other = replace(reports[3], data={**reports[3].data, "class_counts": [1] * 6})
    (note,) = difference_notes([reports[0], other])
    assert "class counts" in note


def test_the_same_names_with_other_bytes_are_noted(reports):
    """A re-encoded copy of a data set has the same content hash."""
    one, other = (
        replace(
            reports[place],
            data={**reports[0].data, "images_hash": f"p{place}", "test_images_hash": f"t{place}"},
        )
        for place in (0, 3)
    )
    words = "images of the same names hold other bytes"
    notes = [note for note in difference_notes([one, other]) if words in note]
    assert [note.split(" images")[0] for note in notes] == ["The pretraining", "The test"]
    assert not [note for note in difference_notes([one, one]) if words in note]
    # Reports from before the hash was kept say nothing either way.
    del other.data["images_hash"], other.data["test_images_hash"]
    assert not [note for note in difference_notes([one, other]) if words in note]


def test_a_wandb_table_needs_wandb(reports, monkeypatch):
    from bcl.report.wandb_table import log_table

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install"):
        log_table(reports, "project")


def test_nothing_to_compare():
    with pytest.raises(InputError, match="no report"):
        compare([])


def test_other_test_images_are_refused(reports):
    other = replace(reports[3], data={**reports[3].data, "test_hash": "other"})
    with pytest.raises(InputError, match="different images"):
        compare([reports[0], other])


@pytest.mark.slow
def test_other_class_counts_are_said_and_their_draws_not_paired():
    def run(name, counts, content_hash):
        data = FakeData(counts)
        data.content_hash = content_hash
        return bcl.evaluate(encode, data, "balanced-lt,10-shot", QUICK, record={"name": name})

    first, again = (run(name, (60, 30, 20, 10, 5, 3), "one") for name in ("a", "b"))
    other = run("c", (3, 5, 10, 20, 30, 60), "two")
    assert not any("class counts" in note for note in difference_notes([first, again]))
    assert any("Other class counts than a" in note for note in difference_notes([first, other]))
    assert [table.test is None for table in compare([first, again])] == [False, False]
    assert [table.test is None for table in compare([first, other])] == [True, False]
