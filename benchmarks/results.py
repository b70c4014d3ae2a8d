"""The format that all benchmarks share, so that one table can hold their results.

A case is one thing that was done (such as NT-Xent with 512 samples) by several contenders, of which
one is ours. Contenders take turns, so a round has one value of each. Ratios are taken within
a round, and their median is reported, since a drifting machine affects all contenders equally.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bcl.core.files import write_text
from bcl.core.provenance import commit, hardware, versions

SCHEMA = "bcl-cacr/benchmark"
SCHEMA_VERSION = 1
Row = dict[str, Any]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; nearest values, since there may be few."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[round(last / 4)], statistics.median(ordered), ordered[round(3 * last / 4)]


def compare(
    case: str,
    unit: str,
    values: Mapping[str, Sequence[float]],
    *,
    ours: str,
    better: Literal["lower", "higher"] = "lower",
    extra: Mapping[str, str] | None = None,
) -> list[Row]:
    """Rows of one case, with how many times as fast as each contender ours is.

    Args:
        case: what was done.
        unit: of the values.
        values: contender to its value in each round; contenders with as many rounds as ours are
            compared round by round, the others by their medians.
        ours: which contender is ours.
        better: ``"lower"`` for times, ``"higher"`` for rates.
        extra: contender to anything else to show, such as its memory.

    Returns:
        One row per contender, ours first.
    """
    own = values[ours]
    rows = []
    for name in [ours, *(name for name in values if name != ours)]:
        theirs = values[name]
        if not theirs:
            continue
        low, middle, high = spread(theirs)
        row: Row = {
            "case": case,
            "contender": name,
            "ours": name == ours,
            "unit": unit,
            "better": better,
            "median": middle,
            "low": low,
            "high": high,
            "rounds": len(theirs),
        }
        if name != ours:
            paired = zip(own, theirs, strict=True) if len(own) == len(theirs) else ()
            pairs = list(paired) or [(statistics.median(own), middle)]
            ratios = [b / a if better == "lower" else a / b for a, b in pairs]
            row["ratio_low"], row["ratio"], row["ratio_high"] = spread(ratios)
        if extra and extra.get(name):
            row["extra"] = extra[name]
        rows.append(row)
    return rows


LEFT_OUT = "left out, since it did not run: "
PARTIAL = "rounds done before it ended: "
NOT_INSTALLED = "left out, since it is not installed: "


def left_out(values: Mapping[str, Sequence[Any]], why: str = LEFT_OUT) -> list[str]:
    """A note that names the contenders without a value, if there are any.

    Example:
        >>> left_out({"ours": [1.0], "other": []}), left_out({"ours": [1.0]})
        (['left out, since it did not run: other'], [])
    """
    names = [name for name, each in values.items() if not each]
    return [why + ", ".join(names)] if names else []


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", metavar="FILE", help="write the results here")


def save(
    path: str | Path,
    benchmark: str,
    rows: Sequence[Row],
    *,
    seed: int | None = 0,
    clock: str = "wall",
    notes: Sequence[str] = (),
    **details: Any,
) -> None:
    """Write the rows with command, commit, versions and hardware.

    Args:
        path: the file.
        benchmark: its name, that of the script.
        rows: from `compare`.
        seed: of what was drawn, if anything was.
        clock: ``"wall"`` or ``"cpu"``.
        notes: lines to print below the table.
        details: whatever else the benchmark keeps.
    """
    import torch

    content = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "benchmark": benchmark,
        "command": command_line(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "hardware": hardware(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "seed": seed,
        "clock": clock,
        "notes": list(notes),
        "rows": list(rows),
        **details,
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(Path(path), json.dumps(content, indent=1, default=str) + "\n")


def command_line() -> str:
    """The running command, without its output options."""
    words = sys.argv[1:]
    if "--json" in words:
        place = words.index("--json")
        words = words[:place] + words[place + 2 :]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


# `publish` keeps what pages show and what the numbers depend on.
RESULT_KEYS = (
    "job", "benchmark", "command", "commit", "date", "hardware", "versions", "threads",
    "load_average", "seed", "clock", "notes",
)  # fmt: skip
ROW_KEYS = (
    "case", "contender", "ours", "unit", "median", "ratio", "ratio_low", "ratio_high", "extra",
)  # fmt: skip


def publish(path: Path, found: Sequence[dict[str, Any]]) -> None:
    """Write the results of all jobs to one file, a row per line."""
    lines = []
    for result in found:
        about = {key: result[key] for key in RESULT_KEYS}
        rows = [{k: _short(row[k]) for k in ROW_KEYS if k in row} for row in result["rows"]]
        head = json.dumps(about, ensure_ascii=False)[:-1]
        body = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        lines.append(f'{head}, "rows": [\n  {body}]}}')
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def load(path: str | Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        ValueError: the file is not such a result, or of another version.
    """
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    known = content if isinstance(content, dict) else {}
    found = known.get("schema"), known.get("schema_version")
    if found != (SCHEMA, SCHEMA_VERSION) or not {*RESULT_KEYS, "rows"} - {"job"} <= known.keys():
        raise ValueError(
            f"{path} is of schema {found}, not {(SCHEMA, SCHEMA_VERSION)}, or lacks some of it; "
            "run its benchmark again."
        )
    return content
