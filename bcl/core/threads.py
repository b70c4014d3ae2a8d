"""Python threads that share work made of many small tensor ops."""

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch

# A thread holds the interpreter's lock between its ops; more threads would mostly wait for it.
_MOST = 4


def in_threads(work: Callable[[slice], None], count: int) -> None:
    """Call ``work`` on slices that share ``count`` rows, in threads if torch may use several.

    Within ``work`` torch uses one: to divide an op of 50 us among threads costs more than it saves.
    A thread has the defaults of torch's modes: gradients, no autocast, no dispatch mode. An error
    of the work is raised when all threads have ended theirs.
    """
    own = torch.get_num_threads()
    threads = min(own, _MOST, count)
    if threads <= 1 or not threading.main_thread().is_alive():  # after it no pool takes work
        work(slice(0, count))
        return
    edges = [count * i // threads for i in range(threads + 1)]
    pool = _pool(own, os.getpid())
    parts: list[Future[None]] = []
    with contextlib.suppress(RuntimeError):  # the main thread has ended in between
        for ends in itertools.pairwise(edges):
            parts.append(pool.submit(work, slice(*ends)))
    wait(parts)
    for part in parts:
        part.result()
    if len(parts) < threads:
        work(slice(edges[len(parts)], count))


@functools.lru_cache(maxsize=1)
def _pool(own: int, _process: int) -> ThreadPoolExecutor:
    """The threads; a forked process, which has none of its parent's, gets its own."""
    threads = min(own, _MOST)
    started = threading.Barrier(threads + 1)
    pool = ThreadPoolExecutor(threads, "bcl-rows", _use_one_thread, (started,))
    try:
        for _ in range(threads):
            pool.submit(int)
        started.wait()
    except BaseException:  # an interrupt, or no more threads: let those go that wait
        started.abort()
        pool.shutdown()
        raise
    finally:
        torch.set_num_threads(own)  # the number set last is that of threads that start later
    return pool


def _use_one_thread(started: threading.Barrier) -> None:
    torch.get_num_threads()  # the first call in a thread sets the process's number
    torch.set_num_threads(1)
    with contextlib.suppress(threading.BrokenBarrierError):
        started.wait()
