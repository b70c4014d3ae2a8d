"""Kill a run at random moments, resume it, and compare it with an uninterrupted one.

    python benchmarks/kill_and_resume.py --kills 20 --ranks 1
    python benchmarks/kill_and_resume.py --kills 20 --ranks 2 --config digits_lt/sdclr
    python benchmarks/kill_and_resume.py --kills 20 --watched
    python benchmarks/kill_and_resume.py --kills 3 --ranks 2 --config image_folder/bcl_i \
        --config packed.yaml --batch-size 1024

Each kill is a SIGKILL to the whole process group: before the first checkpoint, or some milliseconds
after a random one, mostly while the next is being written. Every third resumed run is killed
again. With ``--watched`` the runs have an online probe, a CSV log and the tracker's history, which
must not differ either. Several ``--config`` are passed on to ``bcl fit``. Prints one
line per kill and the number of differences.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

WATCHED = ("--online.every_n_epochs", "1", "--log", "csv", "--history.every_n_epochs", "1")
# Without neighbors: once, a vote differed after a resume in which all else was equal.
WATCHED += ("--online.neighbors", "0")


@dataclass(frozen=True)
class Job:
    """The run that is killed."""

    configs: tuple[str, ...] = ("digits_lt/bcl_i",)
    ranks: int = 1
    watched: bool = False
    epochs: int = 3
    batch_size: int = 64


def command(job: Job, folder: Path, resume: bool) -> list[str]:
    """The command line of the run: a small one, saved after every step."""
    words = [sys.executable, "-m", "bcl.cli", "fit"]
    words += [word for config in job.configs for word in ("--config", config)]
    ranks = job.ranks
    options = {
        "--trainer.default_root_dir": folder,
        "--trainer.max_epochs": job.epochs,
        "--trainer.accelerator": "cpu",
        "--trainer.devices": ranks,
        "--trainer.strategy": "ddp" if ranks > 1 else "auto",
        "--model.encoder.args.width": 4,
        "--data.batch_size": job.batch_size,
        "--save.every_n_steps": 1,
    }
    words += [str(word) for pair in options.items() for word in pair]
    words += WATCHED if job.watched else ()
    return words + (["--ckpt_path", "last"] if resume else [])


def start(words: list[str]) -> "subprocess.Popen[str]":
    """The command in a process group of its own, which is killed as a whole."""
    return subprocess.Popen(
        words,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(words: list[str], kill_after: int | None = None, delay: float = 0.0) -> bool:
    """Run to the end (True), or kill ``delay`` seconds after the given checkpoint (False)."""
    folder = Path(words[words.index("--trainer.default_root_dir") + 1])
    process = start(words)
    last, seen = folder / "checkpoints" / "last.ckpt", 0
    stamp = last.stat().st_mtime_ns if last.exists() else None
    while kill_after is not None and process.poll() is None and seen < kill_after:
        now = last.stat().st_mtime_ns if last.exists() else None
        seen += now != stamp
        stamp = now
        time.sleep(0.002)
    if kill_after is not None and process.poll() is None:
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the run failed:\n{said}")
    return True


def final_state(folder: Path) -> dict[str, Any]:
    """What must not differ: weights, tracker, optimizer, schedule, history, online probe."""
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    keys = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")
    state = {key: content[key] for key in keys}
    state["history"] = content["bcl"]["record"]["history"]
    state["online"] = content["callbacks"].get("OnlineProbe")
    log = folder / "metrics.csv"
    if log.exists():
        rows = [line.split(",") for line in log.read_text().splitlines()]
        state["log"] = [rows[0], *([float(value or -1) for value in row] for row in rows[1:])]
    files = sorted(folder.glob("tracker/*"))
    state["files"] = {path.name: torch.from_numpy(np.load(path)).nan_to_num(-1) for path in files}
    return state


def differences(first: Any, second: Any, exact: bool, path: str = "") -> list[str]:
    """Paths of the values that differ."""
    if isinstance(first, torch.Tensor):
        if exact or not first.is_floating_point():
            return [] if torch.equal(first, second) else [path]
        return [] if torch.allclose(first, second, rtol=1e-4, atol=1e-6) else [path]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{path} (keys)"]
        pairs = [(f"{path}.{key}", first[key], second[key]) for key in first]
    elif isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{path} (length {len(first)} and {len(second)})"]
        pairs = [(f"{path}[{i}]", a, b) for i, (a, b) in enumerate(zip(first, second, strict=True))]
    elif isinstance(first, float) and not exact:
        return [] if abs(first - second) <= 1e-4 * abs(first) + 1e-6 else [path]
    else:
        return [] if first == second else [path]
    return [found for name, a, b in pairs for found in differences(a, b, exact, name)]


def trial(job: Job, kills: int, seed: int, folder: Path) -> list[list[str]]:
    """One untouched run, then ``kills`` killed and resumed ones; the differences of each."""
    draw = random.Random(seed)
    start = time.monotonic()
    run(command(job, folder / "untouched", resume=False))
    duration = time.monotonic() - start
    expected = final_state(folder / "untouched")
    steps = int(expected["global_step"])
    results = []
    for number in range(kills):
        place = folder / f"killed{number}"
        after = draw.randrange(steps)
        delay = draw.random() * (0.05 if after else duration / 2)
        ended = run(command(job, place, resume=False), after, delay)
        where = [saved_step(place)]
        if not ended and number % 3 == 2:
            ended = run(command(job, place, resume=True), draw.randrange(1, steps), 0.0)
            where.append(saved_step(place))
        if not ended:
            run(command(job, place, resume=True))
        found = differences(expected, final_state(place), exact=job.ranks == 1)
        points = " and ".join("before any checkpoint" if p is None else f"step {p}" for p in where)
        print(
            f"{' '.join(job.configs)}, {job.ranks} ranks, kill {number + 1}: saved {points} of "
            f"{steps}, {len(found)} differences"
        )
        sys.stdout.flush()
        results.append(found)
    return results


def saved_step(place: Path) -> int | None:
    """Step of a killed run's last checkpoint, if there is one."""
    last = place / "checkpoints" / "last.ckpt"
    if not last.exists():
        return None
    return int(torch.load(last, weights_only=True)["global_step"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", action="append", help="default: digits_lt/bcl_i")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--watched", action="store_true", help="with probe, log and history")
    args = parser.parse_args()
    job = Job(
        tuple(args.config or Job.configs), args.ranks, args.watched, args.epochs, args.batch_size
    )
    with tempfile.TemporaryDirectory() as folder:
        results = trial(job, args.kills, args.seed, Path(folder))
    bad = [found for found in results if found]
    print(f"{len(bad)} of {len(results)} killed runs differ")
    for found in bad:
        print("  " + ", ".join(found[:5]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
