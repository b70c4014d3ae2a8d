"""File systems that are small, full, read-only or broken."""

import contextlib
import errno
import resource
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """A file system of this size; the test is skipped where mounting is not allowed."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        made = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if made.returncode:
        pytest.skip(f"mounting needs root: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder):
    """The file system of `small_disk`, read-only for a while."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


def fill(folder, leave):
    """Fill a file system but for so many bytes."""
    block = bytearray(1024)
    with (folder / "filler").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(block)
        size = file.tell()
        file.truncate(max(size - leave, 0))


@contextlib.contextmanager
def file_limit(size):
    """No file of this process may grow beyond so many bytes, as on a disk that fills up."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
