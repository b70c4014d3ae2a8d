"""``bcl probe``: evaluate checkpoints and write one report each."""

import argparse
import itertools
import math
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from bcl.cli.output import default_out
from bcl.core.errors import InputError
from bcl.core.files import check_writable, file_hash
from bcl.core.machine import usable_device
from bcl.core.progress import Progress, rows, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="RUN", help="folders of runs, or checkpoints")
    add("--out", metavar="DIR", help="folder for the reports (default: probe, in the run's folder)")
    add(
        "--protocol",
        default="full,knn",
        metavar="NAMES",
        help="with commas: full, 1%%, 50-shot, 100-shot, long-tailed, balanced-lt, each also with "
        "a solver (full:sgd; lbfgs, ridge, adam, sgd, moco, cacr, svc) and with one random crop of "
        "every image (full+crop) or a new one in every epoch (full+crops:sgd); knn, knn-euclidean, "
        "long-tailed-knn, each also as knn@5; finetune, finetune-1%%; or a paper's set: bcl, gh, "
        "sdclr, colt, mak, cacr, ts, ts-imagenet100, dystress, rwsam (default: %(default)s)",
    )
    add("--data.root", dest="data_root", metavar="DIR", help="the data set's folder, if it moved")
    source = "class folders, or a list or table of paths and labels"
    add("--train", metavar="SOURCE", help=f"train the probes on other images: {source}")
    add("--test", metavar="SOURCE", help="test them on these (default: a fifth of each class)")
    add("--labels", metavar="FILE", help="list or table of labels for images of the run itself")
    add(
        "--grouping", choices=("thirds", "thresholds", "fifths"), help="main grouping of the report"
    )
    add("--layer", default="pooled", help="features to read: pooled, projector, class_token, …")
    add("--earlier", metavar="CKPT", help="earlier checkpoint: show the samples that moved most")
    add("--cache", metavar="DIR", help="keep features here, by checkpoint and images")
    add(
        "--l2",
        metavar="VALUES",
        help="penalty of lbfgs and ridge, or several with commas (1e-3,1e-2,1e-1); a validation "
        "part, never the test set, chooses among them (default: searched on it)",
    )
    add(
        "--learning-rates",
        metavar="VALUES",
        help="for adam, sgd and cacr, one or several to choose from (default: the paper's)",
    )
    add("--epochs", type=int, help="epochs, instead of the protocol's (adam, sgd, cacr)")
    add("--finetune-epochs", type=int, help="instead of 20 (finetune) and 60 (finetune-1%%)")
    add(
        "--selection",
        default="last",
        choices=("last", "best_test"),
        help="reported epoch of adam, sgd and cacr; best_test is flagged (default: %(default)s)",
    )
    weights = "balanced: all classes weigh alike in linear probes (default: %(default)s)"
    add("--class-weights", default="none", choices=("none", "balanced"), help=weights)
    add("--precision", default="float32", choices=("float32", "bfloat16"), help="of the encoder")
    add("--batch-size", type=int, default=512, help="images encoded at a time")
    add("--device", help="cpu, cuda, cuda:1 (default: cuda if available)")
    add("--seed", type=int, default=0, help="seed of validation parts, orders and fine-tuning")
    add("--overwrite", action="store_true", help="replace existing reports")


def run(args: argparse.Namespace) -> int:
    """Evaluate every checkpoint, save its report and print the table."""
    from bcl.report.tables import text_table

    options = _options(args)
    folders = _folders(args.checkpoints, args.out)
    _check_sources(args)
    _check_paths(args, folders)
    reports = []
    for checkpoint, folder in zip(args.checkpoints, folders, strict=True):
        reports.append(_evaluate(Path(checkpoint), folder, args, options))
        reports[-1].save(folder)
    try:
        print(text_table(reports))
    except InputError:  # runs of different test sets: each has its own table
        print("\n\n".join(text_table([report]) for report in reports))
    where = args.out or " ".join(map(str, folders))
    print("\n" + rows({"reports": where, "next": f"bcl report {where}"}))
    return 0


def _options(args: argparse.Namespace) -> Any:
    """Check the options' values, before anything is read."""
    import torch

    from bcl.evaluation import EvaluationOptions, ProbeOptions
    from bcl.evaluation.probe.options import GRADIENT_SOLVERS
    from bcl.evaluation.protocols import parse_protocols

    wanted = parse_protocols(args.protocol)
    needy = [protocol.name for protocol in wanted if protocol.train == "long-tailed"]
    if needy and (args.train or args.labels):
        raise InputError(
            f"'{needy[0]}' trains on the labeled images of pretraining, which --train and --labels "
            "stand in for; take full, N-shot, a share or knn."
        )
    solvers = {protocol.solver for protocol in wanted if protocol.kind != "knn"}
    rates = _numbers("--learning-rates", args.learning_rates, GRADIENT_SOLVERS, solvers)
    device = usable_device(args.device)
    return EvaluationOptions(
        grouping=args.grouping,
        layer=args.layer,
        batch_size=args.batch_size,
        device=device,
        autocast=torch.bfloat16 if args.precision == "bfloat16" else None,
        probe=ProbeOptions(
            l2=_numbers("--l2", args.l2, ("lbfgs", "ridge"), solvers),
            learning_rate=rates,
            epochs=args.epochs,
            selection=args.selection,
            seed=args.seed,
            class_weights=args.class_weights,
        ),
        finetune_epochs=args.finetune_epochs,
    )


def _numbers(
    option: str, text: str | None, of: tuple[str, ...], solvers: set[str]
) -> float | tuple[float, ...] | None:
    """One positive number or several with commas, for solvers that a protocol uses."""
    if text is None:
        return None
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise InputError(f"{option} takes positive numbers such as 0.001,0.01, got '{text}'.")
    if not solvers & set(of):
        raise InputError(
            f"{option} is for the solvers {', '.join(of)}; use one, as in --protocol full:{of[0]}."
        )
    return numbers[0] if len(numbers) == 1 else numbers


def _check_sources(args: argparse.Namespace) -> None:
    """Refuse sources of labels that contradict each other."""
    if args.train and args.labels:
        raise InputError("--train and --labels both give training labels; give one of them.")
    if args.test and not (args.train or args.labels):
        raise InputError("--test goes with --train SOURCE or --labels FILE; add one of them.")


def _check_paths(args: argparse.Namespace, folders: list[Path]) -> None:
    """Refuse what cannot be read or written, before any work."""
    for checkpoint in filter(None, [*args.checkpoints, args.earlier]):
        if not Path(checkpoint).exists():
            raise InputError(f"no checkpoint at {checkpoint}; check the path.")
    if args.earlier and len(args.checkpoints) > 1:
        raise InputError("--earlier belongs to one run; probe its checkpoint alone.")
    if args.cache is not None:
        check_writable(args.cache, "--cache")
    for folder in folders:
        if (folder / "report.json").exists() and not args.overwrite:
            raise InputError(f"{folder} holds a report; name another --out, or pass --overwrite.")
        check_writable(folder, "--out")


def _folders(checkpoints: list[str], given: str | None) -> list[Path]:
    """One checkpoint reports into OUT itself, several into folders named after them.

    Without OUT each reports into its run's folder.
    """
    from bcl.training.checkpoints import checkpoint_file

    if given is None:
        stems = [checkpoint_file(each).stem for each in checkpoints]
        names = ["probe" if stem == "last" else f"probe-{stem}" for stem in stems]
        found = [default_out(*pair) for pair in zip(checkpoints, names, strict=True)]
        if twice := [folder for folder, count in Counter(found).items() if count > 1]:
            raise InputError(f"several checkpoints would report into {twice[0]}; give --out DIR.")
        return found
    out, names = Path(given), []
    if len(checkpoints) == 1:
        return [out]
    for path in (checkpoint_file(checkpoint).resolve() for checkpoint in checkpoints):
        stem = path.stem
        if re.match(r"(last|best)$|epoch|step", stem):
            outer = path.parent.parent if path.parent.name == "checkpoints" else path.parent
            stem = f"{outer.name}-{stem}"
        numbered = (f"{stem}-{count}" for count in itertools.count(2))
        names.append(next(name for name in itertools.chain([stem], numbered) if name not in names))
    return [out / name for name in names]


def _evaluate(checkpoint: Path, folder: Path, args: argparse.Namespace, options: Any) -> Any:
    from bcl.cli.sources import check_place
    from bcl.evaluation import evaluate
    from bcl.evaluation.features import FeatureCache
    from bcl.evaluation.layers import layer_encoder
    from bcl.memorization.tracker import learned_trackers, trackers_of
    from bcl.training.checkpoints import checkpoint_file, load_run

    checkpoint = checkpoint_file(checkpoint)
    loaded = load_run(checkpoint)
    data, method = loaded.data, loaded.method
    layer_encoder(method, args.layer)  # refuses a model without encoder before any work
    if args.data_root is not None:
        _move(data, args.data_root)
    elsewhere = bool(args.train or args.labels)
    if not args.train:  # the run's own images are needed
        check_place(data, "name the folder that they are in now: --data.root DIR")
        data.prepare_data()
        data.setup("fit")
    if elsewhere:
        data = _labeled(data, args)
    elif not len(getattr(data, "class_names", "some")):
        raise InputError(
            f"{checkpoint}: the run's images have no labels; give labeled ones (--train SOURCE "
            "--test SOURCE), or labels of some of its own (--labels FILE)."
        )
    earlier = getattr(load_run(args.earlier).method, "tracker", None) if args.earlier else None
    if args.earlier and earlier is None:
        raise InputError(f"{args.earlier} has no tracker, so no earlier scores.")
    if args.cache is not None:
        cache = FeatureCache(args.cache, f"{file_hash(checkpoint)}:{args.layer}")
        options = replace(options, cache=cache)
    say(rows(_header(method, data, folder, args, options)), sys.stderr)
    return evaluate(
        method.to(options.device).eval(),
        data,
        args.protocol,
        options,
        tracker=None if elsewhere else {**trackers_of(method), **learned_trackers(method)},
        history=checkpoint.parent.parent / "tracker",
        earlier_scores=earlier.scores if earlier is not None else None,
        record={"name": folder.name, **loaded.record, "checkpoint": str(checkpoint)},
        progress=Progress(),
    )


def _header(
    method: Any, data: Any, folder: Path, args: argparse.Namespace, options: Any
) -> dict[str, object]:
    """What a probe is about to do, by name."""
    from bcl.core.machine import device_text
    from bcl.models.encoders import describe
    from bcl.training.progress import about_images

    return {
        "images": about_images(data),
        "tests": f"{len(data.test_set()):,}",
        "encoder": f"{describe(getattr(method, 'encoder', method))}, {args.layer} features",
        "device": f"{device_text(options.device)}, precision {args.precision}",
        "protocols": args.protocol,
        "folder": folder,
    }


def _move(data: Any, root: str) -> None:
    """Point a datamodule at the folder that its images are in now."""
    one = len(getattr(data, "roots", [])) == 1
    if not hasattr(data, "root") and not one:
        raise InputError(f"--data.root: {type(data).__name__} has no folder that could move.")
    if not Path(root).exists():
        raise InputError(f"--data.root: nothing at {root}; check the path.")
    if one:
        data.roots = [root]
    else:
        data.root = type(data.root)(root) if isinstance(data.root, (str, Path)) else root


def _labeled(data: Any, args: argparse.Namespace) -> Any:
    """The images that the command line gives labels for, of the size of the run's."""
    from bcl.cli.labeled import LabeledImages

    names = ("image_size", "cache_dir", "workers", "storage", "memory_limit_gb")
    options = {name: getattr(data, name) for name in names if hasattr(data, name)}
    labeled = LabeledImages(args.train, args.test, args.labels, data, **options)
    labeled.prepare_data()
    return labeled
