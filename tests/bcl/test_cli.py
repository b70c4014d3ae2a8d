"""What every command does with errors of the system."""

import errno
import os

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
