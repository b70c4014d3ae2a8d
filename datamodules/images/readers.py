"""Files of a folder or a zip archive, read by their relative name."""

import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol

from bcl.core.errors import InputError
from bcl.core.text import shown

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif", ".jfif"}
)
MOST_BYTES = 512 << 20  # of one file; a small archive may hold entries that unpack to any size
# Folders of systems and devices, with copies and deleted files in them.
SYSTEM = frozenset(
    {"lost+found", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"}
)


class Reader(Protocol):
    """Encoded images by name; can be sent to worker processes."""

    root: Path

    def names(self) -> list[str]:
        """Names of all files, relative to the root, with forward slashes, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one file; raises OSError."""
        ...

    def stamp(self, name: str) -> str:
        """Text that changes whenever the file may have changed; raises FileNotFoundError."""
        ...


class FolderReader:
    """Files below a folder; hidden ones are not listed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: list[str] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "_names": None}

    def names(self) -> list[str]:
        """All files below the folder, sorted."""
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
                        if entry.name.startswith(".") or entry.name in SYSTEM:
                            continue
                        if not _is_folder(entry):
                            found.append(prefix + entry.name)
                        elif not (entry.is_symlink() and _leads_to(entry, above)):
                            stack.append((f"{prefix}{entry.name}/", above))
            except OSError as error:
                raise InputError(
                    f"cannot read folder {shown(str(self.root / prefix))}: {error.strerror}; "
                    "make it readable, or use another root."
                ) from None
        return sorted(found)

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        return read_regular(os.path.join(self.root, name))  # noqa: PTH118

    def stamp(self, name: str) -> str:
        """Size and times of the last change; unpackers restore the first time, not the second."""
        status = os.stat(os.path.join(self.root, name))  # noqa: PTH116, PTH118
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def read_regular(path: str) -> bytes:
    """The bytes of a regular file of a sane size; a list may name any path."""
    with open(path, "rb", opener=_regular) as file:
        return file.read()


def _regular(path: str, flags: int) -> int:
    """Open a regular file of a sane size; a pipe or a device could give bytes without end."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(handle)
    try:
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        check_bytes(status.st_size)
    except OSError:
        os.close(handle)
        raise
    return handle


def check_bytes(size: int) -> None:
    """Refuse to read a file of this size whole."""
    if size > MOST_BYTES:
        raise OSError(f"larger than {MOST_BYTES >> 20} MiB")


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: listed as a file, which decoding then refuses
        return False


def _leads_to(link: "os.DirEntry[str]", above: frozenset[tuple[int, int]]) -> bool:
    """Whether a link leads back to a folder that it lies in."""
    status = link.stat()
    return (status.st_dev, status.st_ino) in above


class ZipReader:
    """Files in a zip archive, read without unpacking it; hidden ones are not listed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._process: int | None = None
        self._open()
        for info in self._archive.infolist():
            if leaves_folder(info.filename):
                raise InputError(
                    f"archive {root}: '{shown(info.filename)}' leaves its folder; pack the "
                    "archive again with relative names."
                )

    def _open(self) -> None:
        try:
            self._archive = zipfile.ZipFile(self.root)
        except zipfile.BadZipFile as error:
            raise InputError(
                f"{self.root} is not an intact zip archive: {error}; copy or pack it again, or "
                "unpack it and use the folder as root."
            ) from None
        except OSError as error:
            raise InputError(f"cannot read {self.root}: {error.strerror or error}.") from None
        infos = [info for info in self._archive.infolist() if not info.is_dir()]
        self._files = {info.filename: info for info in infos}
        self._names = sorted(name for name in self._files if not is_hidden(name))
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "_process": None}

    def _info(self, name: str) -> zipfile.ZipInfo:
        if self._process != os.getpid():  # two processes must not share one file position
            self._open()
        if name not in self._files:
            raise FileNotFoundError(2, "No such file in the archive", f"{self.root}/{name}")
        return self._files[name]

    def names(self) -> list[str]:
        """All files of the archive, sorted."""
        if self._process is None:
            self._open()
        return self._names

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        info = self._info(name)
        if info.flag_bits & 1:
            raise OSError("encrypted in the archive")
        check_bytes(info.file_size)
        try:
            return self._archive.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            # NotImplementedError, a RuntimeError: a compression that Python lacks.
            raise OSError(f"{error}") from None

    def stamp(self, name: str) -> str:
        """Size and checksum that the archive states."""
        info = self._info(name)
        return f"{info.file_size} {info.CRC}"


def is_hidden(name: str) -> bool:
    """Whether a file or a folder above it is hidden, so that listings leave it out."""
    # "." alone is the folder itself: some archives name their files "./ant/a.jpg".
    parts = name.split("/")
    return any((p[:1] == "." and p != ".") or p in SYSTEM for p in parts)


def leaves_folder(name: str) -> bool:
    """Whether a name is absolute or climbs out with ``..``, on any system."""
    if name[:1] != "/" and ".." not in name and "\\" not in name and ":" not in name:
        return False  # nearly all names; the rest takes ten times as long
    path = PurePosixPath(name.replace("\\", "/"))
    # "C:/a.jpg" and "C:a.jpg" name a Windows drive; any other colon is an ordinary character.
    drive = path.parts and path.parts[0][:1].isalpha() and path.parts[0][1:2] == ":"
    return path.is_absolute() or ".." in path.parts or bool(drive)


def open_reader(root: str | Path, option: str = "--data.root DIR") -> Reader:
    """Open a folder or a zip archive of images."""
    path = Path(root).expanduser()
    if path.is_dir():
        return FolderReader(path)
    if path.is_file():
        return ZipReader(path)
    raise InputError(
        f"folder {path} does not exist; give a folder (or a zip archive) of images: {option}."
    )


def is_image(name: str) -> bool:
    """Whether a file name ends as an image's does."""
    return f".{name.rpartition('.')[2].lower()}" in EXTENSIONS


def kind_of(name: str) -> str:
    """What a file that is no image is counted as."""
    _, dot, ending = name.rpartition("/")[2].rpartition(".")
    kind = f".{shown(ending.lower())} files" if dot else "files without ending"
    return f"{kind} (not images)"
