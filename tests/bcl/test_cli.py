"""What every command does with errors of the system."""

import errno
import os
import subprocess
import sys

import pytest

import bcl.cli
from bcl.cli import main


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, True), (errno.EACCES, False)])
def test_errors_of_the_system_are_one_line(monkeypatch, capsys, number, hint):
    def fail(_):
        raise OSError(number, os.strerror(number), "/data/a.npz")

    monkeypatch.setattr(bcl.cli, "_run", fail)
    assert main(["embed"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bcl: error: /data/a.npz: {os.strerror(number)}")
    assert ("make room" in line) == hint


def test_a_process_does_not_collect_what_it_leaves():
    """With torch and Lightning loaded, Python's last collection takes seconds."""
    ask = "import atexit, gc; atexit.register(lambda: print('left', gc.get_freeze_count()))"
    code = f"{ask}; import sys; from bcl.cli import main; sys.argv[1:] = ['--version']; main()"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(said.stdout.split("left ")[1]) > 1000


def test_an_interrupt_is_said(monkeypatch, capsys):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bcl.cli, "_run", stop)
    assert main(["embed"]) == 130
    assert capsys.readouterr().err == "bcl: interrupted\n"
