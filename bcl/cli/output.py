"""Output folders that are whole and replaced only when asked; seeds that can be used."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bcl.core.errors import InputError
from bcl.core.files import make_usual


@contextlib.contextmanager
def new_folder(
    path: str | Path, overwrite: bool = False, marker: str = "report.json"
) -> Iterator[Path]:
    """Yield a working folder that becomes ``path`` at the end, or vanishes on an error.

    With ``overwrite`` an existing folder is replaced if it holds ``marker`` or is empty.
    """
    target = Path(path).absolute()
    if target.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another with --out, or add --overwrite.")
    if target.exists() and not _replaceable(target, marker):
        raise InputError(
            f"{path} is not a folder of this command (it holds no {marker}), so --overwrite does "
            "not remove it; name another with --out."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; name a writable folder with --out."
        ) from None
    make_usual(work, 0o777)
    try:
        yield work
        _replace(target, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replaceable(target: Path, marker: str) -> bool:
    """Whether a folder is empty or of this command, and not the working directory."""
    if not target.is_dir() or target.is_symlink():
        return False
    if Path.cwd().is_relative_to(target.resolve()):
        return False
    return (target / marker).is_file() or not any(target.iterdir())


def _replace(target: Path, work: Path) -> None:
    """Put the new folder in the old one's place; the old one is removed last."""
    old = work.with_name(f"{work.name}.old")
    if target.exists():
        target.rename(old)
    try:
        work.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def default_out(source: str | Path, name: str) -> Path:
    """Where a command puts what it makes of a run, its checkpoint, a file or an encoder.

    Example:
        >>> str(default_out("outputs/digits_lt/bcl_i/checkpoints/last.ckpt", "probe"))
        'outputs/digits_lt/bcl_i/probe'
        >>> str(default_out("timm:resnet50", "discovery"))
        'outputs/resnet50/discovery'
    """
    path = Path(source)
    if (path / "checkpoints").is_dir():
        return path / name
    if path.parent.name == "checkpoints":
        return path.parent.parent / name
    if path.is_file():
        return path.parent / name
    return Path("outputs", path.resolve().name.removeprefix("timm:"), name)


def check_seed(seed: object) -> None:
    """Refuse a seed outside [0, 2**32), which NumPy's generator cannot take."""
    if isinstance(seed, int) and not 0 <= seed < 2**32:
        raise InputError(f"a seed must lie between 0 and {2**32 - 1}, got {seed}.")
