import io
import itertools

import pytest

from bcl.core import progress
from bcl.core.progress import Progress, rows, say


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that is a second later at each look."""
    seconds = itertools.count(1)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(seconds)))


def shown(file, name="decoding images", steps=100):
    show = Progress(file)
    for done in range(1, steps + 1):
        show(name, done, steps)
    return file.getvalue()


@pytest.mark.usefixtures("clock")
def test_a_file_gets_a_line_every_ten_seconds_and_the_last():
    lines = shown(io.StringIO()).splitlines()
    assert 8 <= len(lines) <= 11
    assert lines[-1].startswith("decoding images: 100 of 100  ")
    assert all(" images/s" in line for line in lines)
    assert all(" left" in line for line in lines[:-1])
    assert "\r" not in "".join(lines)


def test_what_is_quick_is_one_line_in_a_file():
    assert shown(io.StringIO()).splitlines()[0].startswith("decoding images: 100 of 100")


@pytest.mark.usefixtures("clock")
def test_rate_and_time_left_are_of_what_came_after_the_first_part():
    show, file = None, io.StringIO()
    show = Progress(file)
    show.begin(10)  # second 1
    show.show("a", 30, 110)  # second 2: 20 in a second
    show.show("a", 110, 110)
    first, last = file.getvalue().splitlines()
    assert first == "a  20 images/s  0:00:04 left"
    assert last == "a  50 images/s"


@pytest.mark.usefixtures("clock")
def test_only_images_get_a_rate():
    text = shown(io.StringIO(), "protocols")
    assert " left" in text
    assert "/s" not in text


@pytest.mark.usefixtures("clock")
def test_a_terminal_gets_one_line_rewritten(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = shown(Terminal())
    assert text.count("\n") == 1
    assert text.endswith("\n")
    lines = text.split("\r")
    assert len(lines) == 100
    assert all(len(line.strip().removesuffix("\033[K")) <= 39 for line in lines)


def test_what_is_said_takes_the_place_of_the_line():
    screen = Terminal()
    say("note", screen)
    assert screen.getvalue() == "\033[Knote\n"
    file = io.StringIO()
    say("note", file)
    assert file.getvalue() == "note\n"


def test_rows_leave_out_what_is_not_known():
    assert rows({"a": 1, "long": None, "bc": "x"}) == "a:    1\nbc:   x"
