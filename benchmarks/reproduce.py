"""Train and probe a table of methods × seeds, unattended, and write one report.

    python benchmarks/reproduce.py --preset cpu --root CIFAR10
    python benchmarks/reproduce.py --preset cpu --root CIFAR10 --runs simclr,bcl_i --seeds 0,1
    make reproduce PRESET=cpu ROOT=CIFAR10

A preset (`benchmarks/presets/NAME.yaml`, or a path) names a recipe of `bcl configs`, what its runs
share, and what each changes; or several presets, which are then run together. Every run is a `bcl
fit` and a `bcl probe` with a configuration file in the run's folder; started again, the command
continues where it was interrupted, even within an epoch. Results are written after every run. A run
that fails is reported at the end and does not stop the others. Ctrl-C, SIGTERM and SIGHUP end the
runs and write the results of those that are done.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from cells import Cell, check, nested, read_parts
from collect import Results, accuracy, check_whole, is_probed, to_do, writer

from bcl.cli.configuration import Config, merge
from bcl.core.errors import InputError
from bcl.core.files import check_writable, write_text
from bcl.core.machine import usable_cores

PROGRAM = (sys.executable, "-m", "bcl.cli")
PATIENCE = 15.0  # seconds for an interrupted run to end by itself


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
        jobs: int,
        threads: int,
        inherited: tuple[int, ...] = (),
        after: Callable[[Cell], None] = lambda _: None,
    ) -> None:
        self.cells, self.jobs, self.inherited, self.after = cells, jobs, inherited, after
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
            self.failed[cell.title] = f"{step}: {' '.join(end)} (see {log})"
            self.say(f"{cell.title}: {step} failed: {' '.join(end)}")
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

    def attempt(self, cell: Cell) -> None:
        """Run a cell; whatever goes wrong costs the others nothing."""
        try:
            if not self.stopped:
                self.run(cell)
        except Exception as error:
            self.failed[cell.title] = f"{type(error).__name__}: {error}"
            self.say(f"{cell.title}: {self.failed[cell.title]}")

    def run(self, cell: Cell) -> None:
        """Train and probe one cell, or what is left of it."""
        if not is_probed(cell):
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
                self.say(f"{cell.title}: goes on from its checkpoint")
            trained = cell.folder / "trained"  # an interrupted run has a run.json, too
            if not trained.is_file():
                if not self.command(cell, words, "fit"):
                    return
                trained.touch()
            words = ["probe", str(last), "--protocol", cell.protocols]
            words += ["--out", str(cell.report), "--overwrite"]
            if not self.command(cell, words, "probe"):
                return
            self.trained.append(time.monotonic() - begin)
        with self.lock:
            self.done += 1
            self.after(cell)
        self.say(f"{cell.title}: {accuracy(cell)}   {self.left()}")

    def left(self) -> str:
        """How many are done, and a guess how long the others take."""
        text = f"{self.done} of {len(self.cells)} done"
        if not self.trained:
            return text
        rest = len(self.cells) - self.done
        seconds = sum(self.trained) / len(self.trained) * rest / self.jobs
        return f"{text}, about {seconds / 60:.0f} min left"

    def all(self, minutes: float | None = None) -> bool:
        """Run every cell, for so many minutes at most.

        Returns:
            Whether it came to its end, not to an interrupt.
        """
        pool = ThreadPoolExecutor(self.jobs)
        futures = [pool.submit(self.attempt, cell) for cell in self.cells]
        try:
            with _interrupts(minutes):
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
def _interrupts(minutes: float | None = None) -> Iterator[None]:
    """Let SIGTERM, SIGHUP and the end of the time interrupt as Ctrl-C does.

    Under nohup, SIGHUP stays ignored.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = {}
    for name in ("SIGTERM", "SIGHUP", "SIGALRM"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            old[number] = signal.signal(number, interrupt)
    if minutes is not None:
        signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        if minutes is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in old.items():
            signal.signal(number, handler)


def plain_command(args: argparse.Namespace) -> str:
    """What to type for these runs on another machine, where the data lies elsewhere."""
    words = ["python", "benchmarks/reproduce.py", "--preset", args.preset]
    words += ["--root", "DIR"] if args.root else []
    words += ["--runs", args.runs] if args.runs else []
    words += ["--seeds", args.seeds] if args.seeds else []
    for word in args.set:
        words += ["--set", word]
    return shlex.join(words)


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


def find_folder(name: str) -> Path:
    """A folder that is there."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise InputError(f"--finished: no folder {name}; check the path.")
    return folder


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
    parser.add_argument("--minutes", type=float, help="stop then; the same command goes on")
    parser.add_argument(
        "--finished",
        metavar="DIR",
        help="results of other machines (NAME.json), whose runs are not repeated",
    )
    args = parser.parse_args()
    try:
        runs = args.runs.split(",") if args.runs else None
        seeds = numbers(args.seeds) if args.seeds else None
        check_once("--runs", runs or [])
        check_once("--seeds", seeds or [])
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
        finished = None if args.finished is None else find_folder(args.finished)
        out = Path(args.out or Path("outputs", "reproduce", Path(args.preset).stem))
        parts = read_parts(args.preset, args.root, out, runs, seeds, changes)
        for part in parts:
            check(part.cells)
            check_whole(part.cells, part.out)
        with alone(out) as inherited:
            threads = args.threads or max(cores // jobs, 1)
            results = [Results(part, plain_command(args), finished) for part in parts]
            runner = Runner(to_do(results), jobs, threads, inherited, writer(results))
            runner.say(f"{len(runner.cells)} runs, {jobs} at a time, into {out}")
            ended = runner.all(args.minutes)
            for each in results:
                each.write()
                if problem := each.report(PROGRAM):
                    runner.failed["report"] = problem
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
