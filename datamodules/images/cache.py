"""Decoded images on disk: written once, whole or absent, shared by all processes."""

import json
import os
import shutil
import struct
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import torch

from bcl.core.errors import InputError
from bcl.core.files import atomic_write
from bcl.core.hashing import fingerprint
from bcl.core.locks import locked
from bcl.core.progress import Progress
from datamodules.images.decode import DECODE_VERSION
from datamodules.images.files import Chunk, Mapped, decode_all
from datamodules.images.readers import Reader

# A file holds the pixels, the digests, the sides of whole images, a JSON footer with their CRC-32,
# the footer's own and its length (8 bytes each), and this.
_MAGIC = b"BCLCACR4"
_BLOCK = 1 << 22  # bytes that are checked at a time
_thread = threading.Lock()  # locks of files keep processes apart, not threads


def default_cache() -> Path:
    """``$BCL_CACHE``, or ``bcl-cacr`` in the user's cache folder."""
    if chosen := os.environ.get("BCL_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bcl-cacr"


def decoded(
    reader: Reader,
    names: Sequence[str],
    size: int,
    *,
    cache: str | Path | None = None,
    workers: int | None = None,
    progress: bool = False,
    whole: bool = False,
) -> Chunk:
    """Decode the named images (size 0: only check them), or map what an earlier run decoded."""
    whole = whole and size > 0
    # The key covers all that the pixels depend on, so nothing stale is read. One process decodes
    # while others wait; a killed one leaves nothing that passes for a cache.
    folder = Path(cache).expanduser() if cache is not None else default_cache()
    stamps = "\n".join([f"{name}\0{_stamp(reader, name)}" for name in names])
    key = fingerprint(f"{DECODE_VERSION} {size}{' whole' * whole}", stamps)
    path = folder / f"{key}.u8"
    if (found := _kept(path, size, reader, names)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _thread, locked(folder / f"{key}.lock"):
            if (found := _kept(path, size, reader, names)) is not None:  # written while we waited
                return found
            for part in folder.glob(f".{path.name}.*.tmp"):
                part.unlink(missing_ok=True)  # of a process that was killed: we hold its lock
            wanted, free = len(names) * (3 * size * size + 8), shutil.disk_usage(folder).free
            if free < wanted:
                text = f"{wanted / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free"
                raise OSError(28, text, str(folder))
            show = Progress() if progress else None
            made = decode_all(reader, names, size, workers, whole)
            atomic_write(path, lambda file: _fill(file, made, reader, len(names), size, show))
    except OSError as error:
        raise InputError(
            f"cannot cache decoded images in {folder}: {error.strerror or error}; choose a "
            "writable folder with room by cache_dir or $BCL_CACHE."
        ) from None
    if (found := _load(path, size)) is None:
        raise InputError(f"the cache {path} was damaged while it was written; delete it and retry.")
    return found


def _kept(path: Path, size: int, reader: Reader, names: Sequence[str]) -> Chunk | None:
    """A cache, unless it calls an image unreadable that the system failed to read only once."""
    found = _load(path, size)
    again = () if found is None else (names[row] for row in found.passing)
    return None if any(_is_readable(reader, name) for name in again) else found


def _is_readable(reader: Reader, name: str) -> bool:
    try:
        reader.read(name)
    except OSError as error:
        return error.errno is None
    return True


def _stamp(reader: Reader, name: str) -> str:
    try:
        return reader.stamp(name)
    except OSError:  # a broken link: decoding lists it with the other bad images
        return "unreadable"


def _fill(
    file: BinaryIO,
    chunks: Iterable[Chunk],
    reader: Reader,
    total: int,
    size: int,
    progress: Progress | None,
) -> None:
    bad: list[tuple[int, str]] = []
    passing: list[int] = []
    digests, sides = bytearray(), bytearray()
    count = crc = 0
    for chunk in chunks:
        pixels = chunk.pixels.numpy().data
        file.write(pixels)
        crc = zlib.crc32(pixels, crc)
        passing += chunk.passing
        digests += chunk.digests.numpy().astype("<i8").tobytes()
        sides += b"" if chunk.sides is None else chunk.sides.numpy().astype("<i8").tobytes()
        count += len(chunk.digests)
        bad += chunk.bad
        if progress is not None:
            task = "decoding images of" if size else "checking images of"
            progress(f"{task} {reader.root}", count + len(bad), total)
    file.write(digests + sides)
    values = {"count": count, "size": size, "bad": bad, "passing": passing, "whole": bool(sides)}
    footer = json.dumps({**values, "crc": zlib.crc32(digests + sides, crc)}).encode()
    numbers = (zlib.crc32(footer), len(footer))
    file.write(footer + b"".join(number.to_bytes(8, "little") for number in numbers) + _MAGIC)


def _load(path: Path, size: int) -> Chunk | None:
    """Map a cache file; None if it is absent or damaged."""
    try:
        with path.open("rb") as file:
            total = file.seek(0, os.SEEK_END)
            file.seek(max(total - 24, 0))
            crc, length, magic = struct.unpack("<QQ8s", file.read(24))
            if magic != _MAGIC or length > total - 24:
                return None
            file.seek(total - 24 - length)
            text = file.read(length)
            if zlib.crc32(text) != crc:
                return None
            footer = json.loads(text)
            file.seek(0)
            if _crc(file, total - 24 - length) != footer["crc"]:
                return None
            count, whole = footer["count"], footer["whole"]
            table = count * (24 if whole else 8)
            pixels = total - 24 - length - table
            file.seek(pixels)
            raw = bytearray(file.read(table)) + bytes(8)  # torch refuses an empty buffer
    except (OSError, struct.error):
        return None
    numbers = torch.frombuffer(raw, dtype=torch.int64)[:-1]
    digests, sides = numbers[:count], numbers[count:].view(-1, 2) if whole else None
    bad, passing = [(row, why) for row, why in footer["bad"]], tuple(footer["passing"])
    if not pixels:
        empty = torch.empty(0, 3, size, size, dtype=torch.uint8)
        return Chunk(empty, digests, bad, passing=passing)
    mapped = Mapped(str(path), total)
    flat = torch.from_file(str(path), shared=False, size=pixels, dtype=torch.uint8)
    images = flat if whole else flat.view(count, 3, size, size)
    return Chunk(images, digests, bad, sides, passing, mapped)


def _crc(file: BinaryIO, size: int) -> int:
    """CRC-32 of the next bytes: about a second per GiB, once per process and run."""
    crc = 0
    while size > 0 and (block := file.read(min(_BLOCK, size))):
        crc, size = zlib.crc32(block, crc), size - len(block)
    return crc
