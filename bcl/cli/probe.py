"""``bcl probe``: evaluate checkpoints and write one report each."""

import argparse
import re
import sys
import time
from pathlib import Path

from bcl.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bcl probe``.

    Args:
        parser: the command's parser.
    """
    parser.add_argument("checkpoints", nargs="+", metavar="CKPT", help="checkpoints to evaluate")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the reports")
    parser.add_argument(
        "--protocol",
        default="full,knn",
        metavar="NAMES",
        help="protocols, with commas: full, 1%%, 50-shot, 100-shot, long-tailed, knn, or a "
        "paper's set: bcl, sdclr (default: %(default)s)",
    )
    parser.add_argument(
        "--data.root",
        dest="data_root",
        metavar="DIR",
        help="where the data set lies, if not where it lay in training",
    )
    parser.add_argument(
        "--rule", choices=("thirds", "thresholds"), help="main grouping rule of the report"
    )
    parser.add_argument("--batch-size", type=int, default=512, help="pictures encoded at a time")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the validation parts")
    parser.add_argument("--overwrite", action="store_true", help="replace reports that exist")


def run(args: argparse.Namespace) -> int:
    """Evaluate every checkpoint, save its report and print the table.

    Args:
        args: parsed options.

    Returns:
        Exit status, 0.

    Raises:
        InputError: anything in the options or the files that cannot be used.
    """
    from bcl.evaluation.protocols import parse_protocols

    protocols = [protocol.name for protocol in parse_protocols(args.protocol)]
    out = Path(args.out)
    if out.is_file():
        raise InputError(f"--out {out} is a file; name a folder.")
    if args.batch_size < 1:
        raise InputError(f"--batch-size must be at least 1, got {args.batch_size}.")
    for checkpoint in args.checkpoints:
        if not Path(checkpoint).exists():
            raise InputError(f"no checkpoint at {checkpoint}; check the path.")
    folders = _folders(args.checkpoints, out)
    taken = [folder for folder in folders if (folder / "report.json").exists()]
    if taken and not args.overwrite:
        raise InputError(f"{taken[0]} holds a report; name another --out, or pass --overwrite.")
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".writable").touch()
            (folder / ".writable").unlink()
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}.") from error

    import torch

    from bcl.checkpoints import load_run
    from bcl.evaluation import evaluate
    from bcl.evaluation.text import text_table

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    reports = []
    for checkpoint, folder in zip(args.checkpoints, folders, strict=True):
        loaded = load_run(checkpoint)
        data, learner = loaded.data, loaded.learner
        if args.data_root is not None:
            if not hasattr(data, "root"):
                raise InputError(f"--data.root: {type(data).__name__} has no root folder to move.")
            data.root = args.data_root
        data.prepare_data()
        data.setup("fit")
        learner.to(device).eval()
        report = evaluate(
            learner.encode,
            data,
            protocols=protocols,
            rule=args.rule,
            record={"name": folder.name, **loaded.record, "checkpoint": str(checkpoint)},
            tracker=getattr(learner, "tracker", None),
            batch_size=args.batch_size,
            device=device,
            seed=args.seed,
            progress=_Progress(),
        )
        report.save(folder)
        reports.append(report)
    print(text_table(reports))
    print("\nreports: " + ", ".join(str(folder) for folder in folders))
    return 0


def _folders(checkpoints: list[str], out: Path) -> list[Path]:
    """One checkpoint reports into OUT itself, several into folders named after them."""
    if len(checkpoints) == 1:
        return [out]
    names: list[str] = []
    for checkpoint in checkpoints:
        path = Path(checkpoint).resolve()
        name = path.stem
        if name in {"last", "best"} or re.match(r"epoch|step", name):
            outer = path.parent.parent if path.parent.name == "checkpoints" else path.parent
            name = f"{outer.name}-{name}"
        stem, count = name, 2
        while name in names:
            name, count = f"{stem}-{count}", count + 1
        names.append(name)
    return [out / name for name in names]


class _Progress:
    """One line on a terminal, rewritten at most ten times a second; silent elsewhere."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        now = time.monotonic()
        if done < total and now - self.last < 0.1:
            return
        self.last = now
        end = "\n" if done >= total else ""
        print(f"\r{name}: {done:,} of {total:,}\033[K", end=end, file=sys.stderr, flush=True)
