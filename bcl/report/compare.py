"""Runs side by side: seeds of one method together, differences from the baseline tested."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bcl.core.errors import InputError
from bcl.evaluation.metrics import confidence_interval
from bcl.evaluation.results import ProbeReport
from bcl.report.significance import holm, mcnemar, paired_t

Values = dict[str, Any]
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
    """Runs that differ in their seed alone.

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
        """Seed of every run."""
        return [report.record.get("seed") for report in self.reports]

    def entry(self, protocol: str) -> Values | None:
        """The first run's entry of a protocol, with the class accuracies of all runs' mean."""
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
    """Put runs of one name and different seeds together; others stay apart.

    Args:
        reports: the runs, the baseline first.

    Returns:
        One entry a method, in order of first appearance.

    Raises:
        InputError: see `check_comparable`.
    """
    check_comparable(reports)
    found: dict[str, Method] = {}
    for report in reports:
        label, copy = report.name, 2
        while label in found:
            seeds = found[label].seeds
            seed = report.record.get("seed")
            if seed is not None and None not in seeds and seed not in seeds:
                break
            label, copy = f"{report.name} ({copy})", copy + 1
        method = found.setdefault(label, Method(label, len(found), []))
        method.reports.append(report)
        method.plain.append(report.to_dict())
    return list(found.values())


def check_comparable(reports: Sequence[ProbeReport]) -> None:
    """Refuse runs whose numbers do not belong side by side.

    Args:
        reports: the runs.

    Raises:
        InputError: none at all, or different test sets. Other class counts are noted instead
            (`difference_notes`): SDCLR's five splits have five orders of the classes.
    """
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
    """What else differs between runs of one test set, and what the data sets say of themselves.

    Args:
        reports: the runs.

    Returns:
        Sentences for readers.
    """
    notes = []
    first = reports[0]
    for key, words in (
        ("content_hash", "pretraining images"),
        ("probe_hash", "probe training images"),
    ):
        others = sorted({r.name for r in reports if r.data.get(key) != first.data.get(key)})
        if others:
            notes.append(f"Other {words} than {first.name}: {', '.join(others)}.")
    for key, names, words in (
        ("images_hash", "content_hash", "pretraining"),
        ("test_images_hash", "test_hash", "test"),
    ):
        others = sorted(
            {
                r.name
                for r in reports
                if r.data.get(names) == first.data.get(names)
                and r.data.get(key)
                and first.data.get(key)
                and r.data[key] != first.data[key]
            }
        )
        if others:
            notes.append(
                f"The {words} images of the same names hold other bytes (another encoding or "
                f"size) than those of {first.name}: {', '.join(others)}."
            )
    others = sorted(
        {r.name for r in reports if r.data["class_counts"] != first.data["class_counts"]}
    )
    if others:
        notes.append(
            f"Other class counts than {first.name}, so that Many, Medium and Few may be other "
            f"classes: {', '.join(others)}."
        )
    for rule in sorted({report.rule for report in reports} - {first.rule}):
        notes.append(f"Some runs name the rule {rule}; all tables here use {first.rule}.")
    of_all = [note for note in first.data.get("notes") or [] if _everywhere(note, reports)]
    notes += [note[:1].upper() + note[1:] for note in of_all]
    for report in reports:
        for note in report.data.get("notes") or []:
            if note not in of_all:
                notes.append(f"{report.name}: {note}")
    return list(dict.fromkeys(notes))


def _everywhere(note: str, reports: Sequence[ProbeReport]) -> bool:
    return all(note in (report.data.get("notes") or []) for report in reports)


def compare(reports: Sequence[ProbeReport]) -> list[Values]:
    """One table a protocol.

    Args:
        reports: the runs, the baseline first.

    Returns:
        Tables with ``protocol``, ``description``, ``kind``, ``rule``, ``test`` (which paired test
        was made, or None) and ``rows``: ``method``, ``index``, ``seeds``, ``draws``, ``values`` by
        column (`COLUMNS`) with ``mean``, ``ci95`` and, off the baseline, ``gain`` and ``p`` (after
        Holm's correction); ``notes`` and ``chosen``. Accuracies are shares.

    Raises:
        InputError: see `check_comparable`.
    """
    together = methods(reports)
    rule = reports[0].rule
    names: dict[str, Values] = {}
    for method in together:
        for plain in method.plain:
            for entry in plain["protocols"]:
                names.setdefault(entry["name"], entry)
    return [_table(name, first, together, rule) for name, first in names.items()]


def _table(name: str, first: Values, together: list[Method], rule: str) -> Values:
    rows = []
    for method in together:
        entries = method.entries(name)
        if not entries:
            continue
        values = {column: _over_runs(entries, column, rule) for column in COLUMNS}
        rows.append(
            {
                "method": method.label,
                "index": method.index,
                "seeds": method.seeds,
                "draws": len(entries[0]["draws"]),
                "values": values,
                "notes": sorted({note for entry in entries for note in entry["notes"]}),
                "chosen": entries[0]["draws"][0]["chosen"],
            }
        )
    table = {
        "protocol": name,
        "description": first["description"],
        "kind": first["kind"],
        "rule": rule,
        "test": None,
        "rows": rows,
    }
    baseline = together[0]
    if len(rows) > 1 and rows[0]["index"] == baseline.index:
        _test_rows(table, name, together, rule)
    return table


def _single(entry: Values, column: str, rule: str) -> Values:
    summary = entry["summary"]
    found = summary.get(rule, {}).get(column)
    if column in ("all", "top5"):
        found = summary.get("accuracy" if column == "all" else "top5")
    return dict(found) if found is not None else {"mean": None, "ci95": None}


def _over_runs(entries: list[Values], column: str, rule: str) -> Values:
    """Mean over seeds with its interval; a single run keeps the interval over its draws."""
    singles = [_single(entry, column, rule) for entry in entries]
    means = [single["mean"] for single in singles if single["mean"] is not None]
    if len(entries) == 1 or not means:
        return {**singles[0], "runs": means}
    mean, half = confidence_interval(means)
    return {"mean": mean, "ci95": half if half == half else None, "runs": means}


def _test_rows(table: Values, name: str, together: list[Method], rule: str) -> None:
    """Gain over the baseline and its p-value, for every other row."""
    baseline, base_row = together[0], table["rows"][0]
    others = table["rows"][1:]
    p_values: dict[str, list[float | None]] = {column: [] for column in TESTED}
    kinds = set()
    for row in others:
        method = together[row["index"]]
        for column in COLUMNS:
            a, b = base_row["values"][column]["mean"], row["values"][column]["mean"]
            row["values"][column]["gain"] = None if a is None or b is None else b - a
        samples, kind = _pairs(baseline, method, name, rule)
        for column in TESTED:
            first, second = samples.get(column, ([], []))
            known = None not in first and None not in second
            p_values[column].append(paired_t(first, second) if known else None)
        if kind is None:
            p, kind = _over_images(baseline, method, name)
            p_values["all"][-1] = p
        if kind is not None:
            kinds.add(kind)
    for column, found in p_values.items():
        for row, p in zip(others, holm(found), strict=True):
            row["values"][column]["p"] = p
    table["test"] = "; ".join(sorted(kinds)) or None


def _pairs(
    a: Method, b: Method, name: str, rule: str
) -> tuple[dict[str, tuple[list[Any], list[Any]]], str | None]:
    """Paired values by column, and the test's name: over common seeds, else over draws."""

    def by_seed(method: Method) -> dict[Any, Values]:
        return {
            plain["record"].get("seed"): entry
            for plain in method.plain
            for entry in plain["protocols"]
            if entry["name"] == name
        }

    first, second = by_seed(a), by_seed(b)
    seeds = [seed for seed in first if seed is not None and seed in second]
    if len(seeds) > 1:
        values = {
            column: (
                [_single(first[seed], column, rule)["mean"] for seed in seeds],
                [_single(second[seed], column, rule)["mean"] for seed in seeds],
            )
            for column in TESTED
        }
        return values, f"paired t-test over {len(seeds)} seeds"
    draws = [len(method.entries(name)[0]["draws"]) for method in (a, b)]
    drawn_from = (
        "content_hash" if "long-tailed" in a.entries(name)[0]["description"] else "probe_hash"
    )
    same = a.plain[0]["data"][drawn_from] == b.plain[0]["data"][drawn_from]
    if draws[0] != draws[1] or draws[0] < 2 or not same:
        return {}, None
    values = {
        column: (_draws(a, name, column, rule), _draws(b, name, column, rule)) for column in TESTED
    }
    return values, f"paired t-test over {draws[0]} draws, which says nothing about seeds"


def _draws(method: Method, name: str, column: str, rule: str) -> list[Any]:
    """One value a draw of a method's first run."""
    draws = method.entries(name)[0]["draws"]
    if column == "all":
        return [draw["accuracy"] for draw in draws]
    ids = method.plain[0]["groups"][rule][column] if rule in method.plain[0]["groups"] else []
    rows = [
        [draw["per_class"][c] for c in ids if draw["per_class"][c] is not None] for draw in draws
    ]
    return [sum(row) / len(row) if row else None for row in rows]


def _over_images(a: Method, b: Method, name: str) -> tuple[float | None, str | None]:
    first, second = a.reports[0].predictions, b.reports[0].predictions
    if name not in first or name not in second or "labels" not in first:
        return None, None
    if first[name].shape[0] != 1 or second[name].shape[0] != 1:
        return None, None
    right_a = first[name][0] == first["labels"]
    right_b = second[name][0] == second["labels"]
    p = mcnemar(int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum()))
    return p, "McNemar test over test images, which says nothing about seeds"
