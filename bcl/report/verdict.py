"""What a report found, in words: every sentence follows from the tests in its tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from bcl.report.compare import COLUMNS, LEVEL, Comparison, Method, Row, Value
from bcl.report.differences import TESTED
from bcl.report.tables import percent


@dataclass(frozen=True)
class Verdict:
    """A finding and what it rests on."""

    headline: str
    details: list[str]


class Found(NamedTuple):
    """One comparison with the baseline."""

    protocol: str
    column: str
    row: Row

    @property
    def value(self) -> Value:
        """Its number."""
        return self.row.values[self.column]

    @property
    def gain(self) -> float:
        """The difference, which it has."""
        assert self.value.gain is not None
        return self.value.gain


def verdicts(tables: Sequence[Comparison], together: Sequence[Method]) -> list[Verdict]:
    """What was found of each method against the baseline, or of a method that is alone."""
    if len(together) == 1:
        main = together[0].first.main_protocol
        return [_alone(next(t for t in tables if t.protocol == main), together[0])]
    return [_against(tables, together[0], method) for method in together[1:]]


def tests_over_seeds(tables: Sequence[Comparison]) -> int:
    """How many differences are tested over seeds, which is what the correction is over."""
    return sum(value.p_all is not None for table in tables for value in table.values)


def points(gain: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * gain:+.2f}".replace("-", "−")


def _against(tables: Sequence[Comparison], base: Method, method: Method) -> Verdict:
    found = [
        Found(table.protocol, column, row)
        for table in tables
        if table.rows[0].index == 0
        for row in table.rows
        if row.index == method.index
        for column in TESTED
        if row.values[column].gain is not None
    ]
    names = f"{method.label} and {base.label}"
    if not found:
        return Verdict(f"{names} share no protocol: nothing to compare.", [])
    if any(each.row.over == "seeds" for each in found):
        seeded = [each for each in found if each.row.over == "seeds"]
        return _over_seeds(seeded, base, method, tests_over_seeds(tables))
    common = {seed for seed in base.seeds if seed is not None} & set(method.seeds)
    seeds = "One seed" if common else "No seed in common"
    differ = [each for each in found if _below(each)]
    tests = sum(each.value.p is not None for each in found)
    if differ:
        of = f"{len(differ)} of {tests} tests, {LEVEL * tests:.1f} would by chance"
        said = (
            f"These two encoders differ in {of}: {_listed(differ)}. Do the methods? Run more seeds."
        )
    elif any(each.row.over for each in found):
        said = "These two encoders are not told apart either."
    else:
        said = "Nothing could be tested: the runs have no predictions or draws in common."
    head = f"{seeds}: no claim about which of {names} is better."
    return Verdict(head, [_of_all(found, base, method), said])


def _over_seeds(found: Sequence[Found], base: Method, method: Method, tests: int) -> Verdict:
    """Better, worse, equal or undecided, by tests over seeds."""
    better = [each for each in found if each.row.established(each.column) > 0]
    worse = [each for each in found if each.row.established(each.column) < 0]
    equal = [each for each in found if each.gain == 0 and each.value.p is None]
    a, b, total = base.label, method.label, len(found)
    if better and worse:
        counts = f"{len(better)} and worse in {len(worse)} of {total} comparisons"
        head = f"{b} is better than {a} in {counts}."
    elif better:
        head = f"{b} is better than {a} in {len(better)} of {total} comparisons and worse in none."
    elif worse:
        head = f"{b} is worse than {a} in {len(worse)} of {total} comparisons and better in none."
    elif len(equal) == total:
        head = f"{b} and {a} are equally accurate in all {total} comparisons."
    else:
        head = f"No difference between {b} and {a} is established."
    details = [
        f"{word}, in points: {_listed(some)}."
        for word, some in (("Better", better), ("Worse", worse))
        if some
    ]
    if not details:
        details = [_of_all(found, base, method)]
    hints = [each for each in found if _below(each) and each not in (*better, *worse)]
    if hints:
        by_chance = f"{LEVEL * total:.1f} of {total} would be by chance"
        details.append(f"Hints that do not hold among all tests ({by_chance}): {_listed(hints)}.")
    seeds = max(each.row.units for each in found)
    words = "Holm’s correction over all tests on this page"
    return Verdict(head, [*details, f"Paired t-tests over {seeds} seeds; {words}, {tests}."])


def _below(each: Found) -> bool:
    """Whether a difference has p < 0.05 in its own column."""
    return each.value.p is not None and each.value.p < LEVEL


def _of_all(found: Iterable[Found], base: Method, method: Method) -> str:
    """The difference over all classes under each protocol, and its direction."""
    listed = _listed(each for each in found if each.column == "all")
    return f"{method.label} over {base.label}, in points: {listed}."


def _listed(found: Iterable[Found]) -> str:
    """Differences with their intervals by protocol: "full: All +1.20 [+0.40, +2.00], Few …"."""
    parts = []
    for protocol, some in groupby(found, key=lambda each: each.protocol):
        words = []
        for each in some:
            ends = each.value.gain_interval
            interval = f" [{points(ends[0])}, {points(ends[1])}]" if ends else ""
            words.append(f"{COLUMNS[each.column]} {points(each.gain)}{interval}")
        parts.append(f"{protocol}: {', '.join(words)}")
    return "; ".join(parts)


def _alone(table: Comparison, method: Method) -> Verdict:
    """Accuracy with its interval, and whether rare classes are below frequent ones."""
    values, runs = table.rows[0].values, len(table.rows[0].seeds)
    of = f"over {runs} seeds" if runs > 1 else "in one run"
    head = f"{method.label} {of}: All {_accuracy(values['all'])} under {table.protocol}."
    many, few = values["many"], values["few"]
    if many.mean is None or few.mean is None:
        missing = "Many" if many.mean is None else "Few"
        said = f"No class is in {missing}, so rare and frequent classes are not compared."
    else:
        word = _order(few, many)
        said = f"Few, {_accuracy(few)}, {word} Many, {_accuracy(many)}."
    seed = "" if runs > 1 else " One seed: no claim about the method."
    return Verdict(head, [said + seed])


def _order(a: Value, b: Value) -> str:
    """How two accuracies lie, by whether their intervals overlap."""
    (low, high), (bottom, top) = a.ends, b.ends
    if high < bottom:
        return "lies below"
    return "lies above" if low > top else "is not told apart from"


def _accuracy(value: Value) -> str:
    if value.mean is None:
        return "–"
    low, high = value.ends
    return f"{percent(value.mean)} % [{percent(low)}, {percent(high)}]"
