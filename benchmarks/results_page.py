"""Write docs/results.md from the result files in benchmarks/evidence.

python benchmarks/reproduce.py --preset cpu --root CIFAR10
cp outputs/reproduce/cpu/results.json benchmarks/evidence/cpu.json
python benchmarks/results_page.py

Files of one preset and commit become one table, in which runs of one are compared with those of
another; across commits nothing is compared.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from reproduce import read_preset
from summary import SCHEMA, SCHEMA_VERSION, commits, merge

from bcl.core.errors import InputError
from bcl.core.files import write_text

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "evidence", HERE.parent / "docs" / "results.md"
COLUMNS = {"all": "All", "many": "Many", "medium": "Medium", "few": "Few"}
HEAD = """# Results

<!-- Written by benchmarks/results_page.py from benchmarks/evidence/; do not edit. -->

Accuracies in per cent, mean over the seeds ± half the 95 % interval (Student's t). Differences are
in points and paired by seed: both runs have the same images, order of classes and initial
weights. **Bold** differences are significant at 5 % after Holm's correction over the rows of their
column; an interval without 0 that is not bold did not survive the correction. Columns and tables
are not corrected for: of twenty columns, one with a bold row is to be expected by chance.

[Rerun the results](reproduce.md): the commands, the presets, what each run changes.
"""


def read(path: Path) -> dict[str, Any]:
    """Read a result file of `benchmarks/reproduce.py`."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if (content.get("schema"), content.get("schema_version")) != (SCHEMA, SCHEMA_VERSION):
        raise InputError(f"{path} is no result of benchmarks/reproduce.py of this version.")
    return content


def cell(entry: dict[str, Any], sign: bool = False) -> str:
    """A mean with its interval."""
    text = f"{entry['mean']:+.2f}" if sign else f"{entry['mean']:.2f}"
    if entry["ci95"] is not None:
        text += f" ± {entry['ci95']:.2f}"
    p = entry.get("p_holm")
    return f"**{text}**" if sign and p is not None and p < 0.05 else text


def table(head: list[str], rows: list[list[str]], left: int) -> list[str]:
    """A Markdown table whose first columns are text."""
    rule = "|" + "---|" * left + "---:|" * (len(head) - left)
    return [f"| {' | '.join(row)} |" for row in [head]] + [rule] + [
        f"| {' | '.join(row)} |" for row in rows
    ]  # fmt: skip


def section(result: dict[str, Any]) -> list[str]:
    """One table of runs: what was run, means, differences, what the tracker found."""
    labels, runs = result["labels"], result["runs"]
    seeds = sorted({run["seed"] for run in runs})
    epochs = sorted({run["epochs"] for run in runs})
    hours = sum(run["wall_seconds"] or 0 for run in runs) / 3600
    recipes = sorted({run["recipe"] for run in runs})
    lines = [f"## {result['about']}", ""]
    lines += ["```sh", *result["command"].splitlines(), "```", ""]
    lines += [
        f"{result['hardware']}; "
        + ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        + f". Seeds {', '.join(map(str, seeds))}; {', '.join(map(str, epochs))} epochs; "
        f"{hours:.1f} hours of training in all. Groups: {result['groups'].partition(': ')[2]}.",
        "",
        "Training sets: " + "; ".join(recipes) + ".",
        "",
    ]
    for name, description in result["descriptions"].items():
        lines += [f"### {name}", "", f"{description}.", ""]
        rows = []
        for run, by_protocol in result["means"].items():
            found = by_protocol[name]
            cells = [cell(found[column]) for column in COLUMNS]
            rows.append([labels[run], str(found["all"]["seeds"]), *cells])
        lines += [*table(["run", "seeds", *COLUMNS.values()], rows, 1), ""]
        found = [row for row in result["differences"][name] if row["all"]["seeds"] > 0]
        if not found:
            continue
        rows = [
            [
                labels[row["run"]],
                labels[row["baseline"]],
                *(cell(row[column], sign=True) for column in COLUMNS),
                ", ".join(f"{gain:+.1f}" for gain in row["all"]["by_seed"]),
            ]
            for row in found
        ]
        head = ["run", "minus", *COLUMNS.values(), "All by seed"]
        lines += [*table(head, rows, 2), ""]
    lines += ["### What the tracker found", ""]
    lines += [
        "Rank correlation of momentum loss with class frequency, over samples and over class means "
        "(the tail is found where it is negative), and the final training loss; means over seeds.",
        "",
    ]
    rows = []
    for run, label in labels.items():
        own = [each for each in runs if each["run"] == run]

        def mean(values: list[float | None]) -> str:
            known = [value for value in values if value is not None]
            return f"{sum(known) / len(known):+.2f}" if known else "–"

        rows.append(
            [
                label,
                mean([each["tracker"].get("spearman_samples") for each in own]),
                mean([each["tracker"].get("spearman_classes") for each in own]),
                mean([each["final_loss"] for each in own]),
            ]
        )
    lines += [*table(["run", "over samples", "over classes", "final loss"], rows, 1), ""]
    return lines


def published() -> tuple[list[dict[str, Any]], str]:
    """The committed results, and what they mean in words."""
    tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        result = read(path)
        tables.setdefault((result["preset"], *commits(result)), []).append(result)
    results = []
    presets = [name for name, *_ in tables]
    for (name, *made_by), parts in tables.items():
        pairs = [(run, baseline) for run, baseline in read_preset(name)["compare"]]
        result = merge(parts, pairs)
        if presets.count(name) > 1:
            result["about"] += f", commit {', '.join(made_by)}"
        results.append(result)
    return results, (RESULTS / "reading.md").read_text(encoding="utf-8")


def page(results: list[dict[str, Any]], reading: str) -> str:
    """The whole page."""
    lines = [HEAD, reading]
    for result in results:
        lines += section(result)
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=str(PAGE))
    args = parser.parse_args()
    try:
        results, reading = published()
    except InputError as error:
        print(f"results_page: {error}", file=sys.stderr)
        return 2
    write_text(Path(args.out), page(results, reading))
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
