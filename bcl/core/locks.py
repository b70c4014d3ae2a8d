"""Lock files: one process at a time; the system frees the lock of a process that dies."""

import contextlib
import errno
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None  # type: ignore[assignment]

_HELD = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def locked(path: str | Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock file for a while; it is removed after.

    Args:
        path: the file; its folder exists.
        wait: wait for another process that holds it.

    Raises:
        BlockingIOError: another process holds it and ``wait`` is False; ``strerror`` says which
            process on which host.
        OSError: the file cannot be opened, or is a link, which could lead to any other file.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp(), "lock")
        >>> with locked(place):
        ...     place.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
        True
        >>> place.exists()
        False
    """
    if fcntl is None:
        yield
        return
    handle = _acquire(str(path), wait)
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)  # while it is ours
        os.close(handle)


def _acquire(path: str, wait: bool) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise OSError(errno.ELOOP, "a lock file must not be a link", path)
            _wait(handle, path, wait)
            with contextlib.suppress(FileNotFoundError):  # removed by its holder while we waited
                if os.path.samestat(os.fstat(handle), os.lstat(path)):
                    os.truncate(handle, 0)
                    os.pwrite(
                        handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0
                    )
                    return handle
        except BaseException as error:
            os.close(handle)
            if isinstance(error, OSError) and error.filename is None:  # of a full disk
                error.filename = path
            raise
        os.close(handle)


def _wait(handle: int, path: str, wait: bool) -> None:
    try:
        # Unlike flock's, this lock stays with the process: its workers do not inherit it.
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        owner = os.pread(handle, 200, 0).decode(errors="replace")
        # Where the file system has no locks, the file alone says whether its process may run.
        if error.errno in _HELD or (not wait and owner and not _is_dead(owner)):
            raise BlockingIOError(errno.EAGAIN, owner or "another process", path) from None


def _is_dead(owner: str) -> bool:
    """Whether a process of this host has ended; False for one of another host."""
    found = re.fullmatch(r"process (\d+) on (.*)", owner)
    if found is None or found[2] != socket.gethostname():
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
