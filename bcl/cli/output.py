"""Output folders that appear when they are whole and are never overwritten unasked."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bcl.errors import InputError


@contextlib.contextmanager
def new_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a working folder that becomes ``path`` at the end, or vanishes on an error.

    Args:
        path: the folder to make.
        overwrite: replace ``path`` if it exists already.

    Yields:
        A temporary folder beside ``path``.

    Raises:
        InputError: ``path`` exists and is not to be overwritten, or cannot be written.
    """
    target = Path(path).absolute()
    if target.exists() and not overwrite:
        raise InputError(f"{path} exists already; name another with --out, or add --overwrite.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; name a writable folder with --out."
        ) from None
    work.chmod(0o755)
    try:
        yield work
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        elif target.exists():
            target.unlink()
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
