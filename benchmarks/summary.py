"""The numbers of a table of probed runs: each run, and paired differences over seeds."""

from pathlib import Path
from typing import Any

from bcl.core.errors import InputError
from bcl.evaluation.metrics import confidence_interval
from bcl.evaluation.results import ProbeReport
from bcl.report.significance import holm, paired_t

COLUMNS = ("all", "many", "medium", "few")
SCHEMA = "bcl-cacr/reproduction"
SCHEMA_VERSION = 1


def value(report: ProbeReport, protocol: str, column: str) -> float:
    """One accuracy in per cent, the mean over the protocol's draws."""
    result = report.protocol(protocol)
    found = result.accuracy if column == "all" else result.groups[report.grouping][column]
    return 100 * found.mean


def summarize(
    paths: dict[tuple[str, int], Path],
    labels: dict[str, str],
    pairs: list[tuple[str, str]],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Summarize a table of runs.

    Args:
        paths: (run, seed) to the folder of its report.
        labels: run to what readers see.
        pairs: (run, baseline) to compare over the seeds that both have.
        about: what else the result should say.

    Returns:
        Plain values: ``runs`` (one entry a run and seed), ``means`` (by run and protocol) and
        ``differences`` (by pair and protocol, in points, with the 95 % interval of Student's t and
        Holm's correction over the pairs, each column by itself).
    """
    reports = {key: ProbeReport.load(path) for key, path in paths.items()}
    first = next(iter(reports.values()))
    had = [{entry.name for entry in report.protocols} for report in reports.values()]
    protocols = [e.name for e in first.protocols if all(e.name in names for names in had)]
    runs = []
    for (run, seed), report in reports.items():
        record = report.record
        accuracy = {
            name: {column: value(report, name, column) for column in COLUMNS} for name in protocols
        }
        tracker = report.tracker or {}
        runs.append(
            {
                "run": run,
                "label": labels[run],
                "seed": seed,
                "epochs": record.get("epochs"),
                "final_loss": record["history"][-1]["loss"] if record.get("history") else None,
                "wall_seconds": record.get("wall_seconds"),
                "commit": record.get("commit"),
                "recipe": report.data.get("recipe"),
                "tracker": {k: v for k, v in tracker.items() if isinstance(v, int | float)},
                "accuracy": accuracy,
            }
        )
    machines = {report.record.get("hardware") or "unknown hardware" for report in reports.values()}
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        **about,
        "hardware": "; ".join(sorted(machines)),
        "versions": first.record.get("versions"),
        "descriptions": {e.name: e.description for e in first.protocols if e.name in protocols},
        "groups": first.groups[first.grouping].description,
        **_tables(runs, pairs, protocols),
    }


def merge(results: list[dict[str, Any]], pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Put results of one preset into one table, so that runs of one are compared with another's.

    Args:
        results: what `summarize` made, of the same data and protocols.
        pairs: (run, baseline) to compare.

    Returns:
        One result, with the commands, commits and machines of all.

    Raises:
        InputError: a run and seed that stands in two of them, or sets of images, groups, versions
            or protocols that differ.
    """
    first = results[0]
    for key in ("preset", "about", "groups", "versions", "descriptions"):
        for other in results[1:]:
            if other[key] != first[key]:
                raise InputError(
                    f"results of preset '{first['preset']}' differ in {key}: {first[key]} and "
                    f"{other[key]}; keep one of the files, or run both anew."
                )
    runs = [run for result in results for run in result["runs"]]
    recipes: dict[int, str] = {}
    seen = set()
    for run in runs:
        if (run["run"], run["seed"]) in seen:
            raise InputError(
                f"run '{run['run']}' with seed {run['seed']} stands in two results of preset "
                f"'{first['preset']}'; keep one."
            )
        seen.add((run["run"], run["seed"]))
        if recipes.setdefault(run["seed"], run["recipe"]) != run["recipe"]:
            raise InputError(
                f"seed {run['seed']} of preset '{first['preset']}' has two training sets: "
                f"{recipes[run['seed']]} and {run['recipe']}; keep the results of one."
            )
    return {
        **first,
        "command": "\n".join(_with_commit(result) for result in results),
        "hardware": "; ".join(sorted({result["hardware"] for result in results})),
        **_tables(runs, pairs, list(first["descriptions"])),
    }


def commits(result: dict[str, Any]) -> list[str]:
    """The commits that made a result's runs."""
    return sorted({str(run["commit"]) for run in result["runs"]})


def _with_commit(result: dict[str, Any]) -> str:
    return f"{result['command']}  # commit {', '.join(commits(result))}"


def _tables(
    runs: list[dict[str, Any]], pairs: list[tuple[str, str]], protocols: list[str]
) -> dict[str, Any]:
    labels = {run["run"]: run["label"] for run in runs}
    known = [pair for pair in pairs if set(pair) <= set(labels)]
    return {
        "labels": labels,
        "runs": runs,
        "means": {run: {name: _mean(runs, run, name) for name in protocols} for run in labels},
        "differences": {name: _differences(runs, known, name) for name in protocols},
    }


def _values(runs: list[dict[str, Any]], run: str, name: str, column: str) -> dict[int, float]:
    return {e["seed"]: e["accuracy"][name][column] for e in runs if e["run"] == run}


def _interval(values: list[float]) -> dict[str, Any]:
    mean, half = confidence_interval(values)
    return {
        "mean": mean if values else None,
        "ci95": half if half == half else None,
        "seeds": len(values),
    }


def _mean(runs: list[dict[str, Any]], run: str, name: str) -> dict[str, Any]:
    return {
        column: _interval(list(_values(runs, run, name, column).values())) for column in COLUMNS
    }


def _differences(
    runs: list[dict[str, Any]], pairs: list[tuple[str, str]], name: str
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for run, baseline in pairs:
        row: dict[str, Any] = {"run": run, "baseline": baseline}
        for column in COLUMNS:
            new, old = (_values(runs, each, name, column) for each in (run, baseline))
            seeds = sorted(new.keys() & old.keys())
            a, b = [old[seed] for seed in seeds], [new[seed] for seed in seeds]
            gains = [y - x for x, y in zip(a, b, strict=True)]
            # In shares, as reports save them: so the test knows their rounding from a spread.
            p = paired_t([x / 100 for x in a], [y / 100 for y in b])
            row[column] = {**_interval(gains), "p": p, "by_seed": gains}
        rows.append(row)
    for column in COLUMNS:
        corrected = holm([row[column]["p"] for row in rows])
        for row, p in zip(rows, corrected, strict=True):
            row[column]["p_holm"] = p
    return rows
