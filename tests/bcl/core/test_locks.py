import errno
import os
import socket
import subprocess
import sys

import pytest

from bcl.core import locks
from bcl.core.locks import locked

HOLD = """
import sys
from bcl.core.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_with_the_first_ones_name(tmp_path, holder):
    with pytest.raises(BlockingIOError) as error, locked(tmp_path / "lock", wait=False):
        pass
    assert error.value.strerror == f"process {holder.pid} on {socket.gethostname()}"


def test_a_killed_process_leaves_no_lock(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / "lock").exists()
    with locked(tmp_path / "lock", wait=False):
        pass
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_link_is_refused_and_what_it_leads_to_stays(tmp_path, link):
    (tmp_path / "mine").write_text("precious")
    getattr(tmp_path / "lock", link)(tmp_path / "mine")
    with pytest.raises(OSError, match="link"), locked(tmp_path / "lock"):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize(
    ("owner", "free"),
    [
        (f"process {os.getpid()} on {socket.gethostname()}", False),
        (f"process {2**22 + 1} on {socket.gethostname()}", True),  # above Linux's highest
        ("process 1 on another-host", False),
        ("", True),
    ],
    ids=["alive", "gone", "elsewhere", "nobody"],
)
def test_without_locks_of_the_file_system_the_file_tells(tmp_path, monkeypatch, owner, free):
    def none(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(locks.fcntl, "lockf", none)
    (tmp_path / "lock").write_text(owner)
    try:
        with locked(tmp_path / "lock", wait=False):
            assert free
    except BlockingIOError as error:
        assert not free
        assert error.strerror == owner  # noqa: PT017
