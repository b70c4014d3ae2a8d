"""Reports as one HTML file: runs side by side, with nothing to load from anywhere."""

import base64
import json
import math
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from bcl.errors import InputError
from bcl.evaluation.figures import COLOURS, MARKERS, Chart, smooth
from bcl.evaluation.results import ProbeReport
from bcl.files import write_text

Values = dict[str, Any]


def render_report(
    reports: ProbeReport | Sequence[ProbeReport],
    out: str | Path,
    *,
    title: str = "Linear probe report",
    overwrite: bool = True,
) -> Path:
    """Write reports side by side into one self-contained HTML file.

    Args:
        reports: one report or several of the same test set; the first is the baseline.
        out: the HTML file.
        title: heading of the page.
        overwrite: whether an existing file may be replaced.

    Returns:
        The file's path.

    Raises:
        InputError: no report, reports of different test sets, a file that exists, a folder that
            cannot be written, or jinja2 missing.
    """
    runs = [reports] if isinstance(reports, ProbeReport) else list(reports)
    path = Path(out)
    check_out(path, overwrite)
    text = render_html(runs, title=title)
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place.") from error
    return path


def check_out(path: Path, overwrite: bool) -> None:
    """Refuse an output that exists or cannot be written, before any work is done.

    Args:
        path: the file to be written.
        overwrite: whether it may exist.

    Raises:
        InputError: see above.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file, such as {path / 'report.html'}.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; name another file, or pass --overwrite.")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {path}: {folder} is not writable; choose another place.")


def check_comparable(runs: Sequence[ProbeReport]) -> None:
    """Refuse runs whose numbers do not belong side by side.

    Args:
        runs: reports.

    Raises:
        InputError: none at all, or different test sets.
    """
    if not runs:
        raise InputError("no report to render; give at least one.")
    first = runs[0]
    for run in runs[1:]:
        if run.data["test_hash"] != first.data["test_hash"]:
            raise InputError(
                f"'{first.name}' and '{run.name}' were tested on different pictures (test set "
                f"{first.data['test_hash'][:12]} and {run.data['test_hash'][:12]}); their "
                "accuracies cannot be compared. Report them one by one."
            )


def render_html(runs: Sequence[ProbeReport], *, title: str = "Linear probe report") -> str:
    """The page as text; see `render_report`.

    Args:
        runs: reports, the baseline first.
        title: heading of the page.

    Returns:
        HTML.

    Raises:
        InputError: see `render_report`.
    """
    check_comparable(runs)
    try:
        import jinja2
    except ImportError as error:
        raise InputError("reports need jinja2: pip install 'bcl-cacr[report]'.") from error
    here = resources.files("bcl.evaluation")
    read = {
        name: here.joinpath(name).read_text(encoding="utf-8")
        for name in ("report.html.j2", "report.css", "report.js")
    }
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    environment.filters["half"] = half
    # Saved reports hold None for NaN; a fresh one is brought into the same form.
    views = [_view(run, index) for index, run in enumerate(runs)]
    return environment.from_string(read["report.html.j2"]).render(
        title=title,
        css=read["report.css"],
        js=read["report.js"],
        runs=views,
        first=views[0],
        protocols=_protocols(views),
        charts=_charts(views),
    )


def percent(value: float | None, digits: int = 2) -> str:
    """A share as percent; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def half(value: float | None) -> str:
    """Half-width of an interval; empty where there is none."""
    return "" if value is None or math.isnan(value) else f"±{100 * value:.2f}"


def _view(run: ProbeReport, index: int) -> Values:
    values = run.to_dict()
    names = []
    for picture, content in zip(values["pictures"], run.pictures, strict=True):
        if content["png"]:
            picture["uri"] = "data:image/png;base64," + base64.b64encode(content["png"]).decode()
            names.append(picture)
    record = values["record"]
    return {
        **values,
        "name": run.name,
        "index": index,
        "colour": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "rule": run.rule,
        "pictures": names,
        "history": [row for row in record.get("history") or [] if isinstance(row, dict)],
        "config_text": json.dumps(record.get("config") or {}, indent=2, ensure_ascii=False),
    }


def _protocols(views: list[Values]) -> list[Values]:
    """One table a protocol: what each run that has it reached."""
    order: dict[str, Values] = {}
    for view in views:
        for entry in view["protocols"]:
            table = order.setdefault(
                entry["name"],
                {"name": entry["name"], "description": entry["description"], "rows": []},
            )
            table["rows"].append(
                {
                    "run": view,
                    "summary": entry["summary"],
                    "groups": entry["summary"][view["rule"]],
                    "chosen": entry["draws"][0]["chosen"],
                    "draws": len(entry["draws"]),
                    "notes": entry["notes"],
                }
            )
    for table in order.values():
        for key in ("many", "medium", "few"):
            best = [row["groups"][key]["mean"] for row in table["rows"]]
            table[f"best_{key}"] = max((value for value in best if value is not None), default=None)
        table["best_all"] = max(row["summary"]["accuracy"]["mean"] for row in table["rows"])
    return list(order.values())


def _charts(views: list[Values]) -> Values:
    protocol = next((e["name"] for e in views[0]["protocols"] if e["kind"] == "linear"), None)
    protocol = protocol or views[0]["protocols"][0]["name"]
    return {
        "protocol": protocol,
        "frequency": _accuracy_over_frequency(views, protocol),
        "curves": _training_curves(views),
        "tracker": [_momentum_loss(view) for view in views if view["tracker"]],
    }


def _limits(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * pad or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _count_limits(counts: Sequence[int]) -> tuple[float, float]:
    there = [count for count in counts if count > 0]
    return max(min(there) * 0.85, 0.5), max(there) * 1.15


def _accuracy_over_frequency(views: list[Values], protocol: str) -> str:
    chart = Chart(
        "Accuracy over class frequency",
        f"test accuracy of every class ({protocol}) over its number of training pictures, one "
        "colour and marker a run, with a smoothed line",
        "training pictures of the class (log scale)",
        "test accuracy, %",
        _count_limits(views[0]["data"]["class_counts"]),
        (0.0, 1.0),
        x_log=True,
        y_format=lambda value: f"{100 * value:.0f}",
    )
    lines = []
    for view in views:
        entry = next((e for e in view["protocols"] if e["name"] == protocol), None)
        if entry is None:
            continue
        x, y = [], []
        for class_id, (count, value) in enumerate(
            zip(view["data"]["class_counts"], entry["per_class"], strict=True)
        ):
            if count > 0 and value is not None:
                x.append(math.log(count))
                y.append(value)
                name = view["data"]["class_names"][class_id]
                tip = f"{view['name']}: {name}, {count:,} pictures, {percent(value, 1)} %"
                chart.point(count, value, view["colour"], view["marker"], tip)
        line = [(math.exp(a), min(max(b, 0.0), 1.0)) for a, b in smooth(x, y)]
        lines.append((line, view["colour"]))
    for line, colour in lines:
        if line:
            chart.line(line, colour, width=2.4)
    return chart.svg()


def _training_curves(views: list[Values]) -> str:
    curves = []
    for view in views:
        points = [
            (float(row["epoch"]), float(row["loss"]))
            for row in view["history"]
            if row.get("epoch") is not None and row.get("loss") is not None
        ]
        if len(points) > 1:
            curves.append((view, points))
    if not curves:
        return ""
    chart = Chart(
        "Training loss",
        "mean pretraining loss of every epoch, one line a run",
        "epoch",
        "loss",
        (min(p[0] for _, c in curves for p in c), max(p[0] for _, c in curves for p in c)),
        _limits([p[1] for _, c in curves for p in c]),
    )
    for view, points in curves:
        chart.line(points, view["colour"])
    return chart.svg()


def _momentum_loss(view: Values) -> Values:
    tracker, counts = view["tracker"], view["data"]["class_counts"]
    rows = [
        row for row in tracker["by_class"] if row["mean"] is not None and counts[row["class"]] > 0
    ]
    if not rows:
        return {"view": view, "svg": ""}
    chart = Chart(
        f"Momentum loss of {view['name']}",
        "mean momentum loss of every class over its number of training pictures, bars from the "
        "lower to the upper quartile of its samples",
        "training pictures of the class (log scale)",
        "momentum loss",
        _count_limits(counts),
        _limits([row[key] for row in rows for key in ("low", "high", "mean")]),
        x_log=True,
    )
    for row in rows:
        count = counts[row["class"]]
        chart.stem(count, row["low"], row["high"], view["colour"])
        name = view["data"]["class_names"][row["class"]]
        tip = f"{name}: {count:,} pictures, momentum loss {row['mean']:.3f}"
        chart.point(count, row["mean"], view["colour"], view["marker"], tip)
    return {"view": view, "svg": chart.svg()}
