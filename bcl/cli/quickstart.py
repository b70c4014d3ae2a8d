"""``bcl quickstart``: from nothing to a report in one command."""

import argparse
import time
from pathlib import Path

from bcl.errors import InputError

METHODS = ("simclr", "bcl_i")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--out", default="outputs/quickstart", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of both runs")
    parser.add_argument("--epochs", type=int, help="fewer or more epochs than the recipe's")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder")


def run(args: argparse.Namespace) -> int:
    """Pretrain both methods from one seed, probe them and write the report."""
    from bcl.cli.output import new_folder

    if args.epochs is not None and args.epochs < 1:
        raise InputError(f"--epochs must be at least 1, got {args.epochs}.")
    start = time.monotonic()
    with new_folder(args.out, args.overwrite) as folder:
        # Fail now, not after the training, if the report cannot be written.
        from bcl.evaluation import render_report

        reports = [_pretrain_and_probe(method, args, folder) for method in METHODS]
        render_report(reports, folder / "report.html")
        _write_json(reports, folder)
    _print_table(reports)
    print(f"Done in {time.monotonic() - start:.0f} s. Open {Path(args.out) / 'report.html'}")
    return 0
