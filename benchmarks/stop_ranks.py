"""Stop a run of several ranks again and again: does it end, in good order, and how soon?

    python benchmarks/stop_ranks.py --tries 100

Each try starts two ranks that save after every step, waits for the first checkpoint and a random
moment more, and sends SIGTERM, SIGUSR1 or SIGINT to rank 0's process or to the whole group. The run
must end within 90 seconds with the signal's exit status, name its step, and leave a checkpoint of
that step. Every fifth try kills rank 1 instead: the run must end with a line. Rank 0 starts rank 1,
as by ``bcl fit --trainer.devices 2``, or, every other time, both start as torchrun starts them, but
forked from a process with all imports done, which spares most of a try's time. Prints one line per
try; the exit status is 1 if any failed.
"""

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from kill_and_resume import Job, command, saved_step, start

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
from commands import Ranks

LIMIT = 90.0  # seconds to end in: minutes fewer than a hang, more than a busy machine needs
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Launched:
    """Rank 0 as a user starts it, which starts rank 1."""

    def __init__(self, words: list[str]) -> None:
        self._process = start(words)
        self.pid, self.poll = self._process.pid, self._process.poll

    def other(self) -> int:
        """The process of rank 1: rank 0's child with the same command."""
        found = Path(f"/proc/{self.pid}/task").glob("*/children")
        children = [int(word) for path in found for word in path.read_text().split()]
        return next(p for p in children if b"bcl" in Path(f"/proc/{p}/cmdline").read_bytes())

    def said(self) -> str:
        """What the ranks wrote."""
        return self._process.communicate()[0]


class Forked(Ranks):
    """Both ranks, as torchrun starts them."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(2, words)

    def other(self) -> int:
        """The process of rank 1."""
        return int(self.ranks[1].pid)

    def said(self) -> str:
        """What the ranks wrote."""
        return "".join(rank.output.read_text() for rank in self.ranks)


def attempt(folder: Path, number: int, group: bool, delay: float, forked: bool) -> str:
    """Start a run and stop it; what happened, beginning with "ok" if all was in order."""
    words = command(Job(ranks=2, epochs=500), folder, resume=False)
    process = (Forked if forked else Launched)(words)
    while saved_path(folder) is None:
        if process.poll() is not None:
            return f"failed to start:\n{process.said()}"
        time.sleep(0.02)
    time.sleep(delay)
    begin = time.monotonic()
    if number == signal.SIGKILL:
        os.kill(process.other(), number)
    elif group:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    while (status := process.poll()) is None:
        if time.monotonic() > begin + LIMIT:
            os.killpg(process.pid, signal.SIGKILL)
            return f"HANGS: {process.said()[-300:]}"
        time.sleep(0.02)
    seconds, said = time.monotonic() - begin, process.said()
    lines = [line for line in said.splitlines() if line.startswith("bcl: ")]
    if number == signal.SIGKILL:
        fine = any("another rank has ended" in line for line in lines)
    else:
        step = re.search(r"^bcl: stopped by \w+ after step (\d+); resume with", said, re.MULTILINE)
        fine = status == 128 + number and step is not None
        fine = fine and saved_step(folder) == int(step[1] if step else -1)
    return f"{'ok' if fine else 'WRONG'} in {seconds:.1f} s, status {status}: {lines}"


def saved_path(folder: Path) -> Path | None:
    path = folder / "checkpoints" / "last.ckpt"
    return path if path.exists() else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    draw, bad = random.Random(args.seed), 0
    for index in range(args.tries):
        number = signal.SIGKILL if index % 5 == 4 else SIGNALS[index % len(SIGNALS)]
        group, delay, forked = draw.random() < 0.5, draw.random(), index % 2 == 1
        with tempfile.TemporaryDirectory() as folder:
            found = attempt(Path(folder), number, group, delay, forked)
        bad += not found.startswith("ok")
        to = "rank 1" if number == signal.SIGKILL else "the group" if group else "rank 0"
        print(f"{index + 1}: {number.name} to {to}{' (forked)' * forked}: {found}", flush=True)
    print(f"{bad} of {args.tries} did not end in good order")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
