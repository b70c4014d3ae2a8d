"""Reports as one HTML file: runs side by side, with nothing to load from anywhere."""

import base64
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from bcl.core.errors import InputError, unknown_name
from bcl.core.files import write_text
from bcl.evaluation.results import SCHEMA, ProbeReport
from bcl.report import charts
from bcl.report.compare import COLUMNS, Method, compare, difference_notes, methods
from bcl.report.confusion import tail_confusion
from bcl.report.tables import (
    comparison_json,
    csv_table,
    latex_table,
    markdown_table,
    percent,
    stars,
)

Values = dict[str, Any]
FORMATS = {"md": markdown_table, "tex": latex_table, "csv": csv_table, "json": comparison_json}
IMAGE_ROWS = {
    "highest": (
        "highest memorization scores",
        "Not yet memorized: where views are boosted, these most.",
    ),
    "lowest": ("lowest memorization scores", "Memorized: where views are boosted, these hardly."),
    "risen": (
        "scores that rose most",
        "Forgotten, relative to the others, since the earlier epoch.",
    ),
    "fallen": ("scores that fell most", "Memorized since the earlier epoch."),
}


def render_report(
    reports: ProbeReport | Sequence[ProbeReport],
    out: str | Path,
    *,
    title: str = "Linear probe report",
    formats: Sequence[str] = (),
    overwrite: bool = True,
) -> Path:
    """Write reports side by side into one self-contained HTML file.

    Args:
        reports: one report or several of the same test set; the first is the baseline, and runs
            of one name with different seeds are averaged.
        out: the HTML file.
        title: heading of the page.
        formats: also write the tables beside the page: ``"md"``, ``"tex"``, ``"csv"``, ``"json"``.
        overwrite: whether existing files may be replaced.

    Returns:
        The file's path.

    Raises:
        InputError: no report, reports of different test sets, a file that exists, a folder that
            cannot be written, an unknown format, or jinja2 missing.

    Example:
        >>> import tempfile
        >>> from bcl import evaluate
        >>> from datamodules import DigitsLT
        >>> gray = lambda images: images.float().mean((2, 3))
        >>> report = evaluate(gray, DigitsLT(), protocols="knn@10", record={"name": "gray value"})
        >>> page = render_report(report, Path(tempfile.mkdtemp()) / "report.html", formats=["csv"])
        >>> "gray value" in page.read_text(encoding="utf-8"), page.with_suffix(".csv").exists()
        (True, True)
    """
    runs = [reports] if isinstance(reports, ProbeReport) else list(reports)
    path = Path(out)
    formats = list(dict.fromkeys(formats))
    targets = check_out(path, overwrite, formats)
    texts = [render_html(runs, title=title), *(FORMATS[name](runs) for name in formats)]
    for target, text in zip(targets, texts, strict=True):
        try:
            write_text(target, text)
        except OSError as error:
            raise InputError(
                f"cannot write {target}: {error.strerror}; choose another place."
            ) from error
    return path


def check_out(path: Path, overwrite: bool, formats: Sequence[str] = ()) -> list[Path]:
    """Refuse an output that exists or cannot be written, before any work is done.

    Args:
        path: the file to be written.
        overwrite: whether it may exist.
        formats: further files beside it.

    Returns:
        All files that will be written.

    Raises:
        InputError: see above.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file, such as {path / 'report.html'}.")
    targets = [path, *(path.with_suffix(f".{name}") for name in dict.fromkeys(formats))]
    twice = sorted({target.name for target in targets if targets.count(target) > 1})
    if twice:
        raise InputError(f"{twice[0]} would be both the page and a table; name the page otherwise.")
    for target in targets:
        if _is_probe_report(target):  # also with overwrite: the results would be lost
            raise InputError(
                f"{target} holds a run's results, which are never replaced by a comparison; name "
                f"another page, such as {path.with_name('comparison.html')}."
            )
        if target.exists() and not overwrite:
            raise InputError(f"{target} exists; name another file, or pass --overwrite.")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {path}: {folder} is not writable; choose another place.")
    return targets


def _is_probe_report(path: Path) -> bool:
    """Whether a file is what `ProbeReport.save` wrote, of whatever version."""
    if not path.is_file():
        return False
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("schema") == SCHEMA


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
    together = methods(runs)
    for run in runs:
        if not run.protocols:
            raise InputError(f"report '{run.name}' has no protocol; there is nothing to show.")
    try:
        import jinja2
    except ImportError as error:
        raise InputError("reports need jinja2: pip install 'bcl-cacr[report]'.") from error
    here = resources.files("bcl.report")
    read = {
        name: here.joinpath(name).read_text(encoding="utf-8")
        for name in ("report.html.j2", "report.css", "report.js")
    }
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    environment.filters["stars"] = stars
    environment.filters["points"] = lambda value: f"{100 * value:+.2f}"
    environment.filters["decimal"] = lambda value, digits=3: (
        "–" if value is None else f"{value:.{digits}f}"
    )
    protocol = charts.main_protocol(together)
    tables = compare(runs)
    for table in tables:
        table["columns"] = [c for c in COLUMNS if c != "top5" or table["kind"] != "knn"]
        table["marked"] = any(
            stars(value.get("p")) for row in table["rows"] for value in row["values"].values()
        )
        table["tested"] = any(
            value.get("p") is not None for row in table["rows"] for value in row["values"].values()
        )
        table["best"] = {
            column: max(
                (m for row in table["rows"] if (m := row["values"][column]["mean"]) is not None),
                default=None,
            )
            for column in ("many", "medium", "few", "all")
        }
    views = [_view(method, protocol) for method in together]
    return environment.from_string(read["report.html.j2"]).render(
        title=title,
        css=read["report.css"],
        js=read["report.js"],
        columns=COLUMNS,
        methods=views,
        first=views[0]["runs"][0],
        protocol=protocol,
        tables=tables,
        notes=difference_notes(runs),
        overview=_overview(tables, len(together)) if len(tables) > 2 else [],
        solvers=charts.solver_lines(together),
        image_rows=IMAGE_ROWS,
        charts={
            "frequency": charts.accuracy_over_frequency(together, protocol),
            "gain": charts.gain_over_baseline(together, protocol),
            "few_shot": charts.few_shot_curve(together),
            "loss": charts.history_curve(together, "loss", "Training loss", "mean loss"),
            "online": charts.online_curves(together),
            "scores": charts.history_curve(
                together, "score_mean", "Mean memorization score", "mean score"
            ),
        },
        markdown=markdown_table(runs),
        latex=latex_table(runs),
    )


def _overview(tables: list[Values], count: int) -> list[list[Values | None]]:
    """All accuracy by method and protocol, None where a method lacks the protocol."""
    rows: list[list[Values | None]] = [[None] * len(tables) for _ in range(count)]
    for column, table in enumerate(tables):
        for row in table["rows"]:
            rows[row["index"]][column] = {**row["values"]["all"], "ci95": None}
    return rows


def _view(method: Method, protocol: str) -> Values:
    """What the template shows of a method; images and tracker are those of its first run."""
    first = method.plain[0]
    images = []
    for image, content in zip(first["images"], method.reports[0].images, strict=True):
        if content["png"]:
            image["uri"] = "data:image/png;base64," + base64.b64encode(content["png"]).decode()
            images.append(image)
    entry = method.entry(protocol)
    return {
        "label": method.label,
        "index": method.index,
        "color": charts.color(method.index),
        "marker": charts.marker(method.index),
        "runs": method.plain,
        "images": images,
        "tracker": first["tracker"],
        "momentum_loss": charts.momentum_loss(method) if first["tracker"] else "",
        "score_histogram": charts.score_histogram(method) if first["tracker"] else "",
        "per_class": entry["per_class"] if entry else None,
        "measures": first["measures"],
        "confusion": _confusion(method, protocol),
        "configs": [
            json.dumps(plain["record"].get("config") or {}, indent=2, ensure_ascii=False)
            for plain in method.plain
        ],
    }


def _confusion(method: Method, protocol: str) -> Values | None:
    report, plain = method.reports[0], method.plain[0]
    if protocol not in report.predictions or "labels" not in report.predictions:
        return None
    return tail_confusion(
        report.predictions[protocol],
        report.predictions["labels"],
        plain["groups"][report.rule],
        plain["data"]["class_counts"],
    )
