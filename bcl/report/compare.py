"""Runs side by side: seeds of one method together, differences from the baseline tested."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bcl.core.errors import InputError
from bcl.evaluation.metrics import confidence_interval
from bcl.evaluation.results import ProbeReport
from bcl.report.significance import holm, mcnemar, paired_t

Values = dict[str, Any]
Pairs = dict[str, tuple[list[Any], list[Any]]]
COLUMNS = {
    "many": "Many",
    "medium": "Medium",
    "few": "Few",
    "std_population": "Std (pop.)",
    "std_sample": "Std (sample)",
    "all": "All",
    "top5": "Top-5",
}
TESTED = ("many", "medium", "few", "all")


@dataclass
class Method:
    """Runs that differ only in their seed.

    Attributes:
        label: what readers see.
        index: position, for colors.
        reports: the runs.
        plain: their values as saved.
    """

    label: str
    index: int
    reports: list[ProbeReport]
    plain: list[Values] = field(default_factory=list)

    @property
    def seeds(self) -> list[Any]:
        """Seed of each run."""
        return [report.record.get("seed") for report in self.reports]

    def entry(self, protocol: str) -> Values | None:
        """The first run's entry of a protocol, with class accuracies averaged over all runs."""
        entries = self.entries(protocol)
        if not entries:
            return None
        rows = zip(*(entry["per_class"] for entry in entries), strict=True)
        mean = [None if None in row else sum(row) / len(row) for row in rows]
        return {**entries[0], "per_class": mean}

    def entries(self, protocol: str) -> list[Values]:
        """Entries of all runs that have the protocol."""
        return [e for plain in self.plain for e in plain["protocols"] if e["name"] == protocol]


def methods(reports: Sequence[ProbeReport]) -> list[Method]:
    """Group runs of one name and different seeds; runs without a seed stay apart.

    Args:
        reports: the runs, the baseline first.

    Returns:
        One entry per method, in order of first appearance.

    Raises:
        InputError: no report, or different test sets.
    """
    _check_comparable(reports)
    found: dict[str, Method] = {}
    for report in reports:
        seed = report.record.get("seed")
        label, copy = report.name, 2
        while label in found and (seed is None or {None, seed} & set(found[label].seeds)):
            label, copy = f"{report.name} ({copy})", copy + 1
        method = found.setdefault(label, Method(label, len(found), []))
        method.reports.append(report)
        method.plain.append(report.to_dict())
    return list(found.values())


def _check_comparable(reports: Sequence[ProbeReport]) -> None:
    if not reports:
        raise InputError("no report to render; give at least one.")
    first = reports[0]
    for run in reports[1:]:
        if run.data["test_hash"] != first.data["test_hash"]:
            raise InputError(
                f"'{first.name}' and '{run.name}' were tested on different images (test set "
                f"{first.data['test_hash'][:12]} and {run.data['test_hash'][:12]}); their "
                "accuracies cannot be compared. Report them one by one."
            )


def difference_notes(reports: Sequence[ProbeReport]) -> list[str]:
    """What else differs between runs of one test set, and the notes of their data sets.

    Args:
        reports: the runs.

    Returns:
        Sentences for readers.
    """
    first, notes = reports[0], []

    def others(key: str, *, same: str | None = None) -> str:
        """Runs with another value than the first, among those that agree on another key."""
        names = set()
        for run in reports:
            if same is None:
                differs = run.data.get(key) != first.data.get(key)
            else:  # reports from before the hash was kept say nothing either way
                known = run.data.get(key) and first.data.get(key)
                agrees = run.data.get(same) == first.data.get(same)
                differs = bool(known) and agrees and run.data[key] != first.data[key]
            names |= {run.name} if differs else set()
        return ", ".join(sorted(names))

    for key, what in (
        ("content_hash", "pretraining images"),
        ("probe_hash", "probe training images"),
    ):
        if names := others(key):
            notes.append(f"Other {what} than {first.name}: {names}.")
    for key, same, what in (
        ("images_hash", "content_hash", "pretraining"),
        ("test_images_hash", "test_hash", "test"),
    ):
        if names := others(key, same=same):
            notes.append(
                f"The {what} images of the same names hold other bytes (another encoding or size) "
                f"than those of {first.name}: {names}."
            )
    if names := others("class_counts"):
        notes.append(
            f"Other class counts than {first.name}, so Many, Medium and Few may be other classes: "
            f"{names}."
        )
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


def compare(reports: Sequence[ProbeReport]) -> list[Values]:
    """One table per protocol.

    Args:
        reports: the runs, the baseline first.

    Returns:
        Tables with ``protocol``, ``description``, ``kind``, ``grouping``, ``test`` (the paired test
        in words, or None) and ``rows``: ``method``, ``index``, ``seeds``, ``draws``, ``values`` by
        column (`COLUMNS`) with ``mean``, ``ci95`` and, except for the baseline, ``gain`` and ``p``
        (after Holm's correction); ``notes`` and ``chosen``. Accuracies are shares.

    Raises:
        InputError: no report, or different test sets.
    """
    together = methods(reports)
    names: dict[str, Values] = {}
    for method in together:
        for plain in method.plain:
            for entry in plain["protocols"]:
                names.setdefault(entry["name"], entry)
    return [_table(entry, together, reports[0].grouping) for entry in names.values()]


def _table(first: Values, together: list[Method], grouping: str) -> Values:
    name = first["name"]
    rows = [
        {
            "method": method.label,
            "index": method.index,
            "seeds": method.seeds,
            "draws": len(entries[0]["draws"]),
            "values": {column: _over_runs(entries, column, grouping) for column in COLUMNS},
            "notes": sorted({note for entry in entries for note in entry["notes"]}),
            "chosen": entries[0]["draws"][0]["chosen"],
        }
        for method in together
        if (entries := method.entries(name))
    ]
    test = _test_rows(rows, name, together, grouping) if rows[0]["index"] == 0 else None
    return {
        "protocol": name,
        "description": first["description"],
        "kind": first["kind"],
        "grouping": grouping,
        "test": test,
        "rows": rows,
    }


def _single(entry: Values, column: str, grouping: str) -> Values:
    summary = entry["summary"]
    if column in ("all", "top5"):
        found = summary.get("accuracy" if column == "all" else "top5")
    else:
        found = summary.get(grouping, {}).get(column)
    return dict(found) if found is not None else {"mean": None, "ci95": None}


def _over_runs(entries: list[Values], column: str, grouping: str) -> Values:
    """Mean over seeds with its interval; a single run keeps the interval over its draws."""
    singles = [_single(entry, column, grouping) for entry in entries]
    means = [single["mean"] for single in singles if single["mean"] is not None]
    if len(entries) == 1 or not means:
        return {**singles[0], "runs": means}
    mean, half = confidence_interval(means)
    return {"mean": mean, "ci95": half if half == half else None, "runs": means}


def _test_rows(rows: list[Values], name: str, together: list[Method], grouping: str) -> str | None:
    """Give each row but the first its gain and p-values; returns the tests in words."""
    base, others = rows[0], rows[1:]
    p_values: dict[str, list[float | None]] = {column: [] for column in TESTED}
    kinds = set()
    for row in others:
        for column in COLUMNS:
            a, b = base["values"][column]["mean"], row["values"][column]["mean"]
            row["values"][column]["gain"] = None if a is None or b is None else b - a
        method = together[row["index"]]
        pairs, kind = _pairs(together[0], method, name, grouping)
        for column in TESTED:
            first, second = pairs.get(column, ([], []))
            known = None not in first and None not in second
            p_values[column].append(paired_t(first, second) if known else None)
        if kind is None:
            p_values["all"][-1], kind = _over_images(together[0], method, name)
        kinds |= {kind} - {None}
    for column, found in p_values.items():
        for row, p in zip(others, holm(found), strict=True):
            row["values"][column]["p"] = p
    return "; ".join(sorted(map(str, kinds))) or None


def _pairs(a: Method, b: Method, name: str, grouping: str) -> tuple[Pairs, str | None]:
    """Paired values by column and the test in words: over common seeds, or else over draws."""

    def by_seed(method: Method) -> dict[Any, Values]:
        found = zip(method.seeds, method.plain, strict=True)
        return {s: e for s, plain in found for e in plain["protocols"] if e["name"] == name}

    first, second = by_seed(a), by_seed(b)
    seeds = [seed for seed in first if seed is not None and seed in second]
    if len(seeds) > 1:
        values = {
            column: tuple(
                [_single(runs[s], column, grouping)["mean"] for s in seeds]
                for runs in (first, second)
            )
            for column in TESTED
        }
        return values, f"paired t-test over {len(seeds)} seeds"  # type: ignore[return-value]
    entry, other = a.entries(name)[0], b.entries(name)[0]
    draws = len(entry["draws"])
    pool = "content_hash" if "long-tailed" in entry["description"] else "probe_hash"
    same_pool = a.plain[0]["data"][pool] == b.plain[0]["data"][pool]
    if draws < 2 or len(other["draws"]) != draws or not same_pool:
        return {}, None
    drawn = {c: (_draws(a, name, c, grouping), _draws(b, name, c, grouping)) for c in TESTED}
    return drawn, f"paired t-test over {draws} draws, which says nothing about seeds"


def _draws(method: Method, name: str, column: str, grouping: str) -> list[Any]:
    """One value per draw of a method's first run."""
    draws = method.entries(name)[0]["draws"]
    if column == "all":
        return [draw["accuracy"] for draw in draws]
    ids = method.plain[0]["groups"].get(grouping, {}).get(column, [])
    rows = [
        [draw["per_class"][c] for c in ids if draw["per_class"][c] is not None] for draw in draws
    ]
    return [sum(row) / len(row) if row else None for row in rows]


def _over_images(a: Method, b: Method, name: str) -> tuple[float | None, str | None]:
    first, second = a.reports[0].predictions, b.reports[0].predictions
    if not {name, "labels"} <= first.keys() or name not in second:
        return None, None
    if len(first[name]) != 1 or len(second[name]) != 1:
        return None, None
    right_a, right_b = (found[name][0] == first["labels"] for found in (first, second))
    p = mcnemar(int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum()))
    return p, "McNemar test over test images, which says nothing about seeds"
