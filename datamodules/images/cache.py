"""Decoded images on disk: made once, whole or absent, shared by all processes."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.files import atomic_write
from datamodules.images.dataset import fingerprint_of
from datamodules.images.decode import DECODE_VERSION, decode_all
from datamodules.images.readers import Source

_MAGIC = b"BCLCACR2"


@dataclass
class Decoded:
    """A set decoded to one tensor.

    Attributes:
        images: uint8 (N, 3, S, S) of the good images, mapped from the file.
        digests: (N,) int64, `datamodules.images.decode.digest_of` their files.
        bad: row and reason of the images that could not be read.
    """

    images: Tensor
    digests: Tensor
    bad: list[tuple[int, str]]


def default_cache() -> Path:
    """``$BCL_CACHE``, or ``bcl-cacr`` in the user's cache folder."""
    if chosen := os.environ.get("BCL_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bcl-cacr"


def decoded(
    source: Source,
    names: Sequence[str],
    size: int,
    *,
    cache: str | Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Decoded:
    """Decode images, or map what an earlier run decoded.

    The file is named by a hash of names, sizes, times of change, image size and decoder, so
    nothing stale is ever read. The first process decodes, others wait for it; a killed one leaves
    nothing that is mistaken for a cache.

    Args:
        source: where the files lie.
        names: their names; they exist.
        size: height and width in pixels; 0 only checks that the images can be read.
        cache: folder of the cache (`default_cache` if not given).
        workers: decoding processes; the usable cores if not given: other ranks wait meanwhile.
        progress: show a bar.

    Returns:
        The images and what could not be read.

    Raises:
        InputError: the folder cannot be written, the disk is full, or a process was killed.
    """
    folder = Path(cache).expanduser() if cache is not None else default_cache()
    stamps = "\n".join([f"{name}\0{_stamp(source, name)}" for name in names])
    key = fingerprint_of(f"{DECODE_VERSION} {size}", stamps)
    path = folder / f"{key}.u8"
    if (found := _load(path, size)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{key}.lock"):
            if (found := _load(path, size)) is not None:  # made while we waited
                return found
            for part in folder.glob(f".{path.name}.*.tmp"):
                part.unlink(missing_ok=True)  # of a process that was killed: we hold its lock
            _check_space(folder, len(names) * (3 * size * size + 8))
            atomic_write(path, lambda file: _fill(file, source, names, size, workers, progress))
    except OSError as error:
        raise InputError(
            f"cannot cache decoded images in {folder}: {error.strerror or error}; name a "
            "writable folder with room with cache_dir or $BCL_CACHE."
        ) from None
    if (found := _load(path, size)) is None:
        raise InputError(f"the cache {path} was damaged as it was written; delete it and retry.")
    return found


def _stamp(source: Source, name: str) -> str:
    try:
        return source.stamp(name)
    except OSError:  # a link that leads nowhere: decoding says so, beside the other bad images
        return "unreadable"


def _check_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise OSError(
            28, f"{wanted / 2**20:.0f} MiB wanted, {free / 2**20:.0f} MiB free", str(folder)
        )


def _fill(
    file: BinaryIO,
    source: Source,
    names: Sequence[str],
    size: int,
    workers: int | None,
    progress: bool,
) -> None:
    bad: list[tuple[int, str]] = []
    digests: list[bytes] = []
    count = 0
    bar = Progress(f"{'decoding' if size else 'checking'} {source.root}", len(names), progress)
    for chunk in decode_all(source, names, size, workers):
        file.write(chunk.pixels.data)
        bad += chunk.bad
        digests.append(chunk.digests.astype("<i8").tobytes())
        count += len(chunk.digests)
        bar.add(chunk.rows)
    file.write(b"".join(digests))
    footer = json.dumps({"count": count, "size": size, "bad": bad}).encode()
    file.write(footer + len(footer).to_bytes(8, "little") + _MAGIC)


class Progress:
    """A line on a terminal, or one in ten per cent elsewhere.

    Args:
        text: what is being done.
        total: how many images.
        shown: whether to show anything.
    """

    def __init__(self, text: str, total: int, shown: bool) -> None:
        self.text = text
        self.total = total
        self.shown = shown
        self._done = 0
        self._told = 0.0
        self._live = sys.stderr.isatty()

    def add(self, count: int) -> None:
        """Count images, and tell when it is time."""
        self._done += count
        share = self._done / max(self.total, 1)
        if not self.shown or (share < 1 and share - self._told < (0.005 if self._live else 0.1)):
            return
        self._told = share
        line = f"{self.text}: {self._done:,} of {self.total:,} images"
        end = "\n" if share >= 1 or not self._live else ""
        print(f"\r{line}" if self._live else line, end=end, file=sys.stderr, flush=True)


def _load(path: Path, size: int) -> Decoded | None:
    """Map a cache file; None if there is none that is whole."""
    try:
        with path.open("rb") as file:
            total = file.seek(0, os.SEEK_END)
            if total < 16:
                return None
            file.seek(total - 16)
            tail = file.read(16)
            length = int.from_bytes(tail[:8], "little")
            if tail[8:] != _MAGIC or length > total - 16:
                return None
            file.seek(total - 16 - length)
            footer = json.loads(file.read(length))
            count = int(footer["count"])
            pixels = count * 3 * size * size
            if pixels + 8 * count + length + 16 != total:
                return None
            file.seek(pixels)
            # One number too many, since torch takes no empty buffer.
            raw = bytearray(file.read(8 * count)) + bytes(8)
            digests = torch.frombuffer(raw, dtype=torch.int64)[:count]
    except (OSError, json.JSONDecodeError):
        return None
    bad = [(int(row), str(why)) for row, why in footer["bad"]]
    if not pixels:
        return Decoded(torch.empty(0, 3, size, size, dtype=torch.uint8), digests, bad)
    flat = torch.from_file(str(path), shared=False, size=pixels, dtype=torch.uint8)
    return Decoded(flat.view(count, 3, size, size), digests, bad)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time in; freed by the system if the process dies."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: both decode, and the last one's file stays
        yield
        return
    with path.open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
