"""Runs side by side: seeds of one method together, differences from the baseline tested."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bcl.core.errors import InputError
from bcl.evaluation.metrics import wilson_interval
from bcl.evaluation.results import Estimate, ProbeReport, ProtocolResult, rounded
from bcl.report.differences import Tested, difference, estimate
from bcl.report.significance import holm

COLUMNS = {
    "all": "All",
    "many": "Many",
    "medium": "Medium",
    "few": "Few",
    "std_population": "Std (pop.)",
    "std_sample": "Std (sample)",
    "top5": "Top-5",
}
LEVEL = 0.05  # below it a difference is more than chance
FEW_IMAGES = 100  # below so many test images in a group, the report says what one is worth
BYTES = "hold other bytes (another encoding or size) than those of {}: {}."
# Key of a report's data; a key whose value must agree, or the first says nothing; the note.
DIFFERENCES = (
    ("content_hash", None, "Other pretraining images than {}: {}."),
    ("probe_hash", None, "Other probe training images than {}: {}."),
    ("images_hash", "content_hash", f"The pretraining images of the same names {BYTES}"),
    ("test_images_hash", "test_hash", f"The test images of the same names {BYTES}"),
    (
        "class_counts",
        None,
        "Other class counts than {}, so Many, Medium and Few may be other classes: {}.",
    ),
)


@dataclass
class Method:
    """Runs that differ only in their seed, with a label for readers and a position for colors."""

    label: str
    index: int
    reports: list[ProbeReport]

    @property
    def first(self) -> ProbeReport:
        """The first run."""
        return self.reports[0]

    @property
    def seeds(self) -> list[Any]:
        """Seed of each run."""
        return [report.record.get("seed") for report in self.reports]

    def results(self, protocol: str) -> dict[Any, ProtocolResult]:
        """Seed to result, of the runs that have the protocol."""
        pairs = zip(self.seeds, self.reports, strict=True)
        return {seed: r for seed, run in pairs for r in run.protocols if r.name == protocol}

    def per_class(self, protocol: str) -> list[float]:
        """Mean accuracy of each class over the runs; empty without the protocol."""
        rows = [result.per_class for result in self.results(protocol).values()]
        return [sum(values) / len(values) for values in zip(*rows, strict=True)]


@dataclass
class Value:
    """A number of a table: mean over seeds, half its 95 % interval, each seed's; None is missing.

    ``wilson`` holds the ends of the interval over test images of a single run and draw. Except for
    the baseline, also the difference from it, over the seeds that both have if these are two or
    more, with the ends of its 95 % interval; and the p-value after Holm's correction, ``p`` over
    the methods, ``p_all`` over all tests over seeds of a report.
    """

    mean: float | None
    ci95: float | None
    runs: list[float]
    gain: float | None = None
    p: float | None = None
    wilson: tuple[float, float] | None = None
    gain_interval: tuple[float, float] | None = None
    p_all: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the mean's interval; the mean itself where it has none."""
        assert self.mean is not None
        half = self.ci95 or 0.0
        return self.wilson or (self.mean - half, self.mean + half)


@dataclass
class Row:
    """One method under one protocol; ``values`` by column, accuracies as shares.

    ``over`` says what its difference from the baseline varies over, ``units`` of them: "seeds",
    "draws" or "images"; "" where nothing was tested.
    """

    method: str
    index: int
    seeds: list[Any]
    draws: int
    values: dict[str, Value]
    notes: list[str]
    chosen: dict[str, Any]
    over: str = ""
    units: int = 0

    def established(self, column: str) -> int:
        """Better (1) or worse (-1) than the baseline: a test over seeds that holds among all; or 0.

        Where many differences are tested, some seem significant by chance; these do not count.
        """
        value = self.values[column]
        if value.p_all is None or value.p_all >= LEVEL:
            return 0
        assert value.gain is not None
        return 1 if value.gain > 0 else -1


@dataclass
class Comparison:
    """The table of one protocol; ``test`` is the paired test in words."""

    protocol: str
    description: str
    kind: str
    grouping: str
    test: str | None
    rows: list[Row]

    def bold(self, index: int, column: str) -> bool:
        """Whether a method is established as better than the baseline, or the baseline than all."""
        others = [row.established(column) for row in self.rows if row.index > 0]
        if index == 0:
            return bool(others) and all(found < 0 for found in others)
        return any(row.established(column) > 0 for row in self.rows if row.index == index)

    @property
    def values(self) -> list[Value]:
        """All numbers."""
        return [value for row in self.rows for value in row.values.values()]

    def value(self, index: int, column: str) -> Value | None:
        """A method's number; None if the method lacks the protocol."""
        return next((row.values[column] for row in self.rows if row.index == index), None)


def methods(reports: Sequence[ProbeReport]) -> list[Method]:
    """Group runs of one name and different seeds; an `InputError` for different test sets.

    Runs without a seed stay apart.
    """
    if not reports:
        raise InputError("no report to render; give at least one.")
    first, found = reports[0], dict[str, Method]()
    for run in reports:
        if run.data["test_hash"] != first.data["test_hash"]:
            raise InputError(
                f"'{first.name}' and '{run.name}' were tested on different images (test set "
                f"{first.data['test_hash'][:12]} and {run.data['test_hash'][:12]}); their "
                "accuracies cannot be compared. Make one report for each test set."
            )
        seed, label, copy = run.record.get("seed"), run.name, 2
        while label in found and (seed is None or {None, seed} & set(found[label].seeds)):
            label, copy = f"{run.name} ({copy})", copy + 1
        found.setdefault(label, Method(label, len(found), [])).reports.append(run)
    return list(found.values())


def difference_notes(reports: Sequence[ProbeReport]) -> list[str]:
    """Sentences on what else differs between runs of one test set, and their data sets' notes."""
    first, notes = reports[0], []

    def differs(run: ProbeReport, key: str, same: str | None) -> bool:
        one, other = first.data.get(key), run.data.get(key)
        if same is None:
            return bool(one != other)
        # Reports from before the hash was kept say nothing either way.
        agree = run.data.get(same) == first.data.get(same)
        return bool(one and other and agree and one != other)

    for key, same, words in DIFFERENCES:
        if names := sorted({run.name for run in reports if differs(run, key, same)}):
            notes.append(words.format(first.name, ", ".join(names)))
    for grouping in sorted({report.grouping for report in reports} - {first.grouping}):
        notes.append(
            f"Some runs use the grouping {grouping}; all tables here use {first.grouping}."
        )
    own = [report.data.get("notes") or [] for report in reports]
    common = [note for note in own[0] if all(note in each for each in own)]
    notes += [note[:1].upper() + note[1:] for note in common]
    for report, each in zip(reports, own, strict=True):
        notes += [f"{report.name}: {note}" for note in each if note not in common]
    return list(dict.fromkeys(notes))


def small_group_notes(report: ProbeReport) -> list[str]:
    """What one test image is worth in each group of fewer than `FEW_IMAGES`."""
    notes = []
    for name, counts in _test_counts(report, report.grouping).items():
        if 0 < sum(counts) < FEW_IMAGES:
            up_to = "" if min(counts) == max(counts) else "up to "
            points = 100 / (len(counts) * min(counts))
            images = f"{COLUMNS[name]} has {sum(counts)} test images"
            notes.append(f"{images}: one image is {up_to}{points:.3g} points.")
    return notes


def compare(reports: Sequence[ProbeReport]) -> list[Comparison]:
    """One table per protocol, the baseline first; an `InputError` for different test sets."""
    together, grouping = methods(reports), reports[0].grouping
    found: dict[str, ProtocolResult] = {}
    for run in (run for method in together for run in method.reports):
        for result in run.protocols:
            found.setdefault(result.name, result)
    tables = [_table(result, together, grouping) for result in found.values()]
    tests = [(value, p) for _, pairs in tables for value, p in pairs]
    for (value, _), p in zip(tests, holm([p for _, p in tests]), strict=True):
        value.p_all = p
    return [table for table, _ in tables]


def _table(
    about: ProtocolResult, together: list[Method], grouping: str
) -> tuple[Comparison, list[tuple[Value, float | None]]]:
    """The table, and its tests over seeds: a number and its p-value before any correction."""
    rows = [
        Row(
            method=method.label,
            index=method.index,
            seeds=method.seeds,
            draws=len(results[0].draws),
            values={c: _value(method.first, results, c, grouping) for c in COLUMNS},
            notes=sorted({note for result in results for note in result.notes}),
            chosen=results[0].draws[0].chosen,
        )
        for method in together
        if (results := list(method.results(about.name).values()))
    ]
    tests = _test_rows(rows, about.name, together, grouping) if rows[0].index == 0 else []
    words = "; ".join(sorted({words for test in tests if (words := test.words)})) or None
    pairs = [
        (row.values[column], p)
        for row, test in zip(rows[1:], tests, strict=False)
        if test.over == "seeds"
        for column, p in test.p.items()
    ]
    return Comparison(about.name, about.description, about.kind, grouping, words, rows), pairs


def _value(first: ProbeReport, results: list[ProtocolResult], column: str, grouping: str) -> Value:
    """Mean over seeds with its interval, over draws of a single run, or else over test images."""
    found = [estimate(result, column, grouping) for result in results]
    means = [rounded(each.mean) for each in found if not math.isnan(each.mean)]  # as they are saved
    total = Estimate.of(means) if len(found) > 1 and means else found[0]
    mean, half = (None if math.isnan(x) else rounded(x) for x in (total.mean, total.ci95))
    if mean is None or len(results) > 1 or len(results[0].draws) > 1 or column.startswith("std"):
        return Value(mean, half, means)
    images = first.data["test_images"]
    if counts := _test_counts(first, grouping).get(column):
        # A mean of class accuracies varies like a share of so many images; all, if none is rarer.
        images = len(counts) ** 2 / sum(1 / n for n in counts)
    low, high = wilson_interval(mean, images)
    return Value(mean, half, means, wilson=(rounded(low), rounded(high)))


def _test_counts(report: ProbeReport, grouping: str) -> dict[str, list[int]]:
    """Test images of each class that has any, by group."""
    groups = report.groups[grouping].as_dict() if grouping in report.groups else {}
    counts = report.data["test_counts"]
    return {name: [n for c in ids.tolist() if (n := counts[c])] for name, ids in groups.items()}


def _test_rows(rows: list[Row], name: str, together: list[Method], grouping: str) -> list[Tested]:
    """Give each row but the first its differences and p-values; returns their tests."""
    tests = [difference(together[0], together[row.index], name, grouping) for row in rows[1:]]
    for row, test in zip(rows[1:], tests, strict=True):
        row.over, row.units = test.over, test.units
    for column in COLUMNS:
        p_values = holm([test.p.get(column) for test in tests])
        base = rows[0].values[column].mean
        for row, test, p in zip(rows[1:], tests, p_values, strict=True):
            value = row.values[column]
            value.p, value.gain_interval = p, test.intervals.get(column)
            if base is not None and value.mean is not None:
                value.gain = test.gains.get(column, value.mean - base)
    return tests
