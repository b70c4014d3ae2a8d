"""Train and probe a table of methods × seeds, unattended, and write one report.

    python benchmarks/reproduce.py --preset cpu --root CIFAR10
    python benchmarks/reproduce.py --preset cpu --root CIFAR10 --runs simclr,bcl_i --seeds 0,1
    make reproduce PRESET=cpu ROOT=CIFAR10

A preset (`benchmarks/presets/NAME.yaml`, or a path) names a recipe of `bcl configs`, what its runs
share, and what each changes. Every run is a `bcl fit` and a `bcl probe` with a configuration file
in the run's folder; started again, the command continues where it was interrupted, even within an
epoch. A run that fails is reported at the end and does not stop the others. Ctrl-C, SIGTERM and
SIGHUP end the runs and write the results of those that are done.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import summary
import yaml
from preset import read_preset

from bcl.cli.configuration import Config, compose, merge
from bcl.core.errors import InputError, unknown_name
from bcl.core.files import check_writable, write_text
from bcl.core.machine import usable_cores
from bcl.evaluation.protocols import parse_protocols

PROGRAM = (sys.executable, "-m", "bcl.cli")
PATIENCE = 15.0  # seconds for an interrupted run to end by itself


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
                parts.append(nested("data.init_args.root", str(Path(root).expanduser().resolve())))
            config = merge(compose(f"{preset['recipe']}/{run['method']}"), *parts)
            name = f"{key}-{seed}"
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            folder = out / "runs" / name
            cells.append(Cell(key, run["label"], seed, text, folder, out / "probe" / name))
    return cells


def check(cells: list[Cell]) -> None:
    """Refuse a folder whose runs have other settings."""
    for cell in cells:
        path = cell.folder / "config.yaml"
        if path.is_file() and path.read_text(encoding="utf-8") != cell.config:
            raise InputError(
                f"{path} has other settings than this command; choose another --out, or remove "
                f"{cell.folder} and {cell.report}."
            )


@contextlib.contextmanager
def alone(out: Path) -> Iterator[tuple[int, ...]]:
    """Lock the folder, so that no second command writes to the same runs.

    Yields:
        Descriptors for the runs to inherit: a run that outlives a killed command keeps the lock.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield ()
        return
    check_writable(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another command, or a run that outlived it, is writing to {out}; wait for it, "
                "end it, or choose another --out."
            ) from None
        except OSError:  # a file system without locks
            yield ()
            return
        yield (file.fileno(),)


class Runner:
    """Runs cells as processes, some at a time, with one line for each step."""

    def __init__(
        self,
        cells: list[Cell],
        preset: Config,
        jobs: int,
        threads: int,
        inherited: tuple[int, ...] = (),
    ) -> None:
        self.cells, self.preset, self.jobs, self.inherited = cells, preset, jobs, inherited
        self.protocols = {each.name for each in parse_protocols(preset["protocols"])}
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
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
            with self.lock:
                if self.stopped:
                    return False
                process = subprocess.Popen(
                    [*PROGRAM, *words],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,  # its own group, ended as a whole
                    pass_fds=self.inherited,
                )
                self.processes.add(process)
            status = process.wait()
            with self.lock:
                self.processes.discard(process)
        if status and not self.stopped:
            end = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            self.failed[cell.name] = f"{step}: {' '.join(end)} (see {log})"
            self.say(f"{cell.name}: {step} failed: {' '.join(end)}")
        return status == 0

    def stop(self) -> None:
        """End what runs, with its own processes, and begin nothing more."""
        with self.lock:
            self.stopped = True
            processes = list(self.processes)
        for process in processes:
            _signal(process, signal.SIGTERM)
        limit = time.monotonic() + PATIENCE
        for process in processes:
            try:
                process.wait(max(limit - time.monotonic(), 0))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                limit = 0.0  # a second Ctrl-C: wait no longer
            # Its data workers or ranks may still run.
            _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))

    def is_probed(self, cell: Cell) -> bool:
        """Whether its report is there, with the protocols that are asked for."""
        path = cell.report / "report.json"
        if not path.is_file():
            return False
        content = json.loads(path.read_text(encoding="utf-8"))
        return self.protocols <= {entry["name"] for entry in content["protocols"]}

    def attempt(self, cell: Cell) -> None:
        """Run a cell; whatever goes wrong costs the others nothing."""
        try:
            if not self.stopped:
                self.run(cell)
        except Exception as error:
            self.failed[cell.name] = f"{type(error).__name__}: {error}"
            self.say(f"{cell.name}: {self.failed[cell.name]}")

    def run(self, cell: Cell) -> None:
        """Train and probe one cell, or what is left of it."""
        if not self.is_probed(cell):
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

    def all(self) -> bool:
        """Run every cell.

        Returns:
            Whether it came to its end, not to an interrupt.
        """
        pool = ThreadPoolExecutor(self.jobs)
        futures = [pool.submit(self.attempt, cell) for cell in self.cells]
        try:
            with _interrupts():
                for future in futures:
                    future.result()
        except KeyboardInterrupt:
            self.say("interrupted; ending the runs")
            self.stop()
        finally:
            pool.shutdown(cancel_futures=True)
        return not self.stopped


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Signal a process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.terminate()


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt as Ctrl-C does; under nohup, SIGHUP stays ignored."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            old[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


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
    for word in args.set:
        words += ["--set", word]
    return shlex.join(words)


def finish(
    cells: list[Cell], runner: Runner, preset: Config, name: str, command: str, out: Path
) -> None:
    """Write results and report of the runs that are done."""
    done = [cell for cell in cells if runner.is_probed(cell)]
    if not done:
        return
    found = summary.summarize(
        {(cell.key, cell.seed): cell.report for cell in done},
        {key: run["label"] for key, run in preset["runs"].items()},
        {"preset": name, "about": preset["about"], "command": command},
    )
    summary.write(out / "results.json", found)
    words = ["report", *(str(cell.report) for cell in done), "--overwrite", "--formats", "md,csv"]
    words += ["--title", preset["about"], "--out", str(out / "report.html")]
    status = subprocess.run([*PROGRAM, *words], check=False).returncode
    if status:
        runner.failed["report"] = f"bcl report ended with status {status}; results.json is whole"


def check_whole(cells: list[Cell], out: Path) -> None:
    """Refuse to replace the results of all of a folder's runs by those of some."""
    path = out / "results.json"
    if not path.is_file():
        return
    had = {(run["run"], run["seed"]) for run in json.loads(path.read_text("utf-8"))["runs"]}
    lost = sorted(had - {(cell.key, cell.seed) for cell in cells})
    if lost:
        key, seed = lost[0]
        raise InputError(
            f"{path} has {len(lost)} run(s) that this command leaves out, first '{key}' with seed "
            f"{seed}: add them to --runs and --seeds (finished runs are not repeated), or choose "
            "another --out."
        )


def numbers(text: str) -> list[int]:
    """``0,1,2`` as integers."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(
            f"--seeds takes integers separated by commas, such as 0,1,2; got '{text}'."
        ) from None


def check_once(option: str, values: list[Any]) -> None:
    """Refuse a repeated value: its run would be made twice in one folder."""
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{option} names {value} {values.count(value)} times; once is enough.")


def at_least_one(option: str, value: int | None) -> None:
    """Refuse numbers below 1; None is the default."""
    if value is not None and value < 1:
        raise InputError(f"{option} must be at least 1, got {value}.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="cpu", help="name, or path of a YAML file")
    parser.add_argument("--root", help="folder of the data set, where the preset needs one")
    parser.add_argument("--out", help="folder to write (default: outputs/reproduce/PRESET)")
    parser.add_argument(
        "--runs", help="some of the preset's runs, separated by commas (default: all)"
    )
    parser.add_argument("--seeds", help="separated by commas (default: the preset's)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change a setting of every run, such as trainer.max_epochs=800; may be repeated",
    )
    cores = usable_cores()
    parser.add_argument(
        "--jobs", type=int, help="runs at a time (default: 1 with a GPU, else cores)"
    )
    parser.add_argument("--threads", type=int, help="threads per run (default: cores / jobs)")
    args = parser.parse_args()
    try:
        preset = read_preset(args.preset)
        if preset.get("root") and args.root is None:
            raise InputError(f"preset '{args.preset}' needs --root: {preset['root']}.")
        if args.root is not None and not Path(args.root).expanduser().exists():
            raise InputError(f"--root: nothing at {args.root}; check the path.")
        runs = args.runs.split(",") if args.runs else list(preset["runs"])
        for run in runs:
            if run not in preset["runs"]:
                raise unknown_name("run", run, preset["runs"])
        seeds = numbers(args.seeds) if args.seeds else preset["seeds"]
        check_once("--runs", runs)
        check_once("--seeds", seeds)
        at_least_one("--jobs", args.jobs)
        at_least_one("--threads", args.threads)
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
        check_whole(cells, out)
        with alone(out) as inherited:
            threads = args.threads or max(cores // jobs, 1)
            runner = Runner(cells, preset, jobs, threads, inherited)
            runner.say(f"{len(cells)} runs, {jobs} at a time, into {out}")
            ended = runner.all()
            finish(cells, runner, preset, Path(args.preset).stem, plain_command(args), out)
    except InputError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    for name, why in runner.failed.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    if not ended:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 128 + signal.SIGINT
    return 1 if runner.failed else 0


def jobs_here(cores: int) -> int:
    """One run at a time on a GPU, else one per core, which is efficient for small images."""
    import torch

    return 1 if torch.cuda.is_available() else cores


if __name__ == "__main__":
    sys.exit(main())
