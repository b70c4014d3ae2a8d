"""The tables of docs/comparison.md, built from the files in benchmarks/evidence/field.

make reproduce PRESET=field ROOT=DIR
cp outputs/reproduce/field/results.json benchmarks/evidence/field/field.json
make docs

A published number stands beside ours where profile, network, epochs and probe are the same, as the
preset says, and nowhere else. Whatever has not been run is left out.
"""

import json
from pathlib import Path
from typing import Any

import page
import results_page
import summary
from preset import read_preset

from bcl.report.tables import Table

EVIDENCE = results_page.EVIDENCE / "field"
STEPS = Path(__file__).resolve().parent / "results.json"
Result = dict[str, Any]
COLUMNS = (*summary.COLUMNS, summary.STD)
TITLES = {**results_page.COLUMNS, summary.STD: "Std"}
# Of the memory's signals, those whose discovery is shown.
SIGNALS = {"loss": "loss", "neighbors": "neighbor distance"}


def tables() -> str:
    """A section for each preset that was run, in part or whole."""
    return "\n\n".join(map(section, results_page.published(EVIDENCE))) or "*Not run yet.*"


def section(result: Result) -> str:
    """What was run, the accuracies, discovery and cost, differences, and published numbers."""
    preset = read_preset(result["preset"])
    main, *others = result["descriptions"]
    parts = [f"## {result['about']}", *results_page.provenance(result)]
    parts += [f"Protocol `{main}`: {result['descriptions'][main]}.", accuracies(result, main)]
    if gains := results_page.differences(result, main):
        parts += [f"Differences, protocol `{main}`, paired by seed:", gains]
    if others:
        parts += ["All under the other protocols:", by_protocol(result, others)]
    parts.append(beside_published(result, preset.get("published", {})))
    parts += [
        "How well the memory's signals find the tail (AUC, rarest third of the classes against the "
        "most frequent; 0.5 is chance), and what a step costs:",
        discovery_and_cost(result, {key: run["method"] for key, run in preset["runs"].items()}),
    ]
    return "\n\n".join(parts)


def found(result: Result, run: str, protocol: str, column: str) -> list[float]:
    """A run's values by seed; none where it has not this protocol or column."""
    rows = [each["accuracy"].get(protocol, {}) for each in result["runs"] if each["run"] == run]
    return [row[column] for row in rows if column in row]


def mean(values: list[float], digits: int = 2) -> str:
    """Mean ± half of its 95 % interval over seeds.

    Example:
        >>> mean([50.0, 51.0, 52.0]), mean([50.0]), mean([])
        ('51.00 ± 2.48', '50.00', '–')
    """
    if not values:
        return "–"
    middle, half = summary.confidence_interval(values)
    return f"{middle:.{digits}f}" + (f" ± {half:.{digits}f}" if half == half else "")


def accuracies(result: Result, protocol: str) -> str:
    """All, the groups and their spread, a row per run."""
    rows = []
    for run, label in summary.labels(result).items():
        values = [found(result, run, protocol, column) for column in COLUMNS]
        rows.append([label, str(len(values[0])), *map(mean, values)])
    return Table(["method", "seeds", *TITLES.values()], rows).markdown()


def by_protocol(result: Result, protocols: list[str]) -> str:
    """All under each protocol, a row per run."""
    rows = [
        [label, *(mean(found(result, run, name, "all")) for name in protocols)]
        for run, label in summary.labels(result).items()
    ]
    described = "; ".join(f"`{name}`: {result['descriptions'][name]}" for name in protocols)
    return f"{Table(['method', *protocols], rows).markdown()}\n\n{described}."


def beside_published(result: Result, published: dict[str, Any]) -> str:
    """Ours beside each published number of the same protocol."""
    if not published:
        return "No published number is of this protocol: none stands beside these."
    parts = []
    for protocol, entry in published.items():
        rows = []
        for run, numbers in entry["runs"].items():
            for column, number in zip(COLUMNS, numbers, strict=False):
                if values := found(result, run, protocol, column):
                    title = f"{summary.labels(result)[run]}, {TITLES[column]}"
                    rows.append([title, f"{number:.2f}", mean(values)])
        if rows:
            parts += [
                f"Protocol `{protocol}`, published ({entry['source']}) and here:",
                Table(["", "published", "here"], rows).markdown(),
            ]
    return "\n\n".join(parts) or "No run of a method with published numbers is done yet."


def discovery_and_cost(result: Result, methods: dict[str, str]) -> str:
    """AUC of the tail by signal, and time and memory of a step, a row per run."""
    cost = steps()
    rows = []
    for run, label in summary.labels(result).items():
        own = [each["signals"] for each in result["runs"] if each["run"] == run]
        auc = [
            mean([each[name]["auc"][0] for each in own if each.get(name)], 3) for name in SIGNALS
        ]
        rows.append([label, *auc, *cost.get(methods[run], ("–", "–"))])
    head = ["method", *SIGNALS.values(), "step", "memory"]
    note = '*Steps are not measured yet: `make bench ARGS="--only methods --publish"`.*'
    return Table(head, rows).markdown() + ("" if cost else f"\n\n{note}")


def steps(path: Path = STEPS) -> dict[str, tuple[str, str]]:
    """Time, with its ratio to SimCLR's, and peak memory of each method's step."""
    jobs = json.loads(path.read_text(encoding="utf-8"))
    rows = [row for job in jobs if job["job"] == "methods" for row in job["rows"]]
    return {row["contender"]: (_time(row), row.get("extra", "–")) for row in rows}


def _time(row: dict[str, Any]) -> str:
    ratio = f" ({page.number(row['ratio'])} × SimCLR)" if "ratio" in row else ""
    return f"{page.number(row['median'])} {row['unit']}{ratio}"
