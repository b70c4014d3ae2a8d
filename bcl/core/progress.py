"""How far a long step is: the one display of all commands, and lines beside it."""

import shutil
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TextIO

LIVE, PLAIN = 0.2, 10.0  # seconds between two lines


class Progress:
    """A line rewritten on a terminal; in a file or a pipe, a line every ten seconds and the last.

    What is counted as images gets a rate; all get the time that is left.

    Args:
        file: where it is written; standard error if not given.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self.file = file or sys.stderr
        self.live = self.file.isatty()
        self._name = ""

    def __call__(self, name: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done of the step with this name."""
        if name != self._name:
            self._name = name
            self.begin(done)
            self._last = self._start if not self.live else 0.0
        if self.due() or done >= total:
            unit = "images" if "images" in name else ""
            self.show(f"{name}: {done:,} of {total:,}", done, total, unit)

    def begin(self, done: int) -> None:
        """Start the clock, after the first part of a step, which is slower than others."""
        self._start, self._from, self._last = time.monotonic(), done, 0.0

    def due(self) -> bool:
        """Whether it is time for another line."""
        return time.monotonic() - self._last >= (LIVE if self.live else PLAIN)

    def show(self, text: str, done: int, total: int, unit: str = "images") -> None:
        """Write a line: the text, what is done per second, and the time to the end."""
        self._last = time.monotonic()
        seconds, made = self._last - self._start, done - self._from
        if made > 0 and unit:
            text += f"  {made / seconds:,.0f} {unit}/s"
        if made > 0 and done < total:
            text += f"  {timedelta(seconds=round(seconds * (total - done) / made))} left"
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            # The cursor goes back, so that `say`, or an error, takes the line's place.
            text = f"{text[:width]}\033[K" + ("\n" if done >= total else "\r")
        print(text, end="" if self.live else "\n", file=self.file, flush=True)


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines in the place of a progress line, if there is one."""
    file = file or sys.stdout
    print(("\033[K" if file.isatty() else "") + text, file=file, flush=True)


def rows(pairs: Mapping[str, object]) -> str:
    """Names and values as lines, the values below each other; what is None is left out.

    Example:
        >>> print(rows({"device": "cpu", "steps": "3 per epoch"}))
        device: cpu
        steps:  3 per epoch
    """
    width = max(map(len, pairs)) + 1
    given = {name: value for name, value in pairs.items() if value is not None}
    return "\n".join(f"{name + ':':<{width}} {value}" for name, value in given.items())
