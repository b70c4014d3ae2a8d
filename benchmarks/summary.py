"""The numbers of a table of probed runs: each run, and paired differences over seeds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bcl.core.errors import InputError
from bcl.core.files import write_text
from bcl.evaluation.metrics import confidence_interval
from bcl.evaluation.results import ProbeReport
from bcl.report.significance import holm, paired_t

COLUMNS = ("all", "many", "medium", "few")
STD = "std"  # of the three groups, over 2
TRACKER = ("spearman_samples", "spearman_classes", "auc")
DISCOVERY = ("auc", "average_precision", "phi", "spearman_samples", "spearman_classes")
MIN_SEEDS = 3  # of a difference that may be called significant
SCHEMA = "bcl-cacr/reproduction"
SCHEMA_VERSION = 2
Values = dict[str, Any]


def summarize(
    paths: dict[tuple[str, int], Path],
    labels: dict[str, str],
    about: dict[str, Any],
    settings: dict[tuple[str, int], str] | None = None,
) -> Values:
    """Summarize a table of runs.

    Args:
        paths: (run, seed) to the folder of its report.
        labels: run to its name in the tables.
        about: further entries of the result.
        settings: hash of each run's configuration, by which other machines know it.

    Returns:
        Plain values: what all runs share, and ``runs``, one entry per run and seed with its
        accuracies in per cent.
    """
    reports = {key: ProbeReport.load(path) for key, path in paths.items()}
    first = next(iter(reports.values()))
    had = [{entry.name for entry in report.protocols} for report in reports.values()]
    protocols = [e.name for e in first.protocols if all(e.name in names for names in had)]
    machines = {report.record.get("hardware") or "unknown hardware" for report in reports.values()}
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        **about,
        "hardware": "; ".join(sorted(machines)),
        "versions": first.record.get("versions"),
        "descriptions": {e.name: e.description for e in first.protocols if e.name in protocols},
        "groups": first.groups[first.grouping].description,
        "runs": [
            _entry(report, run, labels[run], seed, protocols)
            | ({"settings": settings[run, seed]} if settings else {})
            for (run, seed), report in reports.items()
        ],
    }


def _entry(report: ProbeReport, run: str, label: str, seed: int, protocols: list[str]) -> Values:
    record, found = report.record, (report.tracker or {}).get("discovery") or {}
    return {
        "run": run,
        "label": label,
        "seed": seed,
        "epochs": record.get("epochs"),
        "final_loss": record["history"][-1]["loss"] if record.get("history") else None,
        "wall_seconds": record.get("wall_seconds"),
        "commit": record.get("commit"),
        "recipe": report.data.get("recipe"),
        "tracker": {key: found[key][0] for key in TRACKER if key in found},
        "signals": _signals(report.tracker or {}),
        "accuracy": {
            name: {column: value(report, name, column) for column in (*COLUMNS, STD)}
            for name in protocols
        },
    }


def _signals(tracker: Values) -> Values:
    """How well each signal found the tail: value and interval, and AUC and φ by epoch."""
    found = {}
    for name, entry in tracker.get("signals", {}).items():
        if entry["discovery"] is not None:
            kept = {key: _rounded(entry["discovery"][key]) for key in DISCOVERY}
            epochs = [_rounded([row["epoch"], row["auc"], row["phi"]]) for row in entry["epochs"]]
            found[name] = {**kept, "epochs": epochs}
    return found


def _rounded(values: list[float]) -> list[float | None]:
    return [None if value != value else round(value, 4) for value in values]


def value(report: ProbeReport, protocol: str, column: str) -> float:
    """One accuracy in per cent, the mean over the protocol's draws."""
    result = report.protocol(protocol)
    groups = result.groups[report.grouping]
    found = (
        result.accuracy if column == "all" else groups[f"{STD}_sample" if column == STD else column]
    )
    return 100 * found.mean


def write(path: Path, result: Values) -> None:
    """Write a result, a run per line."""
    head = json.dumps(
        {k: v for k, v in result.items() if k != "runs"}, indent=1, ensure_ascii=False
    )
    runs = ",\n  ".join(json.dumps(run, ensure_ascii=False) for run in result["runs"])
    write_text(path, head.removesuffix("\n}") + f',\n "runs": [\n  {runs}\n ]\n}}\n')


def read(path: Path) -> Values:
    """Read what `write` wrote."""
    content: Values = json.loads(path.read_text(encoding="utf-8"))
    if (content.get("schema"), content.get("schema_version")) != (SCHEMA, SCHEMA_VERSION):
        raise InputError(f"{path} is no result of benchmarks/reproduce.py of this version.")
    return content


def merge(results: list[Values]) -> Values:
    """Merge results of one preset, so that all their runs can be compared.

    Args:
        results: of the same data and protocols.

    Returns:
        One result, with the commands, commits and machines of all.

    Raises:
        InputError: two of them have the same run and seed, or their images, groups, versions or
            protocols differ.
    """
    first = results[0]
    for key in ("preset", "about", "groups", "versions", "descriptions"):
        for other in results[1:]:
            if other[key] != first[key]:
                raise InputError(
                    f"results of preset '{first['preset']}' differ in {key}: {first[key]} and "
                    f"{other[key]}; keep one of the files, or run both again."
                )
    runs = [run for result in results for run in result["runs"]]
    recipes: dict[int, str] = {}
    seen = set()
    for run in runs:
        if (run["run"], run["seed"]) in seen:
            raise InputError(
                f"two results of preset '{first['preset']}' have run '{run['run']}' with seed "
                f"{run['seed']}; keep one."
            )
        seen.add((run["run"], run["seed"]))
        if recipes.setdefault(run["seed"], run["recipe"]) != run["recipe"]:
            raise InputError(
                f"seed {run['seed']} of preset '{first['preset']}' has two training sets: "
                f"{recipes[run['seed']]} and {run['recipe']}; keep the results of one."
            )
    return {
        **first,
        "command": "\n".join(
            f"{result['command']}  # commit {', '.join(commits(result))}" for result in results
        ),
        "hardware": "; ".join(sorted({result["hardware"] for result in results})),
        "runs": runs,
    }


def extend(earlier: Values, found: Values | None) -> Values:
    """Add runs to those of another machine, with the hardware and versions of both."""
    if found is None:
        return earlier
    versions = {
        name: ", ".join(sorted({str(each["versions"][name]) for each in (earlier, found)}))
        for name in earlier["versions"].keys() & found["versions"].keys()
    }
    machines = {name for each in (earlier, found) for name in each["hardware"].split("; ")}
    return {
        **found,
        "hardware": "; ".join(sorted(machines)),
        "versions": dict(sorted(versions.items())),
        "runs": [*earlier["runs"], *found["runs"]],
    }


def commits(result: Values) -> list[str]:
    """The commits that made a result's runs."""
    return sorted({str(run["commit"]) for run in result["runs"]})


def labels(result: Values) -> dict[str, str]:
    """Each run's label."""
    return {run["run"]: run["label"] for run in result["runs"]}


def mean(result: Values, run: str, protocol: str) -> Values:
    """Mean over seeds and half of its 95 % interval, by column."""
    return {
        column: _interval(list(_by_seed(result, run, protocol, column).values()))
        for column in COLUMNS
    }


def differences(
    result: Values,
    pairs: Sequence[tuple[str, str]],
    protocol: str,
    columns: Sequence[str] = COLUMNS,
    family: int = 0,
    min_seeds: int = MIN_SEEDS,
) -> list[Values]:
    """Differences in points over the seeds that both runs of a pair have.

    Args:
        result: of `summarize`.
        pairs: (run, baseline).
        protocol: of the accuracies.
        columns: what is compared.
        family: how many comparisons Holm's correction counts at least, done or not.
        min_seeds: of a difference that may be called significant.

    Returns:
        A row per pair whose runs are there: mean, interval and p-value by column, the latter with
        Holm's correction over the rows that have ``min_seeds`` seeds.
    """
    rows: list[Values] = []
    for run, baseline in pairs:
        if not {run, baseline} <= labels(result).keys():
            continue
        row: Values = {"run": run, "baseline": baseline}
        for column in columns:
            new, old = (_by_seed(result, each, protocol, column) for each in (run, baseline))
            seeds = sorted(new.keys() & old.keys())
            gains = [new[seed] - old[seed] for seed in seeds]
            # In shares: the test can tell their rounding from a spread.
            p = paired_t([old[seed] / 100 for seed in seeds], [new[seed] / 100 for seed in seeds])
            row[column] = {**_interval(gains), "p": p, "by_seed": gains}
        rows.append(row)
    for column in columns:
        _correct([row[column] for row in rows], family, min_seeds)
    return rows


def _correct(entries: list[Values], family: int, min_seeds: int) -> None:
    """Add Holm's correction; a comparison that is not done counts as one without a difference."""
    p = [each["p"] if each["seeds"] >= min_seeds else None for each in entries]
    absent = max(0, family - sum(each is not None for each in p))
    for entry, corrected in zip(entries, holm([*p, *[1.0] * absent]), strict=False):
        entry["p_holm"] = corrected


def _by_seed(result: Values, run: str, protocol: str, column: str) -> dict[int, float]:
    own = (each for each in result["runs"] if each["run"] == run)
    return {each["seed"]: each["accuracy"][protocol][column] for each in own}


def _interval(values: list[float]) -> Values:
    middle, half = confidence_interval(values)
    return {
        "mean": middle if values else None,
        "ci95": half if half == half else None,
        "seeds": len(values),
    }
