"""Train on two hosts with torchrun, then cut the cable between them: who ends, how, and when?

    sudo python benchmarks/two_hosts.py --cuts 5

The hosts are network namespaces of this machine, with a name and an address each, joined by a
virtual cable; they share a disk, as nodes of a cluster do. First one run on two ranks of one host,
and one on both hosts: they must end with the same weights. Then runs on both hosts whose cable is
cut at a random moment after the first checkpoint: both ranks must end with a line, within
``--timeout`` and half a minute, and the run, resumed on both, must end with the same weights too.
The exit status is 1 if something is not so. Needs root, `ip` and `unshare`.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kill_and_resume import Job, command, differences, final_state, run, saved_step

GRACE = 30.0  # seconds to end in after the timeout of collectives
Processes = list["subprocess.Popen[bytes]"]


class Hosts:
    """Two network namespaces that know each other by name and can reach nothing else."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs  # a file of the host's name for what is said on it
        self.names = [f"bcl{os.getpid()}{letter}" for letter in "ab"]
        self.homes = [Path("/etc/netns", name) for name in self.names]  # found as /etc inside

    def __enter__(self) -> "Hosts":
        known = [f"10.77.0.{place} {name}\n" for place, name in enumerate(self.names, 1)]
        try:
            for name, home in zip(self.names, self.homes, strict=True):
                ip("netns", "add", name)
                home.mkdir(parents=True)
                (home / "hosts").write_text("".join(["127.0.0.1 localhost\n", *known]))
            first, second = ["cable", "netns", self.names[0]], ["cable", "netns", self.names[1]]
            ip("link", "add", *first, "type", "veth", "peer", *second)
            for place, name in enumerate(self.names, 1):
                ip("-n", name, "addr", "add", f"10.77.0.{place}/24", "dev", "cable")
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "link", "set", "cable", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for name, home in zip(self.names, self.homes, strict=True):
            with contextlib.suppress(RuntimeError):
                ip("netns", "delete", name)
            shutil.rmtree(home, ignore_errors=True)

    def start(self, words: Sequence[str]) -> Processes:
        """A command ``python ...`` on both hosts through torchrun, as on the page on clusters."""
        launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
        launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"{self.names[0]}:29500"]
        launcher += ["--rdzv_id", "run1", *words[1:]]
        started = []
        for name in self.names:
            inside = ["unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh"]
            with (self.logs / name).open("wb") as log:
                started.append(
                    subprocess.Popen(
                        ["ip", "netns", "exec", name, *inside, words[0], *launcher],
                        env={**os.environ, "OMP_NUM_THREADS": "1"},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        return started

    def train(self, words: Sequence[str]) -> None:
        """Run a command to its end on both."""
        codes = [each.wait() for each in self.start(words)]
        if any(codes):
            raise RuntimeError(f"the run failed:\n{self.said()}")

    def said(self) -> str:
        """What both said."""
        return "\n".join((self.logs / name).read_text() for name in self.names)

    def cable(self, state: str) -> None:
        """Plug the cable, "up", or cut it, "down"."""
        ip("-n", self.names[0], "link", "set", "cable", state)

    def processes(self, name: str) -> list[int]:
        """All that runs on a host."""
        return [int(pid) for pid in ip("netns", "pids", name).split()]

    def trains(self, name: str) -> bool:
        """Whether a rank runs on a host; torchrun's own process is none."""
        for pid in self.processes(name):
            with contextlib.suppress(OSError):  # it has just ended
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"bcl.cli" in words and b"torch.distributed.run" not in words:
                    return True
        return False

    def stop(self) -> None:
        """Kill what still runs."""
        for name in self.names:
            with contextlib.suppress(RuntimeError, ProcessLookupError):
                for pid in self.processes(name):
                    os.kill(pid, signal.SIGKILL)


def ip(*words: str) -> str:
    """Ask `ip`; a RuntimeError with what it says if it refuses."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def fit(folder: Path, ranks: int, job: Job, timeout: int, resume: bool = False) -> list[str]:
    """The command of a run on two ranks, so many of them on a host."""
    words = command(job, folder, resume)
    words[words.index("--trainer.devices") + 1] = str(ranks)
    words[words.index("--trainer.strategy") + 1] = "DDPStrategy"
    words += [
        "--trainer.strategy.timeout",
        f"{timeout // 3600}:{timeout // 60 % 60}:{timeout % 60}",
    ]
    return [*words, "--trainer.num_nodes", str(2 // ranks)]


def cut(hosts: Hosts, words: Sequence[str], folder: Path, timeout: int) -> dict[str, float]:
    """Cut the cable after the first checkpoint; the seconds until the rank of each host ended.

    On the host without the rendezvous torchrun goes on until TCP gives up; nobody waits for it.
    """
    running = hosts.start(words)
    while not (folder / "checkpoints" / "last.ckpt").exists():
        if any(each.poll() is not None for each in running):
            raise RuntimeError(f"the run did not start:\n{hosts.said()}")
        time.sleep(0.05)
    time.sleep(random.random())
    hosts.cable("down")
    begin, ended = time.monotonic(), dict.fromkeys(hosts.names, float("inf"))
    while (now := time.monotonic() - begin) < timeout + GRACE and float("inf") in ended.values():
        for name in hosts.names:
            if not hosts.trains(name):
                ended[name] = min(ended[name], now)
        time.sleep(0.2)
    hosts.stop()
    hosts.cable("up")
    return ended


def last_words(said: str) -> tuple[bool, str]:
    """Whether a rank ended with one line, and that line; or all that it said instead."""
    before, begin, after = said.partition("bcl: error: another rank has ended or cannot be reached")
    fine = bool(begin) and "Traceback" not in before and begin not in after
    return fine, begin + after.partition("\n")[0] if fine else said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--timeout", type=int, default=30, help="seconds that a collective waits")
    args = parser.parse_args()
    job, wait, bad = Job(ranks=2, epochs=args.epochs), args.timeout, 0
    with tempfile.TemporaryDirectory() as place, Hosts(Path(place)) as hosts:
        folder = Path(place)
        run(fit(folder / "one", 2, job, wait))
        expected = final_state(folder / "one")
        print(f"two ranks of one host: {expected['global_step']} steps", flush=True)

        def compare(what: str, place: Path) -> bool:
            found = differences(expected, final_state(place), exact=True)
            print(f"{what}: {len(found)} differences from one host {found[:5]}", flush=True)
            return bool(found)

        hosts.train(fit(folder / "two", 1, job, wait))
        bad += compare("two hosts", folder / "two")
        for number in range(args.cuts):
            place = folder / f"cut{number}"
            for name, seconds in cut(hosts, fit(place, 1, job, wait), place, wait).items():
                fine, words = last_words((folder / name).read_text())
                bad += not fine or seconds > wait + GRACE
                print(f"cut {number + 1}: {name} ended after {seconds:.1f} s: {words}", flush=True)
            step = saved_step(place)
            hosts.train(fit(place, 1, job, wait, resume=True))
            bad += compare(f"cut {number + 1}: resumed on both after step {step}", place)
    print(f"{bad} of these are not as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
