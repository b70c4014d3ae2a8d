"""``bcl report``: one HTML page of several reports."""

import argparse
from collections import Counter
from pathlib import Path

from bcl.core.errors import InputError, unknown_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("reports", nargs="+", metavar="DIR", help="folders of 'bcl probe', the baseline first")
    add(
        "--out",
        metavar="FILE",
        help="the page to write (default: report.html, in the folder if there is only one)",
    )
    add("--baseline", metavar="NAME", help="run to compare with (default: the first)")
    add("--title", default="Linear probe report", help="heading of the page")
    add(
        "--formats",
        default="",
        metavar="NAMES",
        help="also write the tables next to the page, comma-separated: md, tex, csv, json",
    )
    add("--wandb", metavar="PROJECT", help="also log the table to Weights & Biases")
    add("--overwrite", action="store_true", help="replace existing files")


def run(args: argparse.Namespace) -> int:
    """Read the reports and write the page."""
    from bcl.evaluation.results import ProbeReport
    from bcl.report.page import check_out, render_report

    only = args.reports[0] if len(args.reports) == 1 else ""
    out = Path(args.out or Path(only if Path(only).is_dir() else "", "report.html"))
    formats = [name.strip() for name in args.formats.split(",") if name.strip()]
    check_out(out, args.overwrite, formats)
    paths = [path for folder in args.reports for path in find_reports(Path(folder))]
    if twice := [path for path, n in Counter(map(Path.resolve, paths)).items() if n > 1]:
        raise InputError(f"{twice[0]} is named twice; name each run once.")
    reports = [ProbeReport.load(path) for path in paths]
    if args.baseline is not None:
        names = [report.name for report in reports]
        if args.baseline not in names:
            raise unknown_name("run", args.baseline, names)
        reports.sort(key=lambda report: report.name != args.baseline)
    print(render_report(reports, out, title=args.title, formats=formats, overwrite=args.overwrite))
    if args.wandb:
        from bcl.report.wandb_table import log_table

        log_table(reports, args.wandb)
    return 0


def find_reports(folder: Path) -> list[Path]:
    """The ``report.json`` of a folder, or else those of its folders, two levels down.

    A report's own file stands for itself; an `InputError` if there is none.
    """
    from bcl.evaluation.results import SCHEMA
    from bcl.report.page import json_schema

    if folder.is_file():
        return [folder]
    levels = ((folder,), folder.glob("*"), folder.glob("*/*"))
    paths = [path / "report.json" for level in levels for path in sorted(level)]
    # A damaged file counts, so that loading it says what is wrong; a comparison does not.
    found = [path for path in paths if path.is_file() and json_schema(path) in (SCHEMA, None)]
    if found:
        return found[:1] if found[0].parent == folder else found
    raise InputError(f"no report in {folder}; make one with 'bcl probe CKPT --out {folder}'.")
