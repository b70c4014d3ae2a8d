"""The tables of docs/results.md, built from the files in benchmarks/evidence.

python benchmarks/reproduce.py --preset cpu --root CIFAR10
cp outputs/reproduce/cpu/results.json benchmarks/evidence/cpu.json
make docs

Files of one preset and commit become one table, in which their runs are compared. Runs of
different commits are never compared.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import summary
from preset import read_preset

from bcl.discovery.html import chart
from bcl.report.tables import Table

EVIDENCE = Path(__file__).resolve().parent / "evidence"
SIGNALS = EVIDENCE / "signals"  # whose page has tables of its own
COLUMNS = {"all": "All", "many": "Many", "medium": "Medium", "few": "Few"}


def cell(entry: dict[str, Any], sign: bool = False) -> str:
    """A mean with its interval; a significant difference is bold."""
    text = f"{entry['mean']:+.2f}" if sign else f"{entry['mean']:.2f}"
    if entry["ci95"] is not None:
        text += f" ± {entry['ci95']:.2f}"
    p = entry.get("p_holm")
    return f"**{text}**" if sign and p is not None and p < 0.05 else text


def published(folder: Path = EVIDENCE) -> list[dict[str, Any]]:
    """The committed results of a folder, one per preset and commit, with the pairs to compare."""
    tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        result = summary.read(path)
        tables.setdefault((result["preset"], *summary.commits(result)), []).append(result)
    results = []
    presets = [name for name, *_ in tables]
    for (name, *made_by), parts in tables.items():
        result = summary.merge(parts)
        if presets.count(name) > 1:
            result["about"] += f", commit {', '.join(made_by)}"
        pairs = [tuple(pair) for pair in read_preset(name)["compare"]]
        results.append(result | {"pairs": pairs})
    return results


def section(result: dict[str, Any]) -> str:
    """One table of runs: what was run, means, differences, what the tracker found."""
    parts = [f"## {result['about']}", *provenance(result)]
    for name, description in result["descriptions"].items():
        parts += [f"### {name}", f"{description}.", means(result, name)]
        if gains := differences(result, name):
            parts.append(gains)
    return "\n\n".join(
        [*parts, "### What the tracker found", *tracker(result, summary.labels(result))]
    )


def provenance(result: dict[str, Any]) -> list[str]:
    """How a table was made, as paragraphs."""
    runs = result["runs"]
    hours = sum(run["wall_seconds"] or 0 for run in runs) / 3600
    seeds, epochs = (
        ", ".join(map(str, sorted({run[key] for run in runs}))) for key in ("seed", "epochs")
    )
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return [
        f"```sh\n{result['command']}\n```",
        f"{result['hardware']}; {versions}. Seeds {seeds}; {epochs} epochs; {hours:.1f} hours by "
        "the clock, pauses and other work included. "
        f"Groups: {result['groups'].partition(': ')[2]}.",
        f"Training sets: {'; '.join(training_sets(run['recipe'] for run in runs))}.",
    ]


def training_sets(recipes: Iterable[str]) -> list[str]:
    """Each training set once; those that differ in the split seed alone together.

    Example:
        >>> training_sets(["a.zip, split seed 10: 9 images", "a.zip, split seed 2: 9 images"])
        ['a.zip, split seed 2, 10: 9 images']
        >>> training_sets(["list a.txt: 9 images"] * 2)
        ['list a.txt: 9 images']
    """
    seeds: dict[str, list[int]] = {}
    for recipe in sorted(set(recipes)):
        seed = re.search(r"(?<=, split seed )\d+", recipe)
        together = recipe[: seed.start()] + "{}" + recipe[seed.end() :] if seed else recipe
        seeds.setdefault(together, []).extend([int(seed[0])] if seed else [])
    return [
        recipe.replace("{}", ", ".join(map(str, sorted(each)))) for recipe, each in seeds.items()
    ]


def means(result: dict[str, Any], protocol: str) -> str:
    """Accuracies of each run."""
    rows = []
    for run, label in summary.labels(result).items():
        found = summary.mean(result, run, protocol)
        rows.append([label, str(found["all"]["seeds"]), *(cell(found[c]) for c in COLUMNS)])
    return Table(["run", "seeds", *COLUMNS.values()], rows).markdown()


def differences(
    result: dict[str, Any],
    protocol: str,
    columns: dict[str, str] = COLUMNS,
    family: int = 0,
    seeds: int = summary.MIN_SEEDS,
) -> str:
    """Differences of the pairs that share seeds; empty if there are none."""
    labels, rows = summary.labels(result), []
    for row in summary.differences(result, result["pairs"], protocol, [*columns], family, seeds):
        if row["all"]["seeds"]:
            gains = ", ".join(f"{gain:+.1f}" for gain in row["all"]["by_seed"])
            cells = [cell(row[column], sign=True) for column in columns]
            rows.append([labels[row["run"]], labels[row["baseline"]], *cells, gains])
    head = ["run", "minus", *columns.values(), "All by seed"]
    return Table(head, rows, left=2).markdown() if rows else ""


def tracker(result: dict[str, Any], labels: dict[str, str]) -> list[str]:
    """Rank correlations of each run's tracker, and its final loss; means over seeds."""

    def mean(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        return f"{sum(known) / len(known):+.2f}" if known else "–"

    rows = []
    for run, label in labels.items():
        own = [each for each in result["runs"] if each["run"] == run]
        found = [[e["tracker"].get(key) for e in own] for key in summary.TRACKER[:2]]
        found.append([e["final_loss"] for e in own])
        rows.append([label, *map(mean, found)])
    return [
        "Rank correlation of momentum loss with class frequency, over samples and over class means "
        "(the tail is found where it is negative), and the final training loss; means over seeds.",
        Table(["run", "over samples", "over classes", "final loss"], rows).markdown(),
    ]


# --- the overview ---------------------------------------------------------------------------


# Preset, its runs end in, and what the runs are.
SETTINGS = (
    ("cifar10-few", "", "CIFAR-10 folder, 1,111 images, ResNet-18, 1,500 epochs"),
    ("cpu", "", "CIFAR-10, 635 images, ResNet-8, 400 epochs"),
    ("digits", "_e25", "digits, ResNet-8, 25 epochs"),
    ("digits", "", "digits, ResNet-8, 100 epochs"),
    ("digits", "_e400", "digits, ResNet-8, 400 epochs"),
    ("signals-cifar10", "", "CIFAR-10-LT, 2,478 images, ResNet-8, 200 epochs"),
    ("signals-cifar100", "", "CIFAR-100-LT, 10,847 images, ResNet-8, 100 epochs"),
    ("signals-tiny", "", "Tiny-ImageNet-LT, 21,549 images, ResNet-8, 60 epochs"),
)


def comparisons() -> list[tuple[str, dict[str, Any], str, str]]:
    """Title, result, BCL-I and SimCLR of every setting and commit that has both."""
    found = []
    # There Holm's correction counts the rows of one run: BCL-I has one, against SimCLR.
    signals = [each | {"pairs": [("bcl_i", "simclr")]} for each in published(SIGNALS)]
    made = [*published(), *signals]
    for preset, end, title in SETTINGS:
        parts = [each for each in made if each["preset"] == preset]
        for result in parts:
            if not {f"bcl_i{end}", f"simclr{end}"} <= {*summary.labels(result)}:
                continue
            commit = f", commit {summary.commits(result)[0][:7]}" if len(parts) > 1 else ""
            found.append((title + commit, result, f"bcl_i{end}", f"simclr{end}"))
    return found


def overview() -> str:
    """BCL-I against SimCLR in every setting: a plot, and the table."""
    return f'<div class="plot">{_forest(_rows())}</div>\n\n{table()}'


def table() -> str:
    """BCL-I against SimCLR and its control, and what the memory found, a row per setting."""
    head = ["trained on", "seeds", "BCL-I - SimCLR, all", "the same, rare"]
    head += ["BCL-I - every sample at the mean score, all", "loss and class frequency"]
    rows = []
    for title, gain, control, found in _rows():
        rows.append(
            [
                title,
                str(gain["all"]["seeds"]),
                cell(gain["all"], sign=True),
                cell(gain["few"], sign=True),
                cell(control["all"], sign=True) if control else "–",
                f"{sum(found) / len(found):+.2f}",
            ]
        )
    return Table(head, rows, left=1).markdown()


def _rows(protocol: str = "full") -> list[tuple[str, Any, Any, list[float]]]:
    """Title, difference from SimCLR, from the control, and rank correlations of each setting."""
    rows = []
    for title, result, run, baseline in comparisons():
        pairs = summary.differences(result, result["pairs"], protocol)
        made = {row["baseline"]: row for row in pairs if row["run"] == run}
        runs = [each["tracker"] for each in result["runs"] if each["run"] == baseline]
        found = [each["spearman_classes"] for each in runs]
        rows.append((title, made[baseline], made.get(run.replace("bcl_i", "bcl_i_mean")), found))
    return rows


def _forest(rows: list[tuple[str, Any, Any, list[float]]]) -> str:
    """Differences from SimCLR with their intervals, a row per setting."""
    marks = []
    for title, gain, *_ in rows:
        for column, name in (("all", "all classes"), ("few", "rare classes")):
            mean, half = gain[column]["mean"], gain[column]["ci95"]
            ends = {"low": mean - half, "high": mean + half}
            marks.append({"setting": title, "classes": name, "mean": mean, **ends})
    y = {"field": "setting", "type": "nominal", "sort": None, "title": None}
    offset = {"field": "classes", "sort": None}
    axis = {"grid": False, "labelExpr": "datum.value > 0 ? '+' + datum.label : datum.label"}
    x = {"type": "quantitative", "title": "BCL-I minus SimCLR, points", "axis": axis}
    color = {
        "field": "classes",
        "sort": None,
        "scale": {"range": ["#0b61a4", "#c2410c"]},
        "legend": {"title": None, "orient": "top"},
    }
    common = {"y": y, "yOffset": offset, "color": color}
    text = {"labelFontSize": 12, "titleFontSize": 12, "labelLimit": 400}
    style = {"axis": {**text, "titleFontWeight": "normal"}, "legend": {"labelFontSize": 12}}
    gray = {f"{part}Color": "#888" for part in ("label", "title", "tick", "domain")}
    return chart(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "width": 360,
            "height": {"step": 18},
            "background": None,
            "config": {
                "axis": style["axis"] | gray,
                "legend": style["legend"] | {"labelColor": "#888"},
                "view": {"stroke": None},
            },
            "data": {"values": marks},
            "layer": [
                {"mark": {"type": "rule", "color": "#888"}, "encoding": {"x": {"datum": 0}}},
                {
                    "mark": {"type": "rule", "strokeWidth": 2},
                    "encoding": {**common, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                    "encoding": {**common, "x": {**x, "field": "mean"}},
                },
            ],
        }
    )


def page() -> str:
    """All tables."""
    return "\n\n".join(map(section, published()))
