"""Threads that share many small ops."""

import multiprocessing
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bcl.core.threads import in_threads


@pytest.fixture(autouse=True)
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def squares(count):
    out = torch.full((count,), -1)

    def work(rows):
        out[rows] = torch.arange(rows.start, rows.stop) ** 2

    in_threads(work, count)
    return out


def run(code):
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, timeout=60, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 100])
def test_every_row_is_worked_on_once(threads, count):
    torch.set_num_threads(threads)
    assert squares(count).equal(torch.arange(count) ** 2)
    assert torch.get_num_threads() == threads


def test_each_part_runs_in_a_thread_of_its_own_with_one_thread_of_torch():
    torch.set_num_threads(2)
    seen, both = [], threading.Barrier(2, timeout=30)

    def work(rows):
        both.wait()  # so that one thread cannot take both parts
        seen.append((threading.get_ident(), torch.get_num_threads(), rows.stop - rows.start))

    for _ in range(2):
        in_threads(work, 5)
    assert len({thread for thread, _, _ in seen}) == 2
    assert threading.get_ident() not in {thread for thread, _, _ in seen}
    assert [one for _, one, _ in seen] == [1] * 4
    assert sorted(rows for _, _, rows in seen) == [2, 2, 3, 3]
    started_later = []
    later = threading.Thread(target=lambda: started_later.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert started_later == [2]


def test_an_error_of_the_work_is_raised():
    torch.set_num_threads(2)

    def work(rows):
        if rows.stop == 10:
            raise ValueError("the second half")

    with pytest.raises(ValueError, match="the second half"):
        in_threads(work, 10)


def test_a_forked_process_gets_threads_of_its_own():
    torch.set_num_threads(2)
    squares(4)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=squares, args=(4,))
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_the_threads_stay_when_the_number_of_rows_changes():
    torch.set_num_threads(4)
    seen = set()
    for count in (2, 6, 2, 6):
        in_threads(lambda rows: seen.add(threading.get_ident()), count)
    assert len(seen) <= 4


def test_all_parts_have_ended_when_an_error_is_raised():
    torch.set_num_threads(2)
    failed, ended = threading.Event(), []

    def work(rows):
        if rows.start == 0:
            failed.set()
            raise ValueError("the first half")
        failed.wait(30)
        time.sleep(0.2)
        ended.append(rows)

    with pytest.raises(ValueError, match="the first half"):
        in_threads(work, 2)
    assert ended


@pytest.mark.parametrize("before", ["", "make()"])
def test_a_thread_that_outlives_the_main_one_makes_its_views(before):
    code = f"""
import threading, torch
from bcl import ContrastiveViews
torch.set_num_threads(2)
def make():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    return ContrastiveViews(8)(images, ids=torch.arange(2), epoch=0)
def train():
    threading.main_thread().join()
    print(len(make()))
{before}
threading.Thread(target=train).start()
"""
    assert run(code) == "2\n"


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_what_a_pool_no_longer_takes_is_done_here(taken, monkeypatch):
    torch.set_num_threads(3)
    squares(3)
    submit, calls = ThreadPoolExecutor.submit, []

    def until_the_end(pool, *args):
        if len(calls) == taken:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        calls.append(args)
        return submit(pool, *args)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", until_the_end)
    assert squares(100).equal(torch.arange(100) ** 2)
    assert len(calls) == taken


def test_threads_that_cannot_all_start_leave_the_process_able_to_end():
    code = """
import threading, torch
from bcl.core.threads import in_threads
torch.set_num_threads(2)
start, started = threading.Thread.start, []
def limited(thread):
    if started:
        raise RuntimeError("can't start new thread")
    started.append(thread)
    start(thread)
threading.Thread.start = limited
try:
    in_threads(print, 2)
except RuntimeError:
    threading.Thread.start = start
    later = threading.Thread(target=lambda: print(torch.get_num_threads()))
    later.start()
    later.join()
"""
    assert run(code) == "2\n"
