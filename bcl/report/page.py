"""Reports as one HTML file: runs side by side, with nothing to load from anywhere."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from bcl.core.checks import check_choice
from bcl.core.errors import InputError
from bcl.core.files import check_writable, write_text
from bcl.discovery.html import templates
from bcl.evaluation.results import SCHEMA, ProbeReport
from bcl.report import charts, discovery, tables
from bcl.report.compare import (
    COLUMNS,
    compare,
    difference_notes,
    main_protocol,
    methods,
    small_group_notes,
)
from bcl.report.confusion import tail_confusion
from bcl.report.effects import effect_charts
from bcl.report.verdict import tests_over_seeds, verdicts

OVER = {"seeds": "over seeds", "draws": "over draws", "images": "over test images"}
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
    texts = [render_html(runs, title), *(FORMATS[name](runs) for name in formats)]
    for target, text in zip(targets, texts, strict=True):
        try:
            write_text(target, text)
        except OSError as error:
            raise InputError(
                f"cannot write {target}: {error.strerror}; choose another path."
            ) from error
    return targets[0]


def check_out(path: Path, overwrite: bool, formats: Sequence[str] = ()) -> list[Path]:
    """All files that will be written, the page first; an `InputError` if one of them cannot be."""
    for name in formats:
        check_choice("format", name, tuple(FORMATS))
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
    check_writable(path.absolute().parent, "--out")
    return targets


def json_schema(path: Path) -> str | None:
    """The schema that a JSON file names, "" if it names none; None if it is no JSON file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(values.get("schema", "")) if isinstance(values, dict) else ""


def render_html(runs: Sequence[ProbeReport], title: str) -> str:
    """The page as text."""
    together = methods(runs)
    for run in runs:
        if not run.protocols:
            raise InputError(f"report '{run.name}' has no protocol; there is nothing to show.")
    environment = templates("bcl.report", "bcl.discovery")
    protocol, compared = main_protocol(together), compare(runs)
    units = {row.over for table in compared for row in table.rows}
    environment.filters |= {
        "percent": tables.percent,
        "stars": tables.stars,
        "decimal": lambda x: "–" if x is None or x != x else f"{x:.3f}",
        "found_tail": discovery.found_tail,
        "base64": lambda content: base64.b64encode(content).decode(),
        "pretty": lambda x: json.dumps(x, indent=2, ensure_ascii=False, default=str),
    }
    page: str = environment.get_template("report.html.j2").render(
        title=title,
        columns=COLUMNS,
        methods=together,
        first=runs[0],
        protocol=protocol,
        tables=compared,
        verdicts=verdicts(compared, together),
        effects=effect_charts(compared, together),
        tests=tests_over_seeds(compared),
        over=" and ".join(OVER[over] for over in OVER if over in units),
        notes=[*small_group_notes(runs[0]), *difference_notes(runs)],
        confused=[
            (method, tail_confusion(found[protocol], found["labels"], run.groups[run.grouping]))
            for method in together
            if {protocol, "labels"} <= (found := (run := method.first).predictions).keys()
        ],
        image_rows=IMAGE_ROWS,
        discovery=discovery,
        charts=charts,
        markdown=tables.markdown_table(runs),
        latex=tables.latex_table(runs),
    )
    return page
