"""Reports as one HTML file: runs side by side, with nothing to load from anywhere."""

import functools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bcl.core.checks import check_choice
from bcl.core.errors import InputError
from bcl.core.files import check_writable, write_text
from bcl.discovery.html import templates
from bcl.evaluation.results import SCHEMA, ProbeReport, ShownImage
from bcl.report import charts, discovery, tables
from bcl.report.compare import (
    COLUMNS,
    compare,
    difference_notes,
    methods,
    small_group_notes,
)
from bcl.report.confusion import Confusion, confusion
from bcl.report.effects import effect_charts
from bcl.report.images import Images
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
        "Not memorized yet, in spite of the name: boosted views augment these most.",
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
    try:
        texts = [render_html(runs, title, targets[0]), *(FORMATS[name](runs) for name in formats)]
    except InputError:
        raise
    except Exception as error:
        raise _unfit(runs, error) from error
    for target, text in zip(targets, texts, strict=True):
        try:
            write_text(target, text)
        except OSError as error:
            raise InputError(
                f"cannot write {target}: {error.strerror}; choose another path."
            ) from error
    return targets[0]


def _unfit(runs: Sequence[ProbeReport], error: Exception) -> InputError:
    """The error of reports with values that no probe writes; it names the first such report."""
    for run in runs:
        try:
            render_html([run], "", Path("report.html"))
        except Exception as own:
            error = own
            break
    where = f"{run.folder}/report.json" if run.folder else f"report '{run.name}'"
    return InputError(
        f"{where} cannot be shown ({error!r}): was it edited? Run 'bcl probe' again; if it is as "
        "that left it, this is a defect to report."
    )


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
    except (OSError, ValueError, RecursionError):
        return None
    return str(values.get("schema", "")) if isinstance(values, dict) else ""


def render_html(runs: Sequence[ProbeReport], title: str, out: Path) -> str:
    """The page as text; its links start at the folder of ``out``."""
    together = methods(runs)
    for run in runs:
        if not run.protocols:
            raise InputError(f"report '{run.name}' has no protocol; there is nothing to show.")
    environment = templates("bcl.report", "bcl.discovery")
    protocol, compared = runs[0].main_protocol, compare(runs)
    images = Images()
    images.draw(together)
    mapped, examples = len(images.paths), [_examples(images, method.first) for method in together]
    confusions = [(method, _confused(images, method.first, protocol)) for method in together]
    units = {row.over for table in compared for row in table.rows}
    environment.filters |= {
        # An interval [a, b] stays on its line.
        "unbroken": lambda x: re.sub(r"\[[^]]*\]", lambda m: m[0].replace(" ", "\u00a0"), x),
        "percent": tables.percent,
        "stars": tables.stars,
        "decimal": lambda x: "–" if x is None or x != x else f"{x:.3f}",
        "whole": lambda x: "<1" if x < 0.005 else f"{100 * x:.0f}",
        "link": functools.partial(link, folder=out.absolute().parent),
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
        confused=[(method, found) for method, found in confusions if found],
        examples=examples,
        image_rows=IMAGE_ROWS,
        maps=images.maps,
        mapped=mapped,
        data=images.script(runs[0].data["class_names"]),
        docs=Path(__file__).parents[2] / "docs",
        discovery=discovery,
        charts=charts,
        markdown=tables.markdown_table(runs),
        latex=tables.latex_table(runs),
    )
    return page


def _examples(images: Images, run: ProbeReport) -> dict[str, list[tuple[ShownImage, int]]]:
    """The images of each kind, with their rows on the page."""
    return {
        which: [(each, images.add(run, each)) for each in run.images if each.which == which]
        for which in IMAGE_ROWS
    }


def _confused(images: Images, run: ProbeReport, protocol: str) -> Confusion | None:
    """The answers of a run under a protocol, with the images that it kept of wrong ones."""
    answers, truth = (run.predictions.get(name) for name in (protocol, "labels"))
    if answers is None or truth is None:
        return None
    found = confusion(answers, truth, run.groups[run.grouping])
    for image in run.images:
        if image.which == "wrong" and 0 <= image.id < len(truth):
            pair = int(truth[image.id]), int(answers[0, image.id])
            found.images.setdefault(pair, []).append(images.add(run, image))
    return found


def link(path: Any, folder: Path) -> str:
    """A link to a file or folder that exists, relative to the page's folder; "" to none."""
    try:
        target = Path(str(path)).absolute()
        there = Path(os.path.relpath(target, folder)).as_posix()
        return f"./{quote(there)}" if target.exists() else ""
    except (OSError, ValueError):  # a name that no file can have, or another drive
        return ""
