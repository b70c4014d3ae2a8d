"""Files in a folder or in a zip archive, read by their relative name."""

import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol

from bcl.core.errors import InputError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
)


class Source(Protocol):
    """Files that are read by name; can be sent to worker processes."""

    root: Path

    def names(self) -> list[str]:
        """Names of all files, relative to the root, with forward slashes, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        ...

    def stamp(self, name: str) -> str:
        """Changes whenever the file's content may have; raises FileNotFoundError."""
        ...


class FolderSource:
    """Files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: list[str] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "_names": None}

    def names(self) -> list[str]:
        """All files below the folder, hidden ones left out."""
        if self._names is None:
            self._names = self._walk()
        return self._names

    def _walk(self) -> list[str]:
        found: list[str] = []
        stack: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
        while stack:
            prefix, above = stack.pop()
            try:
                here = os.stat(f"{self.root}/{prefix}")  # noqa: PTH116
                above |= {(here.st_dev, here.st_ino)}
                with os.scandir(f"{self.root}/{prefix}") as entries:
                    for entry in entries:
                        if entry.name.startswith(".") or entry.name == "lost+found":
                            continue
                        if not _is_folder(entry):
                            found.append(prefix + entry.name)
                        elif not (entry.is_symlink() and _leads_to(entry, above)):
                            stack.append((f"{prefix}{entry.name}/", above))
            except OSError as error:
                raise InputError(
                    f"cannot read folder {shown(str(self.root / prefix))}: {error.strerror}; "
                    "make it readable, or give another root."
                ) from None
        return sorted(found)

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        with open(f"{self.root}/{name}", "rb") as file:  # noqa: PTH123 - half the time of Path.open
            return file.read()

    def stamp(self, name: str) -> str:
        """Size and times of the last change, of which the second cannot be set by an unpacker."""
        status = os.stat(f"{self.root}/{name}")  # noqa: PTH116 - half the time of Path.stat
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: no folder, and no image either, as decoding will say
        return False


def _leads_to(link: "os.DirEntry[str]", above: frozenset[tuple[int, int]]) -> bool:
    """Whether a link leads back to a folder that it lies in, and so round and round."""
    status = link.stat()
    return (status.st_dev, status.st_ino) in above


class ZipSource:
    """Files in a zip archive, read without unpacking it.

    Raises:
        InputError: not a zip archive, or one with names that leave its folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._process: int | None = None
        self._open()
        for info in self._archive.infolist():
            check_inside(info.filename, f"archive {root}")

    def _open(self) -> None:
        try:
            self._archive = zipfile.ZipFile(self.root)
        except zipfile.BadZipFile as error:
            raise InputError(
                f"{self.root} is not a whole zip archive: {error}; copy or pack it anew, or unpack "
                "it and give the folder."
            ) from None
        except OSError as error:
            raise InputError(f"cannot read {self.root}: {error.strerror or error}.") from None
        self._files = {
            info.filename: info for info in self._archive.infolist() if not info.is_dir()
        }
        self._names = sorted(name for name in self._files if not is_hidden(name))
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.root = state["root"]
        self._process = None

    def _own(self) -> None:
        # Two processes must not share one file position.
        if self._process != os.getpid():
            self._open()

    def names(self) -> list[str]:
        """All files of the archive, hidden ones left out."""
        self._own()
        return self._names

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        self._own()
        if name not in self._files:
            raise FileNotFoundError(2, "No such file in the archive", f"{self.root}/{name}")
        if self._files[name].flag_bits & 1:
            raise OSError("encrypted in the archive")
        try:
            return self._archive.read(self._files[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            # The last (NotImplementedError): of a compression that Python lacks.
            raise OSError(f"{error}") from None

    def stamp(self, name: str) -> str:
        """Size and checksum that the archive states."""
        self._own()
        if name not in self._files:
            raise FileNotFoundError(2, "No such file in the archive", f"{self.root}/{name}")
        return f"{self._files[name].file_size} {self._files[name].CRC}"


def is_hidden(name: str) -> bool:
    """Whether a folder's listing leaves a file out, for its own name or for a folder above it.

    Example:
        >>> is_hidden("ant/.cache/a.jpg"), is_hidden("ant/a.jpg"), is_hidden("lost+found/a.jpg")
        (True, False, True)
    """
    if name[:1] != "." and "/." not in name and "lost+found" not in name:
        return False  # nearly all names
    # "." alone is the folder itself: some archives name their files "./ant/a.jpg".
    return any(
        (part.startswith(".") and part != ".") or part == "lost+found" for part in name.split("/")
    )


def check_inside(name: str, where: str) -> None:
    """Refuse a file name that leaves its folder.

    Args:
        name: a relative name with forward slashes.
        where: what holds the name, for the message.

    Raises:
        InputError: the name is absolute or climbs out with ``..``.

    Example:
        >>> check_inside("a/b.jpg", "list.txt")
        >>> check_inside("../b.jpg", "list.txt")
        Traceback (most recent call last):
        bcl.core.errors.InputError: list.txt: '../b.jpg' leaves its folder; ...
    """
    if leaves_folder(name):
        raise InputError(
            f"{where}: '{name}' leaves its folder; names must be relative and stay inside. Mend "
            "the name, or pack the archive anew."
        )


def leaves_folder(name: str) -> bool:
    """Whether a name is absolute or climbs out with ``..``, on any system."""
    if name[:1] != "/" and ".." not in name and "\\" not in name and ":" not in name:
        return False  # nearly all names; the rest of this takes ten times as long
    path = PurePosixPath(name.replace("\\", "/"))
    # "C:/a.jpg" and "C:a.jpg" are of a drive of Windows; a colon elsewhere, as in "12:30.jpg", is
    # a letter like any other.
    drive = path.parts and path.parts[0][:1].isalpha() and path.parts[0][1:2] == ":"
    return path.is_absolute() or ".." in path.parts or bool(drive)


def shown(name: str) -> str:
    r"""A file name for messages and reports; what is no UTF-8 in it as ``\udcff``.

    Example:
        >>> shown("a b/\udcff.jpg")
        'a b/\\udcff.jpg'
    """
    return name.encode("utf-8", "backslashreplace").decode()


def open_source(root: str | Path) -> Source:
    """Open a folder or a zip archive of images.

    Args:
        root: its path; ``~`` is the home folder.

    Returns:
        The source.

    Raises:
        InputError: there is nothing, or a file that is not a zip archive.
    """
    path = check_root(root)
    return FolderSource(path) if path.is_dir() else ZipSource(path)


def check_root(root: str | Path, how: str = "--data.root DIR") -> Path:
    """Refuse a root that is not there.

    Args:
        root: a folder or file; ``~`` is the home folder.
        how: the words with which the user gives it, for the message.

    Returns:
        Its path.

    Raises:
        InputError: there is nothing.
    """
    path = Path(root).expanduser()
    if path.is_dir() or path.is_file():
        return path
    raise InputError(
        f"folder {path} does not exist; give a folder (or a zip archive) of images: {how}."
    )


def is_image(name: str) -> bool:
    """Whether a file name ends as an image's does."""
    return f".{name.rpartition('.')[2].lower()}" in EXTENSIONS
