"""``bcl report``: one HTML page of several reports."""

import argparse
import json
from pathlib import Path

from bcl.core.errors import InputError, unknown_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bcl report``.

    Args:
        parser: the command's parser.
    """
    add = parser.add_argument
    add("reports", nargs="+", metavar="DIR", help="folders of 'bcl probe', the baseline first")
    add("--out", default="report.html", metavar="FILE", help="the page to write")
    add("--baseline", metavar="NAME", help="run to compare with (default: the first)")
    add("--title", default="Linear probe report", help="heading of the page")
    add(
        "--formats",
        default="",
        metavar="NAMES",
        help="also write the tables beside the page, with commas: md, tex, csv, json",
    )
    add("--wandb", metavar="PROJECT", help="also log the table to Weights & Biases")
    add("--overwrite", action="store_true", help="replace files that exist")


def run(args: argparse.Namespace) -> int:
    """Read the reports and write the page.

    Args:
        args: parsed options.

    Returns:
        Exit status, 0.

    Raises:
        InputError: a folder without report, reports that cannot be compared, an output that cannot
            be written.
    """
    from bcl.evaluation.results import ProbeReport
    from bcl.report.page import check_out, render_report

    out = Path(args.out)
    formats = [name.strip() for name in args.formats.split(",") if name.strip()]
    check_out(out, args.overwrite, formats)
    reports = [
        ProbeReport.load(path) for folder in args.reports for path in find_reports(Path(folder))
    ]
    if args.baseline is not None:
        names = [report.name for report in reports]
        if args.baseline not in names:
            raise unknown_name("run", args.baseline, names)
        reports.sort(key=lambda report: report.name != args.baseline)
    path = render_report(reports, out, title=args.title, formats=formats, overwrite=args.overwrite)
    if args.wandb:
        from bcl.report.wandb_table import log_table

        log_table(reports, args.wandb)
    print(path)
    return 0


def find_reports(folder: Path) -> list[Path]:
    """The reports of a folder: its own, or else those of the folders in it, two levels down.

    Args:
        folder: what ``bcl probe --out`` or ``bcl quickstart`` wrote, or one report in it.

    Returns:
        Paths of ``report.json`` files, by name.

    Raises:
        InputError: there is none.
    """
    if folder.is_file():
        return [folder]
    if _is_report(folder / "report.json"):
        return [folder / "report.json"]
    found = [
        path
        for pattern in ("*/report.json", "*/*/report.json")
        for path in sorted(folder.glob(pattern))
        if _is_report(path)
    ]
    if not found:
        raise InputError(f"no report in {folder}; make one with 'bcl probe CKPT --out {folder}'.")
    return found


def _is_report(path: Path) -> bool:
    """Whether a file says that it is one run's report, of whatever version, or is damaged."""
    if not path.is_file():
        return False
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return True  # to be refused with its reason when it is loaded
    return isinstance(values, dict) and values.get("schema") == "bcl-cacr/probe-report"
