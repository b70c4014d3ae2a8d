"""What every command does with errors of the system."""

import errno
import gc
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


def test_an_interrupt_is_one_where_a_library_made_another_error_of_it():
    code = (
        "import os, signal, sys, time, bcl.cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job of `sh &` ignores it
        "def run(_):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(10)\n"
        "    except KeyboardInterrupt:\n"
        "        raise ImportError('half of it')\n"
        "bcl.cli._run = run\n"
        "sys.exit(bcl.cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "bcl: interrupted\n")


@pytest.mark.slow
def test_a_run_collects_garbage_but_for_what_was_loaded(tmp_path):
    code = (
        "import gc, sys, bcl.training.fit as training\n"
        "def fit(*_): sys.exit(f'{gc.isenabled()} {gc.get_freeze_count()}')\n"
        "training.fit = fit\n"
        "from bcl.cli import main\n"
        "sys.argv[1:] = ['fit', '--config', 'digits_lt/simclr']\n"
        "main()"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=False, cwd=tmp_path).stderr  # fmt: skip
    enabled, frozen = said.splitlines()[-1].split()
    assert enabled == "True"
    assert int(frozen) > 100_000


@pytest.mark.parametrize("enabled", [True, False])
def test_a_command_called_by_a_program_leaves_its_collector_alone(enabled):
    before = gc.get_freeze_count()
    (gc.enable if enabled else gc.disable)()
    try:
        main(["configs"])
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert gc.get_freeze_count() == before


def test_an_interrupt_is_said(monkeypatch, capsys):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bcl.cli, "_run", stop)
    assert main(["embed"]) == 130
    assert capsys.readouterr().err == "bcl: interrupted\n"
