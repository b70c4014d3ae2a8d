"""How far a long step is, on standard error."""

import sys
import time


class Progress:
    """A line rewritten ten times per second; without a terminal, ten lines if ``log``, or none."""

    def __init__(self, log: bool = False) -> None:
        self.log = log
        self._last = 0.0  # time, or share of the work, of the last line

    def __call__(self, name: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done."""
        live, over = sys.stderr.isatty(), done >= total
        now = time.monotonic() if live else done / max(total, 1)
        if not (live or self.log) or (not over and now - self._last < 0.1):
            return
        self._last = now
        line = f"{name}: {done:,} of {total:,}"
        start, end = ("\r", "\033[K" + "\n" * over) if live else ("", "\n")
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
