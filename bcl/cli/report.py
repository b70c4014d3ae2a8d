"""``bcl report``: one HTML page of several reports."""

import argparse
from pathlib import Path

from bcl.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bcl report``.

    Args:
        parser: the command's parser.
    """
    parser.add_argument(
        "reports", nargs="+", metavar="DIR", help="folders of 'bcl probe', the baseline first"
    )
    parser.add_argument("--out", default="report.html", metavar="FILE", help="the page to write")
    parser.add_argument("--title", default="Linear probe report", help="heading of the page")
    parser.add_argument("--overwrite", action="store_true", help="replace a page that exists")


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
    from bcl.evaluation.report import check_out, render_report
    from bcl.evaluation.results import ProbeReport

    out = Path(args.out)
    check_out(out, args.overwrite)
    reports = [
        ProbeReport.load(path) for folder in args.reports for path in find_reports(Path(folder))
    ]
    print(render_report(reports, out, title=args.title, overwrite=args.overwrite))
    return 0


def find_reports(folder: Path) -> list[Path]:
    """The reports of a folder: its own, or else those of the folders in it.

    Args:
        folder: what ``bcl probe --out`` wrote, or one report in it.

    Returns:
        Paths of ``report.json`` files, by name.

    Raises:
        InputError: there is none.
    """
    if folder.is_file():
        return [folder]
    if (folder / "report.json").is_file():
        return [folder / "report.json"]
    found = sorted(folder.glob("*/report.json"))
    if not found:
        raise InputError(f"no report in {folder}; make one with 'bcl probe CKPT --out {folder}'.")
    return found
