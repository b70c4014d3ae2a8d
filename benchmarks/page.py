"""Benchmark figures for the pages, and tables with the commands that made them."""

from collections.abc import Sequence
from typing import Any

from bcl.report.tables import Table

Result = dict[str, Any]
Row = dict[str, Any]


def number(value: float) -> str:
    """Three significant digits, thousands with commas.

    Example:
        >>> number(12345.6), number(0.01234), number(1.5)
        ('12,300', '0.0123', '1.50')
    """
    if value == 0:
        return "0"
    text = f"{float(f'{value:.3g}'):,.6f}"
    whole, _, fraction = text.partition(".")
    digits = len(whole.replace(",", "").lstrip("-0"))
    keep = max(0, 3 - digits)
    if digits == 0:
        keep = 2 + len(fraction) - len(fraction.lstrip("0")) + 1
    return f"{whole}.{fraction[:keep]}" if keep else whole


def amount(row: Row) -> str:
    """Median and unit, and what else the row has."""
    extra = f" ({row['extra']})" if row.get("extra") else ""
    return f"{number(row['median'])} {row['unit']}{extra}"


def ratio(row: Row) -> str:
    """How many times as fast ours is, with quartiles if there are several rounds.

    Example:
        >>> ratio({"ratio": 1.5, "ratio_low": 1.5, "ratio_high": 1.5})
        '**1.50**'
        >>> ratio({"ratio": 0.9, "ratio_low": 0.8, "ratio_high": 1.1})
        '0.900, behind (0.800 to 1.10)'
    """
    if "ratio" not in row:
        return ""
    median = number(row["ratio"])
    text = f"**{median}**" if row["ratio"] >= 1 else f"{median}, behind"
    if row["ratio_low"] == row["ratio_high"]:
        return text
    return f"{text} ({number(row['ratio_low'])} to {number(row['ratio_high'])})"


def table(found: Sequence[Result]) -> str:
    """All cases in one table: ours, the other, how many times as fast ours is."""
    lines: list[list[str]] = []
    for row in (row for result in found for row in result["rows"]):
        if row["ours"]:
            case, own = row["case"], f"{row['contender']}: {amount(row)}"
        else:
            lines.append([case, own, f"{row['contender']}: {amount(row)}", ratio(row)])
            case, own = "", ""  # only in its first line
    head = ["what", "ours", "compared with", "ours is … times as good"]
    return Table(head, lines, left=4).markdown()


def growth(found: Sequence[Result]) -> str:
    """Cases that have no contender: a line per case, its sizes beside each other."""
    cases: dict[str, list[str]] = {}
    for row in (row for result in found for row in result["rows"]):
        cases.setdefault(row["case"], []).append(f"{row['contender']}: {amount(row)}")
    return Table(
        ["what", "sizes"], [[case, "; ".join(s)] for case, s in cases.items()], 2
    ).markdown()


def section(found: Sequence[Result]) -> str:
    """Results of one benchmark: their table, how they were made, and notes."""
    items = [provenance(result) for result in found]
    items += [f"- {note}" for result in found for note in result["notes"]]
    alone = all(row["ours"] for result in found for row in result["rows"])
    shown = growth(found) if alone else table(found)
    return "\n\n".join([shown, "\n".join(items)])


def provenance(result: Result) -> str:
    """The command with everything its numbers depend on, as a list item."""
    versions = result["versions"]
    packages = ", ".join(f"{p} {versions[p]}" for p in ("torch", "torchvision") if p in versions)
    # If the command sets the threads, they are in the command or in the rows.
    threads = "" if "--threads" in result["command"] else f", {result['threads']} thread(s)"
    clock = {"wall": "wall clock", "cpu": "processor time"}[result["clock"]]
    load = result.get("load_average")
    busy = f", load average {load[0]:.1f} at the end" if load else ""
    return (
        f"- `{result['command']}`: commit {result['commit']}, {result['date']}, "
        f"{result['hardware']}{threads}, {clock}{busy}, "
        f"Python {versions['python']}, {packages}, seed {result['seed']}"
    )
