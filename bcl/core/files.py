"""Files that are either whole or absent."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from bcl.core.errors import InputError


def atomic_write(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    ``write`` fills a temporary file in the same folder, which is synced to disk and renamed; an
    error or an interrupt removes it. The folder is created if needed.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        make_usual(name, 0o666)
        Path(name).replace(target)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(target)  # a write to a full disk does not say where
        raise


def make_usual(path: str | Path, most: int) -> None:
    """Give a private temporary file or folder the rights of any other of this process."""
    umask = os.umask(0)
    os.umask(umask)
    Path(path).chmod(most & ~umask)


def save_tensors(path: str | Path, content: object) -> None:
    """Write with ``torch.save``, atomically; a full disk is an OSError, as for other files."""
    import torch

    def write(file: BinaryIO) -> None:
        noting = _Noting(file)
        try:
            torch.save(content, noting)  # type: ignore[arg-type]
        except RuntimeError as error:  # torch could not finish its archive
            raise noting.error or error from None

    atomic_write(path, write)


class _Noting:
    """A file that remembers why it could not be written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_text(path: str | Path, text: str) -> None:
    r"""Write a UTF-8 text file atomically; of a file name's other bytes, ``\udcff`` and so on.

    In JSON these escapes stand for the same text.
    """
    atomic_write(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def check_writable(folder: str | Path, option: str) -> None:
    """Refuse, before any work, the folder of an ``option`` that cannot be written or created."""
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return
    reason = "is not writable" if place.is_dir() else "is not a folder"
    raise InputError(f"cannot write {folder}: {place} {reason}; choose another {option}.")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
