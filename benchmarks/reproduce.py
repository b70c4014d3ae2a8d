"""Train and probe a table of methods × seeds, unattended, and write one report of them all.

    python benchmarks/reproduce.py --preset cpu --root CIFAR10
    python benchmarks/reproduce.py --preset cpu --root CIFAR10 --runs simclr,bcl_i --seeds 0,1
    make reproduce PRESET=cpu ROOT=CIFAR10

A preset (`benchmarks/presets/NAME.yaml`, or a path) names a recipe of `bcl configs`, what its runs
share, and what each changes. Every run is a `bcl fit` and a `bcl probe` with a configuration file
in the run's folder; started again, the command goes on where it was interrupted, within an epoch
too. A run that fails is reported at the end and does not stop the others.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from summary import summarise

from bcl.configuration import Config, compose, merge
from bcl.errors import InputError, unknown_name
from bcl.files import write_text

PRESETS = Path(__file__).resolve().parent / "presets"


@dataclass(frozen=True)
class Cell:
    """One run of the table."""

    key: str
    label: str
    seed: int
    config: str
    folder: Path
    report: Path

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"{self.key}-{self.seed}"


def read_preset(name: str) -> Config:
    """Read a preset by name or path."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise unknown_name("preset", name, preset_names())
    preset: Config = yaml.safe_load(path.read_text(encoding="utf-8"))
    other = preset.pop("extends", None)
    return preset if other is None else merge(read_preset(other), preset)


def preset_names() -> list[str]:
    """Presets that can be run; ``base`` is only what they share."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml") if path.stem != "base")


def nested(path: str, value: Any) -> Config:
    """``a.b.c`` and a value as nested mappings."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value  # type: ignore[no-any-return]


def table(
    preset: Config, out: Path, root: str | None, runs: list[str], seeds: list[int], changes: Config
) -> list[Cell]:
    """All runs, seed by seed, so that an unfinished table is still paired."""
    cells = []
    for seed in seeds:
        for key in runs:
            run = preset["runs"][key]
            parts = [preset.get("settings", {}), run.get("settings", {}), changes]
            parts += [nested(path, seed) for path in ["seed_everything", *preset.get("seeded", [])]]
            if root is not None:
                parts.append(nested("data.init_args.root", str(Path(root).resolve())))
            config = merge(compose(f"{preset['recipe']}/{run['method']}"), *parts)
            name = f"{key}-{seed}"
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            folder = out / "runs" / name
            cells.append(Cell(key, run["label"], seed, text, folder, out / "probe" / name))
    return cells


def check(cells: list[Cell]) -> None:
    """Refuse a folder whose runs had other settings."""
    for cell in cells:
        path = cell.folder / "config.yaml"
        if path.is_file() and path.read_text(encoding="utf-8") != cell.config:
            raise InputError(
                f"{path} has other settings than this command; name another --out, or remove "
                f"{cell.folder} and {cell.report}."
            )


class Runner:
    """Runs cells as processes, some at a time, with one line for each step."""

    def __init__(self, cells: list[Cell], preset: Config, jobs: int, threads: int) -> None:
        self.cells, self.preset, self.jobs = cells, preset, jobs
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.lock = threading.Lock()
        self.failed: dict[str, str] = {}
        self.done = 0
        self.trained: list[float] = []
        self.start = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line with the time."""
        with self.lock:
            print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)

    def command(self, cell: Cell, words: list[str], step: str) -> bool:
        """Run one ``bcl`` command; its output goes to a file, of which a failure shows the end."""
        log = cell.folder / f"{step}.log"
        with log.open("a", encoding="utf-8") as file:
            print("$ bcl " + " ".join(words), file=file, flush=True)
            answer = subprocess.run(
                [sys.executable, "-m", "bcl.cli", *words],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                check=False,
            )
        if answer.returncode:
            end = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            self.failed[cell.name] = f"{step}: {' '.join(end)} (see {log})"
            self.say(f"{cell.name}: {step} failed: {' '.join(end)}")
        return answer.returncode == 0

    def run(self, cell: Cell) -> None:
        """Train and probe one cell, or what is left of it."""
        if not (cell.report / "report.json").is_file():
            begin = time.monotonic()
            cell.folder.mkdir(parents=True, exist_ok=True)
            path = cell.folder / "config.yaml"
            write_text(path, cell.config)
            last = cell.folder / "checkpoints" / "last.ckpt"
            words = ["fit", "--config", str(path), "--name", cell.label]
            words += ["--trainer.default_root_dir", str(cell.folder), "--save.every_minutes", "2"]
            words += ["--save.every_n_epochs", "1000000"]
            if last.is_file():
                words += ["--ckpt_path", "last"]
                self.say(f"{cell.name}: goes on from its checkpoint")
            over = (cell.folder / "run.json").is_file()
            if not over and not self.command(cell, words, "fit"):
                return
            words = ["probe", str(last), "--protocol", self.preset["protocols"]]
            words += ["--out", str(cell.report), "--overwrite"]
            if not self.command(cell, words, "probe"):
                return
            self.trained.append(time.monotonic() - begin)
        with self.lock:
            self.done += 1
        self.say(f"{cell.name}: {accuracy(cell)}   {self.left()}")

    def left(self) -> str:
        """How many are done, and a guess how long the others take."""
        text = f"{self.done} of {len(self.cells)} done"
        if not self.trained:
            return text
        rest = len(self.cells) - self.done
        seconds = sum(self.trained) / len(self.trained) * rest / self.jobs
        return f"{text}, about {seconds / 60:.0f} min left"

    def all(self) -> None:
        """Run every cell."""
        with ThreadPoolExecutor(self.jobs) as pool:
            for future in [pool.submit(self.run, cell) for cell in self.cells]:
                future.result()


def accuracy(cell: Cell) -> str:
    """First protocol's All and groups of a probed run, in per cent."""
    content = json.loads((cell.report / "report.json").read_text(encoding="utf-8"))
    entry = content["protocols"][0]
    groups = entry["summary"][next(iter(content["groups"]))]
    parts = [f"{100 * groups[name]['mean']:.2f}" for name in ("many", "medium", "few")]
    whole = 100 * entry["summary"]["accuracy"]["mean"]
    return f"{entry['name']} {whole:.2f} ({'/'.join(parts)})"


def plain_command(args: argparse.Namespace) -> str:
    """What to type for these runs on another machine, where the data lies elsewhere."""
    words = ["python", "benchmarks/reproduce.py", "--preset", args.preset]
    words += ["--root", "DIR"] if args.root else []
    words += ["--runs", args.runs] if args.runs else []
    words += ["--seeds", args.seeds] if args.seeds else []
    return " ".join([*words, *(f"--set {word}" for word in args.set)])


def finish(cells: list[Cell], preset: Config, name: str, command: str, out: Path) -> None:
    """Write results and report of the runs that are done."""
    done = [cell for cell in cells if (cell.report / "report.json").is_file()]
    if not done:
        return
    summary = summarise(
        {(cell.key, cell.seed): cell.report for cell in done},
        {key: run["label"] for key, run in preset["runs"].items()},
        [tuple(pair) for pair in preset.get("compare", [])],
        {"preset": name, "about": preset["about"], "command": command},
    )
    write_text(out / "results.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    words = ["report", *(str(cell.report) for cell in done), "--overwrite", "--formats", "md,csv"]
    words += ["--title", preset["about"], "--out", str(out / "report.html")]
    subprocess.run([sys.executable, "-m", "bcl.cli", *words], check=False)


def numbers(text: str) -> list[int]:
    """``0,1,2`` as integers."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(
            f"--seeds takes integers with commas, such as 0,1,2; got '{text}'."
        ) from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="cpu", help="name, or path of a YAML file")
    parser.add_argument("--root", help="folder of the data set, where the preset needs one")
    parser.add_argument("--out", help="folder to write (default: outputs/reproduce/PRESET)")
    parser.add_argument("--runs", help="some of the preset's runs, with commas (default: all)")
    parser.add_argument("--seeds", help="with commas (default: the preset's)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change a setting of every run, such as trainer.max_epochs=800; may be repeated",
    )
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    parser.add_argument(
        "--jobs", type=int, help="runs at a time (default: 1 with a GPU, else cores)"
    )
    parser.add_argument("--threads", type=int, help="threads a run (default: cores / jobs)")
    args = parser.parse_args()
    try:
        preset = read_preset(args.preset)
        if preset.get("root") and args.root is None:
            raise InputError(f"preset '{args.preset}' needs --root: {preset['root']}.")
        if args.root is not None and not Path(args.root).exists():
            raise InputError(f"--root: nothing at {args.root}; check the path.")
        runs = args.runs.split(",") if args.runs else list(preset["runs"])
        for run in runs:
            if run not in preset["runs"]:
                raise unknown_name("run", run, preset["runs"])
        seeds = numbers(args.seeds) if args.seeds else preset["seeds"]
        changes: Config = {}
        for word in args.set:
            path, equals, value = word.partition("=")
            if not equals:
                raise InputError(
                    f"--set takes PATH=VALUE, such as trainer.max_epochs=2; got '{word}'."
                )
            changes = merge(changes, nested(path, yaml.safe_load(value)))
        jobs = args.jobs or jobs_here(cores)
        out = Path(args.out or Path("outputs", "reproduce", Path(args.preset).stem))
        cells = table(preset, out, args.root, runs, seeds, changes)
        check(cells)
    except InputError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    runner = Runner(cells, preset, jobs, args.threads or max(cores // jobs, 1))
    runner.say(f"{len(cells)} runs, {jobs} at a time, into {out}")
    try:
        runner.all()
    finally:
        finish(cells, preset, Path(args.preset).stem, plain_command(args), out)
    for name, why in runner.failed.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if runner.failed else 0


def jobs_here(cores: int) -> int:
    """One run at a time on a GPU; else one a core, which wastes nothing on small pictures."""
    import torch

    return 1 if torch.cuda.is_available() else cores


if __name__ == "__main__":
    sys.exit(main())
