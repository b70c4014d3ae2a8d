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
from bcl.report import charts, tables
from bcl.report.compare import COLUMNS, Method, compare, difference_notes, methods
from bcl.report.confusion import tail_confusion

Values = dict[str, Any]
FORMATS = {
    "md": tables.markdown_table,
    "tex": tables.latex_table,
    "csv": tables.csv_table,
    "json": tables.comparison_json,
}
IMAGE_ROWS = {
    "highest": (
        "highest memorization scores",
        "Not memorized yet: boosted views augment these most.",
    ),
    "lowest": ("lowest memorization scores", "Memorized: boosted views augment these least."),
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
        reports: one report, or several of the same test set; the first is the baseline, and runs
            of one name with different seeds are averaged.
        out: the HTML file.
        title: heading of the page.
        formats: also write the tables next to the page: ``"md"``, ``"tex"``, ``"csv"``, ``"json"``.
        overwrite: whether existing files may be replaced.

    Returns:
        The file's path.

    Raises:
        InputError: no report, reports of different test sets, a file that exists or cannot be
            written, an unknown format, or the extra ``report`` not installed.

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
    formats = list(dict.fromkeys(formats))
    targets = check_out(Path(out), overwrite, formats)
    texts = [render_html(runs, title=title), *(FORMATS[name](runs) for name in formats)]
    for target, text in zip(targets, texts, strict=True):
        try:
            write_text(target, text)
        except OSError as error:
            raise InputError(
                f"cannot write {target}: {error.strerror}; choose another place."
            ) from error
    return targets[0]


def check_out(path: Path, overwrite: bool, formats: Sequence[str] = ()) -> list[Path]:
    """Refuse an output that exists or cannot be written, before any work is done.

    Args:
        path: the file to be written.
        overwrite: whether it may exist.
        formats: further files next to it.

    Returns:
        All files that will be written, the page first.

    Raises:
        InputError: see above.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file, such as {path / 'report.html'}.")
    targets = [path, *(path.with_suffix(f".{name}") for name in dict.fromkeys(formats))]
    if path in targets[1:]:
        raise InputError(f"{path.name} would be both the page and a table; rename the page.")
    for target in targets:
        if json_schema(target) == SCHEMA:  # also with overwrite: the results would be lost
            raise InputError(
                f"{target} holds a run's results, which a comparison never replaces; name another "
                f"page, such as {path.with_name('comparison.html')}."
            )
        if target.exists() and not overwrite:
            raise InputError(f"{target} exists; name another file, or pass --overwrite.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {path}: {folder} is not writable; choose another place.")
    return targets


def json_schema(path: Path) -> str | None:
    """The schema that a JSON file names, "" if it names none; None if it is no JSON file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(values.get("schema", "")) if isinstance(values, dict) else ""


def render_html(runs: Sequence[ProbeReport], *, title: str = "Linear probe report") -> str:
    """The page as text; see `render_report`."""
    try:
        import jinja2
    except ImportError as error:
        raise InputError("reports need jinja2: pip install 'bcl-cacr[report]'.") from error
    together = methods(runs)
    for run in runs:
        if not run.protocols:
            raise InputError(f"report '{run.name}' has no protocol; there is nothing to show.")
    files = resources.files("bcl.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": tables.percent, "stars": tables.stars, "decimal": _decimal}
    protocol = charts.main_protocol(together)
    views = [_method_view(method, protocol) for method in together]
    found = [_table_view(table) for table in compare(runs)]
    return environment.get_template("report.html.j2").render(
        title=title,
        columns=COLUMNS,
        methods=views,
        first=views[0]["runs"][0],
        protocol=protocol,
        tables=found,
        notes=difference_notes(runs),
        overview=_overview(found, len(together)) if len(found) > 2 else [],
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
        markdown=tables.markdown_table(runs),
        latex=tables.latex_table(runs),
    )


def _decimal(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _table_view(table: Values) -> Values:
    """A comparison with what the template asks of it."""
    p_values = [value.get("p") for row in table["rows"] for value in row["values"].values()]
    return table | {
        "columns": [c for c in COLUMNS if c != "top5" or table["kind"] != "knn"],
        "marked": any(map(tables.stars, p_values)),
        "tested": any(p is not None for p in p_values),
        "best": tables.best(table),
    }


def _overview(found: list[Values], count: int) -> list[list[Values | None]]:
    """All accuracy by method and protocol; None if a method lacks the protocol."""
    rows: list[list[Values | None]] = [[None] * len(found) for _ in range(count)]
    for column, table in enumerate(found):
        for row in table["rows"]:
            rows[row["index"]][column] = {**row["values"]["all"], "ci95": None}
    return rows


def _method_view(method: Method, protocol: str) -> Values:
    """What the template shows of a method; images and tracker are those of its first run."""
    first, entry = method.plain[0], method.entry(protocol)
    images = []
    for image, content in zip(first["images"], method.reports[0].images, strict=True):
        if content.png:
            uri = "data:image/png;base64," + base64.b64encode(content.png).decode()
            images.append({**image, "uri": uri})
    records = [plain["record"].get("config") or {} for plain in method.plain]
    return {
        "label": method.label,
        "index": method.index,
        "color": charts.color(method.index),
        "shape": charts.shape(method.index),
        "runs": method.plain,
        "images": images,
        "tracker": first["tracker"],
        "momentum_loss": charts.momentum_loss(method) if first["tracker"] else "",
        "score_histogram": charts.score_histogram(method) if first["tracker"] else "",
        "per_class": entry["per_class"] if entry else None,
        "measures": first["measures"],
        "confusion": _confusion(method, protocol),
        "configs": [json.dumps(config, indent=2, ensure_ascii=False) for config in records],
    }


def _confusion(method: Method, protocol: str) -> Values | None:
    report, plain = method.reports[0], method.plain[0]
    if not {protocol, "labels"} <= report.predictions.keys():
        return None
    return tail_confusion(
        report.predictions[protocol],
        report.predictions["labels"],
        plain["groups"][report.grouping],
        plain["data"]["class_counts"],
    )
