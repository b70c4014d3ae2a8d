"""Embeddings on disk: one row per image, in .parquet, .npz or .csv."""

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.files import atomic_write

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = (".parquet", ".npz", ".csv")
KEY = b"bcl"  # of what the table is about, in a Parquet file's metadata
PLACES = ("id", "path", "width", "height")  # columns that are no measurement of an image


@dataclass
class Table:
    """A collection's embedding, or consecutive rows of one.

    Attributes:
        columns: N values each by name: id, path, width, height, then measurements.
        embedding: (N, D) float32 or float16.
        thumbnails: N small images as WebP files, or none.
        about: plain values: encoder, root of the paths, unreadable images.
    """

    columns: "dict[str, NDArray[Any]]"
    embedding: "NDArray[Any]"
    thumbnails: list[bytes] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.embedding)

    @cached_property
    def paths(self) -> list[str]:
        """One per image."""
        return [str(path) for path in self.columns["path"]]

    @property
    def measurements(self) -> dict[str, Tensor]:
        """(N,) float32 signals, scores and measures of quality by name."""
        others = {name: x for name, x in self.columns.items() if name not in PLACES}
        return {name: torch.from_numpy(x.astype(np.float32)) for name, x in others.items()}

    def features(self) -> Tensor:
        """(N, D) float32."""
        return torch.from_numpy(self.embedding.astype(np.float32))


def check_format(path: str | Path) -> None:
    """Refuse a file that is no table, or needs a package that is absent, before any work."""
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        raise InputError(f"{path} must end in one of {', '.join(FORMATS)}.")
    if suffix == ".parquet":
        _pyarrow()


def write_table(path: str | Path, parts: Sequence[Table] | Iterable[Table]) -> None:
    """Write consecutive parts of a table as one file, atomically.

    Parquet and CSV hold one part at a time in memory; .npz is written column by column.
    """
    check_format(path)
    writers = {".parquet": _write_parquet, ".npz": _write_npz, ".csv": _write_csv}
    writer = writers[Path(path).suffix]
    atomic_write(path, lambda file: writer(file, parts))


def read_table(path: str | Path) -> Table:
    """Read a .parquet or .npz file that `write_table` wrote.

    Raises:
        InputError: no such file, another format, or columns that are missing.
    """
    file = Path(path)
    if file.suffix not in (".parquet", ".npz"):
        raise InputError(f"{path} must be a .parquet or .npz file of `bcl embed`.")
    if not file.is_file():
        raise InputError(f"no embedding at {path}; write one with `bcl embed`.")
    check_format(file)
    try:
        table = _read_parquet(file) if file.suffix == ".parquet" else _read_npz(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not an embedding of `bcl embed`: {error}; it needs the columns id, path "
            "and embedding."
        ) from None
    if len(table) < 2:
        raise InputError(f"{path} holds {len(table)} image(s); at least two can be compared.")
    return table


def read_about(path: str | Path) -> dict[str, Any] | None:
    """What an embedding on disk is about, without its rows; None of a file that is none."""
    file = Path(path)
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return json.loads(str(archive["about"][0])) if "embedding" in archive else None
        if file.suffix == ".parquet":
            schema = _pyarrow().parquet.read_schema(file)
            known = (schema.metadata or {}).get(KEY, b"{}")
            return json.loads(known) if "embedding" in schema.names else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # whoever reads its rows says what is wrong
    return None


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "Parquet files need pyarrow: pip install 'bcl-cacr[report]', or write .npz."
        ) from None
    return pyarrow


def arrow_table(table: Table) -> Any:
    """The rows as an Arrow table; the embedding is a list of fixed size."""
    pa = _pyarrow()
    columns = {name: pa.array(values) for name, values in table.columns.items()}
    flat = pa.array(table.embedding.reshape(-1))
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, table.embedding.shape[1])
    if table.thumbnails:
        columns["thumbnail"] = pa.array(table.thumbnails, pa.binary())
    return pa.table(columns).replace_schema_metadata({KEY: json.dumps(table.about)})


def _write_parquet(file: BinaryIO, parts: Iterable[Table]) -> None:
    pa, writer = _pyarrow(), None
    for part in parts:
        rows = arrow_table(part)
        if writer is None:
            writer = pa.parquet.ParquetWriter(file, rows.schema, compression="zstd")
        writer.write_table(rows)
    assert writer is not None, "a table without parts"
    writer.close()


def _read_parquet(path: Path) -> Table:
    rows = _pyarrow().parquet.read_table(path, memory_map=True)
    about = json.loads((rows.schema.metadata or {}).get(KEY, b"{}"))
    vectors = rows.column("embedding").combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    names = [name for name in rows.column_names if name not in ("embedding", "thumbnail")]
    columns = {name: rows.column(name).to_numpy() for name in names}
    _ = columns["id"], columns["path"]
    thumbnails = rows.column("thumbnail").to_pylist() if "thumbnail" in rows.column_names else []
    return Table(columns, flat.reshape(len(vectors), -1), thumbnails, about)


def _write_csv(file: BinaryIO, parts: Iterable[Table]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    rows = csv.writer(text)
    for number, part in enumerate(parts):
        if number == 0:
            rows.writerow([*part.columns, *(f"e{d}" for d in range(part.embedding.shape[1]))])
        columns = [column.tolist() for column in part.columns.values()]
        vectors = part.embedding.astype(str).tolist()  # the shortest text that reads back the same
        rows.writerows(
            [*values, *vector] for *values, vector in zip(*columns, vectors, strict=True)
        )
    text.detach()


def _write_npz(file: BinaryIO, parts: Iterable[Table]) -> None:
    """Numpy's own format, column by column; `parts` are read once per column."""
    parts = parts if isinstance(parts, Sequence) else list(parts)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in (*parts[0].columns, "embedding"):
            pick = [part.embedding if name == "embedding" else part.columns[name] for part in parts]
            _add(archive, name, pick)
        if parts[0].thumbnails:
            sizes = [np.array([len(x) for x in part.thumbnails], np.int64) for part in parts]
            _add(archive, "thumbnail_sizes", sizes)
            joined = [np.frombuffer(b"".join(part.thumbnails), np.uint8) for part in parts]
            _add(archive, "thumbnails", joined)
        _add(archive, "about", [np.array([json.dumps(parts[0].about)])])


def _add(archive: zipfile.ZipFile, name: str, arrays: "list[NDArray[Any]]") -> None:
    """Write arrays, one after the other, as one ``.npy`` of an archive."""
    kind = np.result_type(*arrays)  # of texts: as wide as the longest
    head = {
        "descr": np.lib.format.dtype_to_descr(kind),
        "fortran_order": False,
        "shape": (sum(map(len, arrays)), *arrays[0].shape[1:]),
    }
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_2_0(member, head)
        for array in arrays:
            member.write(np.ascontiguousarray(array, kind).tobytes())


def _read_npz(path: Path) -> Table:
    with np.load(path, allow_pickle=False) as archive:
        columns = {name: archive[name] for name in archive.files}
    _ = columns["id"], columns["path"]
    about = json.loads(str(columns.pop("about", np.array(["{}"]))[0]))
    ends = columns.pop("thumbnail_sizes", np.zeros(0, np.int64)).cumsum()
    joined = columns.pop("thumbnails", np.zeros(0, np.uint8)).tobytes()
    thumbnails = [joined[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=False)]
    return Table(columns, columns.pop("embedding"), thumbnails, about)


def read_labels(path: str | Path) -> dict[str, str]:
    """Labels of images by path, from a CSV with the columns ``path`` and ``label``.

    Raises:
        InputError: no such file, or columns missing.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = {"path", "label"} - set(rows.fieldnames or ())
            if missing:
                raise InputError(
                    f"{path} has no column '{min(missing)}'; its first line must name 'path' and "
                    "'label'."
                )
            given = {row["path"]: row["label"] for row in rows if row["label"]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}; give a CSV file path,label.") from None
    if not given:
        raise InputError(f"{path} holds no label; give a CSV file path,label.")
    return given


def labels_in_order(given: Mapping[str, str], paths: Sequence[str]) -> list[str]:
    """One label per path, ``""`` where none is given; refuses labels of images not in the set."""
    if unknown := sorted(given.keys() - set(paths)):
        raise InputError(
            f"there are labels of {len(unknown):,} image(s) that are not in the set, such as "
            f"'{unknown[0]}'; paths are relative to the collection, such as '{paths[0]}'."
        )
    return [given.get(each, "") for each in paths]


def rows_of(table: Table, step: int = 4096) -> Iterator[Table]:
    """Consecutive parts of a table."""
    for start in range(0, len(table), step):
        cut = slice(start, start + step)
        columns = {name: values[cut] for name, values in table.columns.items()}
        yield Table(columns, table.embedding[cut], table.thumbnails[cut], table.about)
