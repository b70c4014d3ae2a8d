"""Commands in processes of their own, forked from one that has done the slow imports.

Importing Lightning takes longer than most of the runs that tests start.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CLI = [sys.executable, "-m", "bcl.cli"]

context = multiprocessing.get_context("forkserver")
# Not the tests' own imports: what is preloaded must start no thread.
context.set_forkserver_preload(["torch.distributed", "jsonargparse", "timm", "bcl.training"])


class Command:
    """``[python, -m, MODULE, ...]`` or ``[python, SCRIPT, ...]``, as by ``subprocess.Popen``.

    Standard output and error go to one file.
    """

    def __init__(self, words: list[Any], env: Any = None, cwd: Any = None, **more: Any) -> None:
        """``more``: ``stdout``, a file; ``group``, the process group, else a new one."""
        _, *program = map(str, words)
        self.folder = tempfile.TemporaryDirectory()
        self.output = Path(getattr(more.get("stdout"), "name", f"{self.folder.name}/output"))
        ours, theirs = context.Pipe()
        settings = (program, dict(env or os.environ), str(cwd or Path.cwd()), str(self.output))
        settings += (more.get("group", 0),)
        self.process = context.Process(target=_run, args=(theirs, *settings))
        self.process.start()
        self.pid = self.process.pid
        ours.recv()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("command", timeout or 0)
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        self.wait(timeout)
        return self.output.read_text(encoding="utf-8"), None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Ranks:
    """A command on each rank of a group, in one process group, as torchrun starts it."""

    def __init__(self, ranks: int, words: list[Any]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests"}
        group |= {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
        self.ranks: list[Command] = []
        for rank in range(ranks):
            own = {**group, "RANK": rank, "LOCAL_RANK": rank}
            environment = {**os.environ, **{name: str(value) for name, value in own.items()}}
            first = self.ranks[0].pid if self.ranks else 0
            self.ranks.append(Command(words, environment, group=first))
        self.pid = self.ranks[0].pid

    @property
    def returncode(self) -> int | None:
        codes = [each.returncode for each in self.ranks]
        return None if None in codes else max(codes, key=abs)

    def poll(self) -> int | None:
        return self.returncode

    def communicate(self) -> tuple[str, None]:
        return "".join(each.communicate()[0] for each in self.ranks), None


def launch(ranks: int, words: list[Any]) -> "Command | Ranks":
    """Start a command, alone or on ranks."""
    return Command(words) if ranks == 1 else Ranks(ranks, words)


def _run(
    ready: Connection,
    program: list[str],
    environment: dict[str, str],
    folder: str,
    output: str,
    group: int,
) -> None:
    os.setpgid(0, group)
    with open(output, "ab") as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # Where the tests run in the background it is ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    ready.send("its own group, its own output")
    ready.close()
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        sys.path.insert(0, str(Path(program[0]).parent))
        runpy.run_path(program[0], run_name="__main__")
