"""Packed sets: encoded images and labels in Arrow files, for data beyond one machine's memory."""

import hashlib
import json
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcl.core.checks import check_count
from bcl.core.errors import InputError
from bcl.core.files import file_hash, write_text
from bcl.core.progress import Progress
from bcl.core.text import shown
from datamodules.base import LongTailedDataModule, Sets
from datamodules.external import SelectionSettings
from datamodules.huggingface import import_datasets
from datamodules.images.dataset import ImageDataset
from datamodules.images.decode import shrink
from datamodules.images.files import ImageFiles
from datamodules.images.readers import read_regular

MANIFEST = "packed.json"
PARTS = ("train", "probe", "test")
MOST_SHARD_MB = 2000  # an Arrow column's offsets are 31-bit numbers
_FORMAT = "bcl-packed-1"
_KEYS = {"recipe": str, "class_names": list, "grouping": str, "notes": list, "parts": dict}
_FILE_KEYS = {"file": str, "images": int, "bytes": int, "sha256": str}
_OPEN_FILES = 64  # that a process keeps mapped


class PackedLT(LongTailedDataModule):
    """A long-tailed set packed by ``bcl pack``: training set, and probe and test set if packed.

    Needs the extra ``datasets``, whose ``load_dataset`` opens the same folder. Images are read by
    row through memory maps.

    Args:
        root: the packed folder.
        image_size: height and width in pixels to which images are resized and cropped.
        batch_size: images per step over all ranks together.
        seed: seed of the training order.
        window: files whose images are mixed; more files mix better and spread the reads.
        workers: decoding processes; the usable cores over this machine's ranks if not given.
        verify: compare checksums of all files at the start, not only sizes.
        selection: images that an epoch has besides these, or in their place. External images are
            strewn evenly among the blocks; balanced draws read the packed images in any order.

    Raises:
        InputError: not a packed folder, a damaged one, or a bad argument.

    Example:
        >>> import tempfile
        >>> from datamodules import DigitsLT
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = pack(DigitsLT(), folder, parts=["train"])  # as ``bcl pack`` does
        >>> data = PackedLT(str(folder), image_size=16)
        >>> data.class_counts.equal(DigitsLT().class_counts), data.num_samples
        (True, 417)
    """

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        batch_size: int = 256,
        seed: int = 0,
        window: int = 16,
        workers: int | None = None,
        verify: bool = False,
        selection: SelectionSettings | None = None,
    ) -> None:
        super().__init__(
            image_size=image_size, batch_size=batch_size, seed=seed, selection=selection
        )
        check_count("window", window)
        self.root = root
        self.window = window
        self.workers = workers
        self.verify = verify

    def _external_options(self) -> dict[str, Any]:
        return {"workers": self.workers}

    def build(self) -> Sets:
        """Check the files against their manifest and open them."""
        import_datasets("PackedLT")
        root = Path(self.root).expanduser()
        manifest = read_manifest(root)
        _check_files(root, manifest, self.verify)
        self.grouping = manifest["grouping"]
        names, notes = (list(map(str, manifest[key])) for key in ("class_names", "notes"))
        sets: dict[str, ImageDataset] = {}
        for part, entry in manifest["parts"].items():
            reader = PackedReader(root, entry["files"])
            sets[part] = ImageDataset(
                ImageFiles(reader, reader.rows, self.image_size, self.workers, whole=not names),
                reader.labels(len(names)),
                content_hash=entry["content_hash"],
                blocks=[file["images"] for file in entry["files"]],
                names=RowNames(reader),
            )
        if "probe" not in sets and names:
            notes.append("no probe set packed: linear probes train on the training set")
        probe, test = sets.get("probe", sets["train"]), sets.get("test")
        return Sets(sets["train"], probe, test, names, manifest["recipe"], notes)


class PackedReader:
    """Encoded images of one part of a packed set, in the files of its manifest, by row."""

    def __init__(self, root: Path, files: Sequence[dict[str, Any]]) -> None:
        self.root = root
        self._files = files
        self._ends = list(accumulate(file["images"] for file in files))
        self._open: OrderedDict[int, Any] = OrderedDict()
        self.rows = range(self._ends[-1] if files else 0)  # which are the images' names

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": OrderedDict()}

    def names(self) -> list[str]:
        """All rows as text."""
        return list(map(str, self.rows))

    def stamp(self, name: str) -> str:
        """Packed files are checked as a whole, by their manifest."""
        return name

    def name(self, row: int) -> str:
        """The name that an image had when it was packed."""
        return str(self._value(row, "name"))

    def _value(self, row: int, column: str) -> Any:
        file = bisect_right(self._ends, row)
        values = self._batch(file).column(column)
        values = values.field("bytes") if column == "image" else values
        return values[row - self._ends[file] + len(values)]

    def read(self, name: str) -> bytes:
        """The encoded bytes of one image."""
        image = self._value(int(name), "image")
        if not image.is_valid:
            raise OSError("no bytes in this row")
        return bytes(image.as_buffer())

    def labels(self, num_classes: int) -> Tensor:
        """(N,) int64 classes of all rows, -1 where there are no classes."""
        parts = [torch.empty(0, dtype=torch.int64)]
        for file, entry in enumerate(self._files):
            labels = torch.tensor(self._batch(file).column("label").fill_null(-1).to_numpy())
            lowest = 0 if num_classes else -1
            if int(labels.min()) < lowest or int(labels.max()) >= max(num_classes, 0):
                raise InputError(
                    f"{self.root / entry['file']} holds labels outside 0 to {num_classes - 1}; "
                    "pack the set again."
                )
            parts.append(labels)
        return torch.cat(parts)

    def _batch(self, file: int) -> Any:
        """The one record batch of a file, mapped."""
        import pyarrow as pa

        path, images = self.root / self._files[file]["file"], self._files[file]["images"]
        if file in self._open:
            _check_size(path, self._files[file]["bytes"])
        else:
            try:
                options = pa.ipc.IpcReadOptions(use_threads=False)  # a worker is a forked process
                batch = pa.ipc.open_file(pa.memory_map(str(path)), options=options).get_batch(0)
                batch.validate(full=True)  # no offset leaves the file
                image, *others = (batch.column(name) for name in ("image", "label", "name"))
                kinds = [image.field("bytes").type, *(column.type for column in others)]
                wanted = [pa.binary(), pa.int64(), pa.string()]
                if kinds != wanted or not len(batch) == images > 0:
                    raise ValueError(f"{len(batch)} rows of {batch.schema.types}")
            except (OSError, ValueError, LookupError, AttributeError, pa.ArrowException) as error:
                why = str(error).partition("\n")[0]
                raise InputError(
                    f"{path} is not an intact packed file ({why}); copy it or pack the set again."
                ) from None
            self._open[file] = batch
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(file)
        return self._open[file]


def _check_size(path: Path, size: int) -> None:
    """Refuse a mapped file that was cut short: reading what is gone kills the process."""
    if path.stat().st_size < size:
        raise InputError(
            f"{path} was cut short while it was in use; copy it or pack the set again."
        )


class RowNames(Sequence[str]):
    """The names that the images of a part had when they were packed, by row."""

    def __init__(self, reader: PackedReader) -> None:
        self._reader = reader

    def __len__(self) -> int:
        return len(self._reader.rows)

    def __getitem__(self, row: Any) -> Any:
        return self._reader.name(row)


def read_manifest(root: Path) -> dict[str, Any]:
    """Read the manifest of a packed folder; refuses damage and files outside the folder."""
    path = root / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(read_regular(str(path)))
        if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
            raise ValueError(f"not of the format '{_FORMAT}'")
        _check_kinds(manifest, _KEYS, "")
        _check_kinds(manifest["parts"], {"train": dict}, "parts.")
        for part, entry in manifest["parts"].items():
            _check_kinds(entry, {"content_hash": str, "files": list}, f"parts.{part}.")
            for number, file in enumerate(entry["files"]):
                _check_kinds(file, _FILE_KEYS, f"parts.{part}.files.{number}.")
                name = rf"data/{part}-\d{{5}}-of-\d{{5}}\.arrow"
                if part not in PARTS or not re.fullmatch(name, file["file"]):
                    raise ValueError(f"{file['file']!r} cannot be a file of part {part!r}")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{root} holds no packed set (no {MANIFEST}); make one: bcl pack."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}; copy it or pack the set again.") from None
    return manifest


def _check_kinds(entry: Any, kinds: dict[str, Any], where: str) -> None:
    for key, kind in kinds.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            raise ValueError(f"'{where}{key}' is missing or of another kind")


def _check_files(root: Path, manifest: dict[str, Any], verify: bool) -> None:
    """Refuse missing, truncated and, with ``verify``, changed files, all in one line."""
    faults = []
    for file in (file for part in manifest["parts"].values() for file in part["files"]):
        path, wanted = root / file["file"], file["bytes"]
        if not path.is_file():
            faults.append(f"{file['file']} is missing")
        elif (size := path.stat().st_size) != wanted:
            faults.append(f"{file['file']} has {size:,} bytes, packed were {wanted:,}")
        elif verify and file_hash(path) != file["sha256"]:
            faults.append(f"{file['file']} has changed since it was packed (checksum)")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InputError(
            f"{root}: {len(faults)} damaged file(s): {', '.join(faults[:5])}{more}; copy them or "
            "pack the set again."
        )


def pack(
    data: LongTailedDataModule,
    out: Path,
    *,
    shard_mb: float = 64.0,
    max_side: int | None = None,
    parts: Sequence[str] = PARTS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a datamodule's sets as Arrow files, read them back and return the manifest."""
    datasets = import_datasets("bcl pack")
    if not 0 < shard_mb <= MOST_SHARD_MB:  # False for NaN
        raise InputError(f"shard_mb must lie in (0, {MOST_SHARD_MB}] MiB, got {shard_mb!r}.")
    if max_side is not None:
        check_count("max_side", max_side)
    classes = datasets.ClassLabel(names=data.class_names or ["unknown"])
    columns = {"image": datasets.Image(), "label": classes, "name": datasets.Value("string")}
    schema = datasets.Features(columns).arrow_schema
    probe = data.probe_set() if data.class_names else None
    sets = {"train": data.train_set(), "probe": probe, "test": data.sets.test}
    packed: dict[str, Any] = {}
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "recipe": data.recipe,
        "class_names": data.class_names,
        "grouping": data.grouping,
        "source_hash": data.content_hash,
        "notes": data.notes,
        "parts": packed,
    }
    try:
        (out / "data").mkdir(parents=True, exist_ok=True)
        for part in parts:
            if (images := sets[part]) is not None:
                rows = _encoded(images, max_side, part, progress)
                files, digest = _write(rows, out, part, schema, int(shard_mb * 2**20))
                packed[part] = {"content_hash": digest[:16], "files": files}
                if _digest(PackedReader(out, files), data.num_classes) != digest:
                    raise InputError(f"{out}: what was read back is not what was written; retry.")
        write_text(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot pack into {out}: {error.strerror or error}.") from None
    return manifest


_Row = tuple[bytes, int, str]  # an image's encoded bytes, label and name


def _encoded(
    images: ImageDataset, max_side: int | None, part: str, progress: Progress | None
) -> Iterator[_Row]:
    """A set's images in id order."""
    from PIL import Image

    for position, row in enumerate(images.rows.tolist()):
        if images.files is not None:
            name = str(images.files.names[row])
            raw = images.files.reader.read(name)
        else:
            name, buffer = str(row), BytesIO()
            pixels = images.images(torch.tensor([position]))[0].permute(1, 2, 0).cpu().numpy()
            Image.fromarray(pixels).save(buffer, "PNG")
            raw = buffer.getvalue()
        raw = raw if max_side is None else shrink(raw, max_side)
        yield raw, int(images.labels[position]), shown(name)
        if progress is not None:
            progress(f"packing {part} images", position + 1, len(images))


def _write(
    rows: Iterator[_Row], out: Path, part: str, schema: Any, most: int
) -> tuple[list[dict[str, Any]], str]:
    """Write a part as files of one record batch each; returns their entries and its digest."""
    import pyarrow as pa

    written: list[tuple[Path, int]] = []
    digest = hashlib.sha256()
    for chunk in _chunks(rows, most):
        raws, labels, names = zip(*chunk, strict=True)
        paths = pa.nulls(len(chunk), pa.string())  # the bytes are here
        image = pa.StructArray.from_arrays([pa.array(raws), paths], ["bytes", "path"])
        batch = pa.record_batch([image, pa.array(labels), pa.array(names)], schema=schema)
        path = out / f"{part}.{len(written)}"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(batch)
        written.append((path, len(chunk)))
        for raw, label, _ in chunk:
            _update(digest, raw, label)
    files = []
    for number, (path, images) in enumerate(written):
        name = f"data/{part}-{number:05}-of-{len(written):05}.arrow"  # as `datasets` names them
        path = path.replace(out / name)
        size, checksum = path.stat().st_size, file_hash(path)
        files.append({"file": name, "images": images, "bytes": size, "sha256": checksum})
    return files, digest.hexdigest()


def _chunks(rows: Iterator[_Row], most: int) -> Iterator[list[_Row]]:
    """Rows of at most so many bytes together, or a single larger one."""
    chunk: list[_Row] = []
    size = 0
    for row in rows:
        if chunk and size + len(row[0]) > most:
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += len(row[0])
    if chunk:
        yield chunk


def _digest(reader: PackedReader, num_classes: int) -> str:
    """The digest of a part as it is read."""
    digest = hashlib.sha256()
    for row, label in zip(reader.rows, reader.labels(num_classes).tolist(), strict=True):
        _update(digest, reader.read(str(row)), label)
    return digest.hexdigest()


def _update(digest: Any, raw: bytes, label: int) -> None:
    digest.update(hashlib.sha256(raw).digest() + label.to_bytes(8, "little", signed=True))
