"""Real process groups for tests: a pool of gloo ranks that stays up for the whole session."""

import atexit
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from commands import context

TIMEOUT = 60.0  # seconds after which a collective that not all ranks enter is an error


class RankPool:
    """Run importable functions on every rank of a group and hand back the ranks' results."""

    def __init__(self, world_size: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        store = str(Path(self.folder.name) / "store")
        self.pipes: list[Connection] = []
        self.processes = []
        self.closed = False
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, store, rank, world_size), daemon=True
            )
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)
        atexit.register(self.close)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call ``function(rank, *args)`` on every rank; results in rank order."""
        for pipe in self.pipes:
            pipe.send((function, args))
        results = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(2 * TIMEOUT):
                self.close()
                raise TimeoutError(f"rank {rank} gave no answer within {2 * TIMEOUT} s")
            results.append(pipe.recv())
        failures = [text for ok, text in results if not ok]
        if failures:
            raise RuntimeError("\n".join(failures))
        return [value for _, value in results]

    def close(self) -> None:
        self.closed = True
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(5)


_pools: dict[int, RankPool] = {}


def pool(world_size: int) -> RankPool:
    """The group of this size, started when first asked for."""
    if world_size not in _pools or _pools[world_size].closed:
        _pools[world_size] = RankPool(world_size)
    return _pools[world_size]


def _serve(pipe: Connection, store: str, rank: int, world_size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=TIMEOUT),
    )
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(rank, *args)))
        except BaseException:
            pipe.send((False, f"rank {rank}: {traceback.format_exc()}"))
