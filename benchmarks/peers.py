"""A whole pretraining run beside what people would use instead.

    python benchmarks/peers.py --encoder resnet18 --size 32
    LIGHTLY_TRAIN=VENV/bin/python python benchmarks/peers.py     # LightlyTrain's own environment
    python benchmarks/peers.py --device cuda --encoder resnet50 --size 224 --precision bf16-mixed

Every contender trains SimCLR (one of ours BCL-I) with the same encoder, batch, precision, number of
workers, two views and chain, from the same folder of JPEG files, each run in a process of its own.
`bare` is the network alone on a batch of noise: the limit. Contenders take turns for --rounds. One
that cannot run here is left out of the table and named. solo-learn is not among them: its one
release, 1.0.2, needs torch 1.9.1, of which there is no build for Python 3.10 or later.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import results
import timm
import torch
from loading import photographs
from peer_runs import CONTENDERS

TITLES = {
    "ours": "bcl-cacr, SimCLR",
    "ours-bcl-i": "bcl-cacr, BCL-I",
    "ours-files": "bcl-cacr, SimCLR, decoding in every epoch",
    "lightly-train": "LightlyTrain, SimCLR",
    "lightly": "lightly's SimCLR, Lightning",
    "plain": "torchvision and DataLoader",
    "bare": "the network alone, on noise",
}

DECODING = ("ours-files", "lightly-train", "lightly", "plain")  # the images anew in every epoch


def python_of_lightly_train(parser: argparse.ArgumentParser) -> str:
    """The program that LIGHTLY_TRAIN names, or this one; absolute, as each run has its folder."""
    given = os.environ.get("LIGHTLY_TRAIN", sys.executable)
    found = shutil.which(given)
    if found is None:
        parser.error(f"LIGHTLY_TRAIN is {given!r}, no program; give its environment's bin/python")
    return str(Path(found).absolute())  # not resolved: an environment's python is a link


def run(name: str, job: dict[str, Any], python: str) -> dict[str, Any] | None:
    """One run's clock; nothing, and a line that says why, where it failed."""
    with tempfile.TemporaryDirectory() as out:
        words = [python, str(Path(__file__).with_name("peer_runs.py")), name]
        environment = {
            **os.environ,
            "STARTED": repr(time.time()),
            "OMP_NUM_THREADS": str(job["threads"]),
        }
        done = subprocess.run(
            [*words, json.dumps({**job, "out": out})],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=out,
        )
        clock = Path(out) / "clock.json"
        if done.returncode or not clock.exists():
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
            print(f"{name} failed: {' '.join(last)}", file=sys.stderr)
            return None
        found: dict[str, Any] = json.loads(clock.read_text())
        return found


def width(encoder: str, size: int, parser: argparse.ArgumentParser) -> int:
    """Number of features that a model of timm gives; ``num_features`` may be fewer."""
    model = timm.create_model(encoder, num_classes=0).eval()
    try:
        with torch.no_grad():
            return int(model(torch.zeros(1, 3, size, size)).shape[1])
    except (AssertionError, RuntimeError) as error:
        parser.error(f"--size is {size}, and {encoder} takes no such images: {error}")


def version(package: str, python: str) -> str:
    """Version of a package in an environment."""
    code = f"import importlib.metadata as m; print(m.version('{package}'))"
    return subprocess.check_output([python, "-c", code], text=True).strip()


def figures(clock: dict[str, Any], images: int) -> dict[str, float]:
    """What is compared, from the times of a run."""
    ends = clock["epochs"]
    later = [b - a for a, b in itertools.pairwise(ends)]
    return {
        "start": clock["first_step"],
        "first": images / ends[0],
        "later": images / statistics.median(later),
        "processor": 1e3 * clock["processor"] / (images * len(ends)),
        "memory": clock["peak_mb"],
    }


MEASURES = {  # title, unit, which is better
    "later": ("images/s, later epochs", "images/s", "higher"),
    "first": ("images/s of the first epoch, with the start", "images/s", "higher"),
    "start": ("start to the end of the first step", "s", "lower"),
    "processor": ("processor time per image and epoch, with the start", "ms", "lower"),
    "memory": ("peak memory of the largest process", "MB", "lower"),
}


def compare(
    ours: str, others: list[str], key: str, found: dict[str, list[dict[str, float]]], args: Any
) -> list[dict[str, Any]]:
    """Rows of one measure."""
    title, unit, better = MEASURES[key]
    case = f"{args.encoder}, {args.size} px, batch {args.batch}, {args.precision}: {title}"
    case += ", all decoding in every epoch" if ours == "ours-files" else ""
    values = {TITLES[name]: [each[key] for each in found[name]] for name in others}
    return results.compare(case, unit, values, ours=TITLES[ours], better=better)


def compare_all(found: dict[str, list[dict[str, float]]], args: Any) -> list[results.Row]:
    """Rows of all measures; of images that all decode in every epoch, those of the rates."""
    rows = []
    for name, keys in {"ours": list(MEASURES), "ours-files": ["later", "first"]}.items():
        others = [each for each in args.only if name == "ours" or each in DECODING]
        for key in keys if found.get(name) else []:
            rows += compare(name, others, key, found, args)
    return rows


def show(rows: list[results.Row]) -> None:
    """Print the rows, a paragraph per case."""
    for row in rows:
        if row["ours"]:
            print(f"\n{row['case']}")
        ratio = f"  ours is {row['ratio']:.2f} times as good" if "ratio" in row else ""
        spread = f"{row['low']:.4g} to {row['high']:.4g}"
        print(f"  {row['contender']:<28}{row['median']:>10.4g} {row['unit']} ({spread}){ratio}")


def save(found: dict[str, list[dict[str, float]]], theirs: str, args: Any) -> None:
    """Write what there is, after every round, as a job may be ended between two."""
    names = {"lightly-train": theirs, "lightly": sys.executable}
    known = [f"{n} {version(n, python)}" for n, python in names.items() if found.get(n)]
    notes = [", ".join(known)] if known else []
    notes += results.left_out({TITLES[name]: values for name, values in found.items()})
    if (done := min(len(each) for each in found.values() if each)) < args.rounds:
        notes.append(f"{results.PARTIAL}{done} of {args.rounds}")
    results.save(args.json, "peers", compare_all(found, args), notes=notes)


def main() -> None:
    """Run the contenders in turn, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3, help="at least 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    results.add_json_option(parser)
    args = parser.parse_args()
    if "ours" not in args.only:
        parser.error("--only needs ours, with which the others are compared")
    for name, least in {"size": 8, "batch": 1, "rounds": 1}.items():
        if getattr(args, name) < least:
            parser.error(f"--{name} is {getattr(args, name)}; give {least} or more")
    if args.images < args.batch:
        parser.error(f"--images is {args.images}; give at least one batch, {args.batch}")
    if args.epochs < 2:
        parser.error(f"--epochs is {args.epochs}; give 2 or more, since later epochs are compared")
    if not timm.is_model(args.encoder):
        parser.error(f"--encoder is {args.encoder}, no model of timm; see timm.list_models()")

    theirs = python_of_lightly_train(parser)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in args.only}
    with tempfile.TemporaryDirectory() as folder:
        stored = (48, 40) if args.size <= 64 else (round(args.size * 1.6), round(args.size * 1.2))
        root = photographs(Path(folder), args.images, *stored)
        job = {
            **{key: getattr(args, key) for key in ("encoder", "size", "images", "batch", "epochs")},
            **{key: getattr(args, key) for key in ("workers", "threads", "device", "precision")},
            "root": str(root),
            "resnet": args.encoder.startswith("resnet"),
            "features": width(args.encoder, args.size, parser),
        }
        for _ in range(args.rounds):
            for name in args.only:
                python = theirs if name == "lightly-train" else sys.executable
                if clock := run(name, job, python):
                    found[name].append(figures(clock, args.images))
            if args.json and found["ours"]:
                save(found, theirs, args)
    if not found["ours"]:
        raise SystemExit("ours did not run; the lines above say why")
    show(compare_all(found, args))


if __name__ == "__main__":
    main()
