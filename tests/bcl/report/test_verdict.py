"""The verdict's words, in every case that a report can be."""

import pytest
from probe_reports import by_hand, replace

from bcl.report import verdict as module
from bcl.report.compare import compare, methods
from bcl.report.verdict import points, verdicts

FLAT = [0.5] * 6


def said(*reports):
    return verdicts(compare(reports), methods(reports))


def runs(name, *rows, protocols=("full",)):
    """One run per seed."""
    return [by_hand(name, seed, row, protocols) for seed, row in enumerate(rows)]


def shifted(by, row=FLAT):
    return [share + by for share in row]


BASE = runs("base", FLAT, shifted(0.05), shifted(-0.05))


def test_one_seed_makes_no_claim():
    (verdict,) = said(by_hand("base", 0, FLAT), by_hand("other", 0, shifted(0.05)))
    assert verdict.headline == "One seed: no claim about which of other and base is better."
    first, second = verdict.details
    # Six of 120 images, all for the other: McNemar's p is 2 / 2^6.
    assert first.startswith("other over base, in points: full: All +5.00 [+0.46, +9.38]")
    assert second == (
        "These two encoders differ in 1 of 4 tests, 0.2 would by chance: full: All +5.00 "
        "[+0.46, +9.38]. Do the methods? Run more seeds."
    )


def test_one_seed_that_shows_nothing():
    (verdict,) = said(
        by_hand("base", 0, FLAT), by_hand("other", 0, [0.55, 0.5, 0.5, 0.5, 0.5, 0.45])
    )
    assert verdict.headline.startswith("One seed: no claim")
    assert verdict.details[1] == "These two encoders are not told apart either."


def test_seeds_that_differ_are_no_pairs():
    (verdict,) = said(by_hand("base", 0, FLAT), by_hand("other", 1, FLAT))
    assert verdict.headline.startswith("No seed in common: no claim")
    one = [replace(by_hand(name, 0, FLAT), predictions={}) for name in ("base", "other")]
    (verdict,) = said(*one)
    assert verdict.details[1].startswith("Nothing could be tested")


def test_draws_of_one_seed_make_no_claim():
    row = [FLAT, shifted(0.05), shifted(-0.05)]
    more = [shifted(0.1), shifted(0.2), shifted(0.05)]
    (verdict,) = said(by_hand("base", 0, row), by_hand("other", 0, more))
    assert verdict.headline.startswith("One seed: no claim")
    assert (
        "These two encoders differ in 4 of 4 tests, 0.2 would by chance: full: All"
        in verdict.details[1]
    )


@pytest.mark.parametrize(
    ("sign", "words", "first"), [(1, "better", "Better"), (-1, "worse", "Worse")]
)
def test_an_established_difference(sign, words, first):
    gains = (0.2, 0.21, 0.19)
    rows = [
        shifted(sign * gain, base.protocol("full").per_class)
        for gain, base in zip(gains, BASE, strict=True)
    ]
    (verdict,) = said(*BASE, *runs("other", *rows))
    other = {"better": "worse", "worse": "better"}[words]
    assert verdict.headline == (
        f"other is {words} than base in 4 of 4 comparisons and {other} in none."
    )
    low, high = (points(sign * (0.2 + side * sign * 0.02484)) for side in (-1, 1))
    assert verdict.details[0].startswith(f"{first}, in points: full: All {points(sign * 0.2)} [")
    assert f"[{low}, {high}]" in verdict.details[0]
    assert verdict.details[-1] == (
        "Paired t-tests over 3 seeds; Holm’s correction over all tests on this page, 4."
    )


def test_better_here_and_worse_there():
    gains = (0.2, 0.21, 0.19)
    rows = [
        [
            share + side * gain
            for share, side in zip(base.protocol("full").per_class, sides, strict=True)
        ]
        for gain, base in zip(gains, BASE, strict=True)
        for sides in [(-1, -1, 0, 0, 1, 1)]
    ]
    (verdict,) = said(*BASE, *runs("other", *rows))
    assert verdict.headline == ("other is better than base in 1 and worse in 1 of 4 comparisons.")
    assert [each.split(" [")[0] for each in verdict.details[:2]] == [
        "Better, in points: full: Few +20.00", "Worse, in points: full: Many −20.00",
    ]  # fmt: skip


def test_an_undecided_difference():
    rows = [shifted(0.2), shifted(-0.1), shifted(0.02)]
    (verdict,) = said(*BASE, *runs("other", *rows))
    assert verdict.headline == "No difference between other and base is established."
    assert verdict.details[0].startswith("other over base, in points: full: All +4.00 [−")
    assert not any("Hints" in each for each in verdict.details)


def test_what_many_tests_bring_by_chance_is_a_hint():
    # p is 0.015 in each of the sixteen; the correction is over all of them.
    rows = [
        shifted(gain, base.protocol("full").per_class)
        for gain, base in zip((0.1, 0.11, 0.075), BASE, strict=True)
    ]
    names = ("full", "a", "b", "c")
    base = [by_hand("base", s, r.protocol("full").per_class, names) for s, r in enumerate(BASE)]
    found = [*base, *runs("other", *rows, protocols=names)]
    (verdict,) = said(*found)
    assert verdict.headline == "No difference between other and base is established."
    assert verdict.details[1].startswith(
        "Hints that do not hold among all tests (0.8 of 16 would be by chance): full: All +9.50 ["
    )
    assert module.tests_over_seeds(compare(found)) == 16
    assert not any(t.bold(1, c) for t in compare(found) for c in ("all", "many", "medium", "few"))
    one = said(*(replace(r, protocols=r.protocols[:1]) for r in found))
    assert one[0].headline.startswith("other is better than base in 4 of 4")


def test_ties():
    (verdict,) = said(*BASE, *(replace(r, record={**r.record, "name": "copy"}) for r in BASE))
    assert verdict.headline == "copy and base are equally accurate in all 4 comparisons."
    assert verdict.details[0] == "copy over base, in points: full: All +0.00."
    (single,) = said(BASE[0], replace(BASE[0], record={"name": "copy", "seed": 0}))
    assert single.headline.startswith("One seed: no claim")
    assert single.details[1] == "These two encoders are not told apart either."


def test_protocols_that_are_not_shared():
    (verdict,) = said(by_hand("base", 0, FLAT), by_hand("other", 0, FLAT, ["knn@10"]))
    assert verdict.headline == "other and base share no protocol: nothing to compare."
    assert verdict.details == []


def test_each_method_has_a_verdict():
    found = said(*BASE, *runs("b", *[FLAT] * 3), *runs("c", FLAT))
    assert [each.headline.partition(" ")[0] for each in found] == ["No", "One"]
    assert len(found) == 2


def test_one_run_alone():
    (verdict,) = said(by_hand("only", 0, [0.9, 0.9, 0.5, 0.5, 0.1, 0.1]))
    assert verdict.headline == "only in one run: All 50.00 % [41.19, 58.81] under full."
    assert verdict.details == [
        "Few, 10.00 % [3.96, 23.05], lies below Many, 90.00 % [76.95, 96.04]. "
        "One seed: no claim about the method."
    ]
    (verdict,) = said(by_hand("only", 0, FLAT))
    assert "is not told apart from Many" in verdict.details[0]
    (verdict,) = said(by_hand("only", 0, [0.1, 0.1, 0.5, 0.5, 0.9, 0.9]))
    assert "lies above Many" in verdict.details[0]


def test_seeds_of_one_method_alone():
    (verdict,) = said(*BASE)
    assert verdict.headline == "base over 3 seeds: All 50.00 % [37.58, 62.42] under full."
    assert "One seed" not in verdict.details[0]


@pytest.mark.parametrize(("counts", "missing"), [((9, 8, 7), "Many"), ((900, 800, 110), "Few")])
def test_missing_groups(counts, missing):
    (verdict,) = said(by_hand("only", 0, [0.5] * 3, counts=counts, grouping="thresholds"))
    assert verdict.details[0].startswith(f"No class is in {missing}, so rare and frequent")


def test_the_sign_of_a_difference_is_a_minus():
    assert [points(x) for x in (0.01234, -0.01234, 0.0)] == ["+1.23", "−1.23", "+0.00"]
