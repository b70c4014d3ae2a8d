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
from scipy import stats

from bcl.report.tables import Table

EVIDENCE = results_page.EVIDENCE / "field"
STEPS = Path(__file__).resolve().parent / "results.json"
Result = dict[str, Any]
COLUMNS = (*summary.COLUMNS, summary.STD)
TITLES = {**results_page.COLUMNS, summary.STD: "Std"}
# Of the memory's signals, those whose discovery is shown.
SIGNALS = {
    "loss": "loss watched",
    "isolation": "isolation",
    "tailness": "tailness",
    "neighbors": "neighbor distance",
    "temperature": "learned temperature",
}
# Parts of a method that a step's cost depends on.
COSTLY = {"views", "encoder"}
ON_CPU = (
    " These runs have batches of 512 and a compiled encoder with a stem of stride 2. Differences "
    "below some 20 % are within the noise of that measurement."
)


def tables() -> str:
    """A section for each preset that was run, in part or whole."""
    return "\n\n".join(map(section, results_page.published(EVIDENCE))) or "*Not run yet.*"


def section(result: Result) -> str:
    """What was run, the accuracies, discovery and cost, differences, and published numbers."""
    preset = read_preset(result["preset"])
    main, *others = result["descriptions"]
    parts = [f"## {result['about']}", *results_page.provenance(result)]
    parts += [f"Protocol `{main}`: {result['descriptions'][main]}.", accuracies(result, main)]
    for stage, pairs in stages(preset).items():
        parts += differences({**result, "pairs": pairs}, stage, main, others)
    if others:
        parts += ["All under the other protocols:", by_protocol(result, others)]
    parts.append(beside_published(result, preset.get("published", {})))
    parts += [
        "How well the memory's signals find the tail (AUC, rarest third of the classes against the "
        "most frequent; 0.5 is chance):",
        discovery(result),
        *costs(result, preset),
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


def stages(preset: dict[str, Any]) -> dict[int, list[list[str]]]:
    """The pairs to compare, by the stage in which both runs are there."""
    found: dict[int, list[list[str]]] = {}
    for pair in preset["compare"]:
        stage = max(preset["runs"][run].get("stage", 1) for run in pair)
        found.setdefault(stage, []).append(pair)
    return found


def differences(result: Result, stage: int, main: str, others: list[str]) -> list[str]:
    """Differences of a stage's pairs, and those of All under the other protocols."""
    family = len(result["pairs"])
    table = results_page.differences(result, main, TITLES, family)
    if not table:
        return []
    needed = threshold(family, summary.MIN_SEEDS)
    parts = [
        f"Differences of stage {stage}, protocol `{main}`, paired by seed. Holm's correction "
        f"counts all {family} comparisons of the stage, done or not: with {summary.MIN_SEEDS} "
        f"seeds the clearest of a column must be {needed:.1f} times its printed ± to be bold.",
        table,
    ]
    if others:
        parts += [
            "Differences of All under the other protocols:",
            gains_by_protocol(result, others),
        ]
    return parts


def threshold(family: int, seeds: int) -> float:
    """How many times its ± the clearest of a family's differences must be to be significant.

    Example:
        >>> threshold(1, 3), round(threshold(9, 3), 2), round(threshold(9, 5), 2)
        (1.0, 3.11, 1.96)
    """
    needed, printed = stats.t.isf([0.025 / family, 0.025], seeds - 1)
    return float(needed / printed)


def gains_by_protocol(result: Result, protocols: list[str]) -> str:
    """Differences of All under each protocol, a row per pair."""
    labels, family = summary.labels(result), len(result["pairs"])
    tables = [
        summary.differences(result, result["pairs"], name, ["all"], family) for name in protocols
    ]
    rows = [
        [labels[row[0]["run"]], labels[row[0]["baseline"]]]
        + [results_page.cell(each["all"], sign=True) for each in row]
        for row in zip(*tables, strict=True)
        if row[0]["all"]["seeds"]
    ]
    return Table(["run", "minus", *protocols], rows, left=2).markdown()


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
        rows, names = [], entry.get("names", {})
        for run, numbers in entry["runs"].items():
            for column, number in zip(COLUMNS, numbers, strict=False):
                if values := found(result, run, protocol, column):
                    label = summary.labels(result)[run]
                    row = [label, names.get(run, label), TITLES[column]]
                    rows.append([*row, f"{number:.2f}", mean(values)])
        if rows:
            parts += [
                f"Protocol `{protocol}`, published ({entry['source']}) and here:",
                Table(["run", "published as", "", "published", "here"], rows, left=3).markdown(),
            ]
    return "\n\n".join(parts) or "No run of a method with published numbers is done yet."


def discovery(result: Result) -> str:
    """AUC of the tail by the signals that any run has, a row per run."""
    had = {name for each in result["runs"] for name in each["signals"]}
    shown = {name: title for name, title in SIGNALS.items() if name in had}
    rows = []
    for run, label in summary.labels(result).items():
        own = [each["signals"] for each in result["runs"] if each["run"] == run]
        auc = [[each[name]["auc"][0] for each in own if each.get(name)] for name in shown]
        rows.append([label, *(mean(values, 3) for values in auc)])
    return Table(["method", *shown.values()], rows).markdown()


def costs(result: Result, preset: dict[str, Any], path: Path = STEPS) -> list[str]:
    """Time and memory of each method's step, as paragraphs, and how they were measured."""
    name = "gpu-methods" if "gpu" in result["preset"] else "methods"
    jobs = [job for job in json.loads(path.read_text(encoding="utf-8")) if job["job"] == name]
    if not jobs:
        return [f'*Steps are not measured yet: `make bench ARGS="--only {name} --publish"`.*']
    (job,) = jobs
    cost = {row["contender"]: (_time(row), row.get("extra", "–")) for row in job["rows"]}
    rows = []
    for run, label in summary.labels(result).items():
        of = preset["runs"][run]
        own = of.get("settings", {}).get("model", {}).get("init_args", {})
        is_measured = not COSTLY & set(own)
        rows.append([label, *(cost.get(of["method"], ("–", "–")) if is_measured else ("–", "–"))])
    return [
        "What a step costs, measured apart from these runs, with all parts of a method at work: "
        f"{job['rows'][0]['case']}. SimCLR's is a time; the others' are the median of the ratios "
        f"to SimCLR within a round, with their quartiles.{ON_CPU if name == 'methods' else ''} – "
        "where there is no measurement, or one with other views or another encoder than the method "
        "has here.",
        Table(["method", "step", "memory"], rows).markdown(),
        "\n".join([page.provenance(job), *(f"- {note}" for note in job["notes"])]),
    ]


def _time(row: dict[str, Any]) -> str:
    """SimCLR's time, and the others' ratio to it, which rounds of other lengths do not change."""
    if "ratio" not in row:
        return f"{page.number(row['median'])} {row['unit']}"
    ratio, low, high = (page.number(row[key]) for key in ("ratio", "ratio_low", "ratio_high"))
    return f"{ratio} × SimCLR ({low} to {high})"
