"""Readers of collections: tar archives, lists of paths, several roots together."""

import csv
import os
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bcl.core.errors import InputError
from bcl.core.files import atomic_write
from bcl.core.hashing import fingerprint
from bcl.core.text import shown
from datamodules.images.decode import opened
from datamodules.images.readers import (
    FolderReader,
    Reader,
    ZipReader,
    check_bytes,
    is_hidden,
    is_image,
    kind_of,
)

TABLES = (".txt", ".csv", ".tsv", ".parquet")


@dataclass
class Collected:
    """Images to train on, and what was found beside them, by reason."""

    reader: Reader
    names: list[str]
    left_out: Counter[str]


def collect(roots: Sequence[str | Path], path_column: str, cache: Path) -> Collected:
    """Find all images of folders, archives, lists of paths and saved data sets."""
    found = [_collect(root, path_column, cache) for root in roots]
    if len(found) == 1:
        return found[0]
    places = [  # a list's own, as several may lie in one folder
        str(
            (
                Path(root).expanduser() if isinstance(part.reader, ListReader) else part.reader.root
            ).absolute()
        )
        for root, part in zip(roots, found, strict=True)
    ]
    for place, other in ((a, b) for a in places for b in places if a is not b):
        if f"{place}/".startswith(f"{other}/"):
            raise InputError(f"root {place} lies in root {other}; name the outer one alone.")
    above = os.path.commonpath(places)
    parts = {os.path.relpath(place, above): part for place, part in zip(places, found, strict=True)}
    names = [f"{prefix}/{name}" for prefix, part in parts.items() for name in part.names]
    reader = JoinedReader(Path(above), {prefix: part.reader for prefix, part in parts.items()})
    return Collected(reader, sorted(names), sum((part.left_out for part in found), Counter()))


def _collect(root: str | Path, path_column: str, cache: Path) -> Collected:
    path = Path(root).expanduser()
    reader: Reader
    if str(root).startswith("hf:") or _is_saved_dataset(path):
        from datamodules.huggingface import open_rows

        reader = open_rows(str(root).removeprefix("hf:"))
        return Collected(reader, reader.names(), Counter())
    if path.is_file() and path.suffix.lower() in TABLES:
        return _listed(path, path_column)
    if path.is_dir():
        reader = FolderReader(path)
    elif path.is_file() and zipfile.is_zipfile(path):
        reader = ZipReader(path)
    elif path.is_file() and tarfile.is_tarfile(path):
        reader = TarReader(path, cache)
    else:
        what = "does not exist" if not path.exists() else "is of another kind"
        raise InputError(
            f"{path} {what}; give a folder, a zip or tar archive, a list of paths "
            f"({', '.join(TABLES)}) or hf:NAME."
        )
    names = reader.names()
    others = Counter(kind_of(name) for name in names if not is_image(name))
    return Collected(reader, list(filter(is_image, names)), others)


def _is_saved_dataset(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _listed(path: Path, column: str) -> Collected:
    """The images that a list names; it is refused if some are missing."""
    rows = [plain(name) for (name,) in read_columns(path, column) if name.strip()]
    reader = ListReader(path.parent, set(rows))
    missing = [name for name in reader.names() if not (path.parent / name).is_file()]
    if missing:
        named = ", ".join(map(shown, missing[:5])) + (" ..." if len(missing) > 5 else "")
        raise InputError(
            f"{path} names {len(missing):,} file(s) that do not exist: {named}; paths are relative "
            f"to {path.parent}, or absolute."
        )
    repeated = len(rows) - len(reader.names())
    left_out = Counter({"repeated rows": repeated} if repeated else {})
    return Collected(reader, reader.names(), left_out)


def plain(name: str) -> str:
    """One spelling per image: ``./a//b.jpg`` is ``a/b.jpg``."""
    odd = "//" in name or name.startswith("./") or "/./" in name
    return str(PurePosixPath(name)) if odd else name


def read_columns(path: Path, *columns: str) -> list[tuple[str, ...]]:
    """Texts of columns of a .csv, .tsv or .parquet file, row by row; of others the lines."""
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            table = _parquet(path)
            _check_columns(path, columns, table.column_names)
            cells = zip(*(table[column].to_pylist() for column in columns), strict=True)
            return [tuple("" if cell is None else str(cell) for cell in row) for row in cells]
        with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
            if kind not in (".csv", ".tsv"):
                return [(line.strip("\r\n"),) for line in file]
            rows = csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",")
            _check_columns(path, columns, rows.fieldnames or ())
            return [tuple(row[column] or "" for column in columns) for row in rows]
    except OSError as error:
        raise InputError(
            f"cannot read list {path}: {error.strerror}; give a text file, .csv, .tsv or .parquet."
        ) from None
    except csv.Error as error:
        raise InputError(f"{path} is not an intact table: {error}; export it again.") from None


def _check_columns(path: Path, columns: Sequence[str], found: Sequence[str]) -> None:
    for column in columns:
        if column not in found:
            raise InputError(
                f"{path} has no column '{column}'; it has {', '.join(found) or 'none'}. Rename "
                "one, or name that of a collection's paths with --data.path_column."
            )


def _parquet(path: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path} needs pyarrow; install it with: pip install 'bcl-cacr[datasets]'."
        ) from None
    try:
        return pa.parquet.read_table(path)
    except pa.ArrowException as error:
        raise InputError(f"{path} is not an intact parquet file: {error}.") from None


class ListReader(FolderReader):
    """Files that a list names, relative to a folder or absolute."""

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        super().__init__(root)
        self._names = sorted(names)


class TarReader:
    """Files in a tar archive, read where they lie; a compressed one is unpacked into the cache."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root
        try:
            self._plain = _uncompressed(root, cache)
            with tarfile.open(self._plain, "r:") as archive:
                members = archive.getmembers()
        except (tarfile.TarError, OSError, EOFError) as error:
            raise InputError(
                f"cannot read tar archive {root}: {error}; copy or pack it again, or unpack it and "
                "use the folder as root."
            ) from None
        files = {m.name: (m.offset_data, m.size, m.mtime) for m in members if m.isreg()}
        files |= {m.name: files[m.linkname] for m in members if m.islnk() and m.linkname in files}
        self._files = {plain(name): place for name, place in files.items()}

    def names(self) -> list[str]:
        """All files of the archive, sorted."""
        return sorted(name for name in self._files if not is_hidden(name))

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        offset, size, _ = self._files[name]
        check_bytes(size)
        with self._plain.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise OSError("the archive ends within this file")
        return data

    def stamp(self, name: str) -> str:
        """Place, size and time that the archive states, and the archive's own."""
        status = self.root.stat()
        return f"{self._files[name]} {status.st_size} {status.st_mtime_ns}"


def _uncompressed(path: Path, cache: Path) -> Path:
    """The archive, or a plain copy of a compressed one in the cache."""
    try:
        tarfile.open(path, "r:").close()
    except tarfile.ReadError:
        status = path.stat()
        key = fingerprint(str(path.absolute()), f"{status.st_size} {status.st_mtime_ns}")
        plain = cache / f"{key}.tar"
        if not plain.exists():
            with tarfile.open(path, "r:*") as archive:
                content: Any = archive.fileobj
                content.seek(0)
                try:
                    atomic_write(plain, lambda file: shutil.copyfileobj(content, file))
                except OSError as error:
                    if error.filename is None:
                        raise  # of the archive
                    raise InputError(
                        f"cannot unpack {path} into the cache {cache}: {error.strerror}; choose a "
                        "writable folder with room by cache_dir or $BCL_CACHE."
                    ) from None
        return plain
    return path


class JoinedReader:
    """Several readers as one; names begin with the reader's place."""

    def __init__(self, root: Path, readers: dict[str, Reader]) -> None:
        self.root, self._readers = root, readers

    def _find(self, name: str) -> tuple[Reader, str]:
        for prefix, reader in self._readers.items():
            if name.startswith(f"{prefix}/"):
                return reader, name[len(prefix) + 1 :]
        raise FileNotFoundError(2, "No such file", name)

    def names(self) -> list[str]:
        """All files of all readers, sorted."""
        return sorted(
            f"{prefix}/{name}" for prefix, part in self._readers.items() for name in part.names()
        )

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        reader, inner = self._find(name)
        return reader.read(inner)

    def stamp(self, name: str) -> str:
        """Stamp of its reader."""
        reader, inner = self._find(name)
        return reader.stamp(inner)


def shorter_side(reader: Reader, name: str) -> int | None:
    """Pixels of an image's shorter side, from its header; None if it cannot be read."""
    try:
        with opened(reader.read(name)) as image:
            return min(image.size)
    except OSError:
        return None
