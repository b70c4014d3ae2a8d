"""``bcl probe``: evaluate checkpoints and write one report each."""

import argparse
import math
import re
import sys
import time
from pathlib import Path
from typing import Any

from bcl.core.errors import InputError
from bcl.core.files import check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bcl probe``.

    Args:
        parser: the command's parser.
    """
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="CKPT", help="checkpoints to evaluate")
    add("--out", required=True, metavar="DIR", help="folder for the reports")
    add(
        "--protocol",
        default="full,knn",
        metavar="NAMES",
        help="with commas: full, 1%%, 50-shot, 100-shot, long-tailed, balanced-lt, each also with "
        "a solver (full:sgd; lbfgs, ridge, adam, sgd, cacr, svc) and with +crop (full+crop); knn, "
        "knn-euclidean, long-tailed-knn, each also as knn@5; finetune, finetune-1%%; or a paper's "
        "set: bcl, gh, sdclr, colt, mak, cacr, ts "
        "(default: %(default)s)",
    )
    add(
        "--data.root",
        dest="data_root",
        metavar="DIR",
        help="where the data set lies, if not where it lay in training",
    )
    add("--rule", choices=("thirds", "thresholds"), help="main grouping rule of the report")
    add("--layer", default="pooled", help="features to read: pooled, projector, class_token, …")
    add("--earlier", metavar="CKPT", help="earlier checkpoint: show the samples that moved most")
    add("--cache", metavar="DIR", help="keep features here, by checkpoint and images")
    add(
        "--l2",
        metavar="VALUES",
        help="penalty of lbfgs and ridge, or several with commas (1e-3,1e-2,1e-1), of which a "
        "validation part chooses, never the test set (default: searched likewise)",
    )
    add(
        "--learning-rates",
        metavar="VALUES",
        help="of adam, sgd and cacr, one or several with commas, chosen likewise (default: the "
        "paper's)",
    )
    add("--epochs", type=int, help="other than the protocol's (adam, sgd, cacr)")
    add("--finetune-epochs", type=int, help="other than 20 (finetune) and 60 (finetune-1%%)")
    add(
        "--selection",
        default="last",
        choices=("last", "best_test"),
        help="reported epoch of adam, sgd and cacr; best_test is flagged (default: %(default)s)",
    )
    add("--precision", default="float32", choices=("float32", "bfloat16"), help="of the encoder")
    add("--batch-size", type=int, default=512, help="images encoded at a time")
    add("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    add("--seed", type=int, default=0, help="seed of validation parts, orders and fine-tuning")
    add("--overwrite", action="store_true", help="replace reports that exist")


def run(args: argparse.Namespace) -> int:
    """Evaluate every checkpoint, save its report and print the table.

    Args:
        args: parsed options.

    Returns:
        Exit status, 0.

    Raises:
        InputError: anything in the options or the files that cannot be used.
    """
    from bcl.evaluation.probe.presets import GRADIENT_SOLVERS
    from bcl.evaluation.protocols import parse_protocols

    wanted = parse_protocols(args.protocol)
    protocols = [name.strip() for name in args.protocol.split(",")]
    solvers = {protocol.solver for protocol in wanted if protocol.kind != "knn"}
    args.l2 = _numbers("--l2", args.l2, ("lbfgs", "ridge"), solvers)
    args.learning_rates = _numbers(
        "--learning-rates", args.learning_rates, GRADIENT_SOLVERS, solvers
    )
    out = Path(args.out)
    if out.is_file():
        raise InputError(f"--out {out} is a file; name a folder.")
    for option in ("batch_size", "epochs", "finetune_epochs"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise InputError(f"--{option.replace('_', '-')} must be at least 1, got {value}.")
    for checkpoint in filter(None, [*args.checkpoints, args.earlier]):
        if not Path(checkpoint).exists():
            raise InputError(f"no checkpoint at {checkpoint}; check the path.")
    if args.earlier and len(args.checkpoints) > 1:
        raise InputError("--earlier belongs to one run; probe its checkpoint alone.")
    if args.cache is not None:
        try:
            Path(args.cache).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--cache {args.cache}: {error.strerror}; name a folder.") from error
    folders = _folders(args.checkpoints, out)
    _check_writable(folders, args.overwrite)

    from bcl.report.tables import text_table

    reports = []
    for checkpoint, folder in zip(args.checkpoints, folders, strict=True):
        report = _evaluate(Path(checkpoint), folder.name, protocols, args)
        report.save(folder)
        reports.append(report)
    try:
        print(text_table(reports))
    except InputError:  # runs of different test sets: each has its own table
        print("\n\n".join(text_table([report]) for report in reports))
    print("\nreports: " + ", ".join(str(folder) for folder in folders))
    print(f"next: bcl report {out} --out {out / 'report.html'}")
    return 0


def _evaluate(checkpoint: Path, name: str, protocols: list[str], args: argparse.Namespace) -> Any:
    import torch

    from bcl.evaluation import evaluate
    from bcl.evaluation.features import FeatureCache, file_hash, layer_encoder
    from bcl.training.checkpoints import load_run

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device} cannot be used here: {error}") from error
    loaded = load_run(checkpoint)
    data, method = loaded.data, loaded.method
    layer_encoder(method, args.layer)  # refuses a model without encoder before any work
    if args.data_root is not None:
        _move_data(data, args.data_root)
    data.prepare_data()
    data.setup("fit")
    method.to(device).eval()
    earlier = None
    if args.earlier is not None:
        tracker = getattr(load_run(args.earlier).method, "tracker", None)
        if tracker is None:
            raise InputError(f"{args.earlier} has no tracker, so no earlier scores.")
        earlier = tracker.scores
    cache = None
    if args.cache is not None:
        cache = FeatureCache(args.cache, f"{file_hash(checkpoint)}:{args.layer}")
    return evaluate(
        method.encode,
        data,
        protocols=protocols,
        rule=args.rule,
        record={"name": name, **loaded.record, "checkpoint": str(checkpoint)},
        tracker=getattr(method, "tracker", None),
        earlier_scores=earlier,
        method=method,
        layer=args.layer,
        batch_size=args.batch_size,
        device=device,
        autocast=torch.bfloat16 if args.precision == "bfloat16" else None,
        cache=cache,
        l2=args.l2,
        learning_rate=args.learning_rates,
        epochs=args.epochs,
        finetune_epochs=args.finetune_epochs,
        selection=args.selection,
        seed=args.seed,
        progress=Progress(),
    )


def _numbers(
    option: str, text: str | None, of: tuple[str, ...], solvers: set[str]
) -> float | tuple[float, ...] | None:
    """One positive number or several with commas, for solvers that a protocol uses."""
    if text is None:
        return None
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise InputError(
            f"{option} takes numbers with commas between them, such as 0.001,0.01; got '{text}'."
        ) from error
    if not all(0 < number < math.inf for number in numbers):
        raise InputError(f"{option} must be positive and finite, got '{text}'.")
    if not solvers & set(of):
        raise InputError(
            f"{option} is for the solvers {', '.join(of)}, of which no protocol makes use; name "
            f"one, such as --protocol full:{of[0]}."
        )
    return numbers[0] if len(numbers) == 1 else numbers


def _move_data(data: Any, root: str) -> None:
    if not hasattr(data, "root"):
        raise InputError(f"--data.root: {type(data).__name__} has no folder that could be moved.")
    if not Path(root).exists():
        raise InputError(f"--data.root: nothing at {root}; check the path.")
    data.root = type(data.root)(root) if isinstance(data.root, (str, Path)) else root


def _check_writable(folders: list[Path], overwrite: bool) -> None:
    taken = [folder for folder in folders if (folder / "report.json").exists()]
    if taken and not overwrite:
        raise InputError(f"{taken[0]} holds a report; name another --out, or pass --overwrite.")
    for folder in folders:
        check_writable(folder, "--out")


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


class Progress:
    """One line on a terminal, rewritten at most ten times a second; silent elsewhere."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        """Show how far a step is."""
        if not sys.stderr.isatty():
            return
        now = time.monotonic()
        if done < total and now - self.last < 0.1:
            return
        self.last = now
        end = "\n" if done >= total else ""
        print(f"\r{name}: {done:,} of {total:,}\033[K", end=end, file=sys.stderr, flush=True)
