"""Images in shards of litdata's format: data sets past one machine's memory."""

import hashlib
import importlib
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.files import atomic_write, file_hash, write_text
from bcl.core.random import permutation
from datamodules.base import LongTailedDataModule, Sets
from datamodules.images.cache import Progress
from datamodules.images.dataset import ImageDataset
from datamodules.images.decode import as_rgb
from datamodules.images.files import FileStore
from datamodules.images.loader import StreamLoader
from datamodules.manifest import FORMAT, NAME, read_manifest
from datamodules.pool import FilesDataModule

_LABELS = "labels.i64"
_INDEX = "index.json"  # litdata's own, without which it opens no shard
# Offsets in a shard are 32-bit numbers, and stand in front of its images.
MOST_SHARD_MB = 4000
_PARTS = ("train", "probe", "test")
_WINDOW_STREAM = 0x51AD
_OPEN_SHARDS = 64  # a process keeps so many open


class _Numbers(Sequence[str]):
    """The names ``"0"``, ``"1"``, ... of images that are known by their number."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return str(index)


class ShardSource:
    """Encoded images of a folder of shards, read by number through litdata."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._dataset: Any = None
        self._process: int | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "_dataset": None, "_process": None}

    def names(self) -> list[str]:
        """Shards have no file names."""
        return []

    def stamp(self, name: str) -> str:
        """Shards are stamped as a whole, by their manifest."""
        return name

    def read(self, name: str) -> bytes:
        """The encoded bytes of one image."""
        if self._process != os.getpid():  # a forked worker must not share open files
            self._dataset = _random_access(self.root)
            self._process = os.getpid()
        data: bytes = self._dataset[int(name)]
        return data


def _random_access(root: Path) -> Any:
    """A litdata data set that reads single samples of local shards at the cost of their bytes.

    litdata's own item loader is made for reading in order: it reads a whole shard, or a page of
    it, for a single sample.
    """
    module = importlib.import_module("litdata.streaming.item_loader")
    plain: Any = module.PyTreeLoader

    class PyTreeLoader(plain):  # type: ignore[misc]  # litdata compares the name
        _files: OrderedDict[str, tuple[int, Tensor]]

        def load_item_from_chunk(
            self,
            index: int,
            chunk_index: int,
            chunk_filepath: str,
            begin: int,
            *rest: Any,
            **options: Any,
        ) -> Any:
            if os.path.exists(chunk_filepath):  # noqa: PTH110 - called for every image
                file, ends = self._open(chunk_filepath)
                first, last = ends[index - begin : index - begin + 2].tolist()
                if last > first:
                    return self.deserialize(os.pread(file, last - first, first))
            # A remote shard on its way, or one in another layout.
            return super().load_item_from_chunk(
                index, chunk_index, chunk_filepath, begin, *rest, **options
            )

        def _open(self, path: str) -> tuple[int, Tensor]:
            # A shard: the number of samples and where each begins and the last ends, all uint32;
            # then the samples.
            files = self.__dict__.setdefault("_files", OrderedDict())
            if path not in files:
                file = os.open(path, os.O_RDONLY)
                count = int.from_bytes(os.pread(file, 4, 0), "little")
                table = bytearray(os.pread(file, 4 * (count + 1), 4))
                ends = torch.frombuffer(table, dtype=torch.int32).to(torch.int64) % 2**32
                files[path] = (file, ends)
                if len(files) > _OPEN_SHARDS:
                    os.close(files.popitem(last=False)[1][0])
            files.move_to_end(path)
            found: tuple[int, Tensor] = files[path]
            return found

    return _litdata().StreamingDataset(str(root), item_loader=PyTreeLoader())


def _litdata() -> Any:
    try:
        return importlib.import_module("litdata")
    except ImportError:
        raise InputError(
            "shards need the library `litdata`; install it with: pip install 'bcl-cacr[shards]'."
        ) from None


@dataclass
class ShardFolder:
    """What a folder of shards holds, from its manifest.

    Attributes:
        root: the folder.
        sizes: images of each shard, in order.
        content_hash: of the images' bytes and labels.
        labels: (N,) int64, mapped from their file.
    """

    root: Path
    sizes: list[int]
    content_hash: str
    labels: Tensor

    def __len__(self) -> int:
        return sum(self.sizes)


def open_shards(root: Path, part: dict[str, Any], verify: bool = False) -> ShardFolder:
    """Check a folder of shards against its manifest.

    Args:
        root: the folder.
        part: its entry of the manifest.
        verify: read every shard and the labels and compare checksums, not sizes alone. Sets that
            were packed before labels had a checksum have theirs unread.

    Returns:
        What it holds.

    Raises:
        InputError: a shard is missing, truncated or changed; all of them are listed.
    """
    faults = []
    for shard in part["shards"]:
        path = root / shard["file"]
        if not path.is_file():
            faults.append(f"{path}: missing")
        elif path.stat().st_size != shard["bytes"]:
            faults.append(f"{path}: {path.stat().st_size:,} bytes, packed were {shard['bytes']:,}")
        elif verify and file_hash(path) != shard["sha256"]:
            faults.append(f"{path}: its checksum is not that of the packed shard")
    labels = root / _LABELS
    if not labels.is_file() or labels.stat().st_size != 8 * part["total"]:
        faults.append(f"{labels}: missing or of another size")
    elif verify and file_hash(labels) != part.get("labels_sha256", file_hash(labels)):
        faults.append(f"{labels}: its checksum is not that of the packed labels")
    index = root / _INDEX
    if not index.is_file():
        faults.append(f"{index}: missing")
    elif "index_sha256" in part and file_hash(index) != part["index_sha256"]:
        faults.append(f"{index}: its checksum is not that of the packed index")
    if faults:
        lines = "".join(f"\n  {line}" for line in faults[:20])
        raise InputError(f"{len(faults)} damaged file(s) of shards; copy or pack them anew:{lines}")
    values = torch.from_file(str(labels), shared=False, size=part["total"], dtype=torch.int64)
    sizes = [int(shard["images"]) for shard in part["shards"]]
    return ShardFolder(root, sizes, str(part["content_hash"]), values)


class WindowOrder:
    r"""A random order of very many images that reads few shards at a time.

    The shards are put in a random order, cut into windows of ``window`` neighbors, and the
    images of each window are put in a random order together: all as a function of (seed,
    epoch). Any position is found without computing those before it, and only a window's order
    (8 bytes an image) is held.

    Args:
        sizes: images of each shard.
        window: shards that are mixed.
        seed: of the order.
        epoch: of the order.

    Example:
        >>> order = WindowOrder([3, 2, 4], 2, seed=0, epoch=0)
        >>> sorted(order.ids(0, 9).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """

    def __init__(self, sizes: Sequence[int], window: int, seed: int, epoch: int) -> None:
        self.keys = (seed, _WINDOW_STREAM, epoch)
        counts = torch.tensor(sizes, dtype=torch.int64)
        self._first = counts.cumsum(0) - counts  # (S,) a shard's first id
        self._counts = counts
        self._shards = permutation(len(sizes), *self.keys)  # (S,)
        self._window = window
        per_window = [int(counts[shards].sum()) for shards in torch.split(self._shards, window)]
        ends = torch.tensor(per_window).cumsum(0)  # (W,) position behind each window
        self._ends: list[int] = ends.tolist()
        self._held: OrderedDict[int, Tensor] = OrderedDict()

    def ids(self, first: int, last: int) -> Tensor:
        """Ids at the positions from ``first`` to before ``last``."""
        parts = []
        window = int(torch.searchsorted(torch.tensor(self._ends), first, right=True))
        while first < last:
            start = self._ends[window - 1] if window else 0
            stop = min(last, self._ends[window])
            parts.append(self._order(window)[first - start : stop - start])
            first, window = stop, window + 1
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _order(self, window: int) -> Tensor:
        if window not in self._held:
            shards = self._shards[window * self._window : (window + 1) * self._window].tolist()
            ids = torch.cat(
                [
                    torch.arange(int(self._first[s]), int(self._first[s] + self._counts[s]))
                    for s in shards
                ]
            )
            self._held[window] = ids[permutation(len(ids), *self.keys, window)]
            while len(self._held) > 2:  # ranks and prefetching may stand astride two windows
                self._held.popitem(last=False)
        return self._held[window]


class ShardLoader(StreamLoader):
    """Batches from shards, in an order that reads few shards at a time (see `WindowOrder`).

    A resume in the middle of an epoch needs the same ``window``, too.

    Args:
        data: a training set in shards.
        batch_size: B, over all ranks together.
        sizes: images of each shard.
        window: shards that are mixed.
        options: those of `BatchLoader`.
    """

    order_keys = (*StreamLoader.order_keys, "window")

    def __init__(
        self,
        data: ImageDataset,
        batch_size: int,
        *,
        sizes: Sequence[int],
        window: int,
        **options: Any,
    ) -> None:
        super().__init__(data, batch_size, **options)
        self.sizes = sizes
        self.window = window

    def slices(self, epoch: int, bounds: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        """Ids at some positions of an epoch's order."""
        order = WindowOrder(self.sizes, self.window, self.seed, epoch)
        for first, last in bounds:
            yield order.ids(first, last)

    def order(self, epoch: int) -> Tensor:
        """(N,) ids in the order of an epoch."""
        return WindowOrder(self.sizes, self.window, self.seed, epoch).ids(0, len(self.dataset))

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position and what the order depends on."""
        return super().state_dict() | {"window": self.window}


class ShardsLT(LongTailedDataModule):
    """A long-tailed set packed by ``bcl pack``: training set, and probe and test set if packed.

    Args:
        root: the packed folder.
        image_size: height and width in pixels to which images are resized and cropped.
        batch_size: images a step over all ranks together.
        seed: of the order of training.
        window: shards whose images are mixed; more mix better and read more widely.
        workers: decoding processes; the usable cores over this machine's ranks if not given.
        verify: compare the checksums of all shards and labels at the start.

    Raises:
        InputError: no packed folder, a damaged one, or a bad argument.

    Example:
        >>> import tempfile
        >>> from datamodules import DigitsLT
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = pack(DigitsLT(), folder, parts=["train"], progress=False)  # as by ``bcl pack``
        >>> data = ShardsLT(str(folder), image_size=16)
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
    ) -> None:
        super().__init__(image_size=image_size, batch_size=batch_size, seed=seed)
        if window < 1:
            raise InputError(f"window must be positive, got {window!r}.")
        self.root = root
        self.window = window
        self.workers = workers
        self.verify = verify
        self._sizes: list[int] = []
        self._counts = torch.empty(0, dtype=torch.int64)

    @property
    def class_counts(self) -> Tensor:
        """(C,) int64 images of each class, from the manifest: the labels stay unread."""
        self.setup()
        return self._counts.clone()

    def build(self) -> Sets:
        """Check the shards against their manifest and open them."""
        _litdata()
        root = Path(self.root).expanduser()
        manifest = read_manifest(root)
        self.grouping = str(manifest["grouping"])
        self._counts = torch.tensor(manifest["class_counts"], dtype=torch.int64)
        sets: dict[str, ImageDataset] = {}
        for name, part in manifest["parts"].items():
            folder = open_shards(root / name, part, self.verify)
            if name == "train":
                self._sizes = folder.sizes
            store = FileStore(
                ShardSource(root / name),
                _Numbers(len(folder)),
                self.image_size,
                folder.content_hash,
                self.workers,
            )
            sets[name] = ImageDataset(store, None, folder.labels, folder.content_hash)
        notes = list(manifest["notes"])
        if "probe" not in sets:
            notes.append("no probe set packed: linear probes train on the training set")
        return Sets(
            train=sets["train"],
            probe=sets.get("probe", sets["train"]),
            test=sets.get("test"),
            class_names=list(manifest["class_names"]),
            recipe=str(manifest["recipe"]),
            notes=notes,
        )

    def train_dataloader(self) -> ShardLoader:
        """Batches of the training set; this rank's slice of each global batch."""
        options = self.loader_options()
        self._share_cores()
        return ShardLoader(
            self.sets.train, self.batch_size, sizes=self._sizes, window=self.window, **options
        )


def pack(
    data: LongTailedDataModule,
    out: Path,
    *,
    shard_mb: float = 64.0,
    max_side: int | None = None,
    parts: Sequence[str] = _PARTS,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a datamodule's sets as shards, and read them back.

    Images keep their bytes, unless ``max_side`` makes them smaller.

    Args:
        data: the datamodule; image files are read one by one if its storage is ``"files"``.
        out: an empty folder, or one to be made.
        shard_mb: size of a shard in MiB, at most 4000.
        max_side: shrink the shorter side to so many pixels (JPEG, quality 92), where it is longer.
        parts: which sets.
        progress: show a line.

    Returns:
        The manifest.

    Raises:
        InputError: the shards read back are not what was written, or the disk is full.
    """
    _litdata()
    if not 0 < shard_mb <= MOST_SHARD_MB:  # False for nan, too
        raise InputError(
            f"shard_mb must lie in (0, {MOST_SHARD_MB}] MiB, since offsets within a shard are "
            f"32-bit numbers; got {shard_mb!r}."
        )
    if max_side is not None and max_side < 1:
        raise InputError(f"max_side must be positive, got {max_side!r}.")
    sets = {"train": data.train_set(), "probe": data.probe_set(), "test": data.sets.test}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "recipe": data.recipe,
        "class_names": data.class_names,
        "class_counts": data.class_counts.tolist(),
        "grouping": data.grouping,
        "source_hash": data.content_hash,
        "notes": data.notes,
        "parts": {},
    }
    try:
        for name in parts:
            images = sets[name]
            if images is not None:
                manifest["parts"][name] = _pack_set(
                    images,
                    out / name,
                    shard_mb,
                    max_side,
                    Progress(name, len(images), progress),
                )
        write_text(out / NAME, json.dumps(manifest, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot write shards in {out}: {error.strerror or error}.") from None
    return manifest


def _pack_set(
    images: ImageDataset, out: Path, shard_mb: float, max_side: int | None, bar: Progress
) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    wanted = len(images) * 3 * images.image_size**2 // 20  # a guess: JPEG takes a twentieth
    if shutil.disk_usage(out).free < wanted // 4:
        raise OSError(28, "no room for the shards", str(out))
    module = importlib.import_module("litdata.streaming.writer")
    writer = module.BinaryWriter(str(out), chunk_bytes=int(shard_mb * 2**20))
    digest = hashlib.sha256()
    for row, raw in enumerate(encoded(images, max_side)):
        label = int(images.labels[row])
        # Bare bytes: as a field of a dict, litdata would put all of a shard in one Arrow table,
        # from which no single sample can be read. Labels have a file of their own.
        writer[row] = raw
        digest.update(hashlib.sha256(raw).digest() + label.to_bytes(8, "little"))
        bar.add(1)
    writer.done()
    writer.merge(1)
    index = json.loads((out / _INDEX).read_text("utf-8"))
    shards = [
        {
            "file": chunk["filename"],
            "images": chunk["chunk_size"],
            "bytes": (out / chunk["filename"]).stat().st_size,
            "sha256": file_hash(out / chunk["filename"]),
        }
        for chunk in index["chunks"]
    ]
    labels = images.labels.numpy().astype("<i8").tobytes()
    atomic_write(out / _LABELS, lambda file: file.write(labels))
    _read_back(out, len(images), digest.hexdigest())
    return {
        "total": len(images),
        "content_hash": digest.hexdigest()[:16],
        "labels_sha256": hashlib.sha256(labels).hexdigest(),
        "index_sha256": file_hash(out / _INDEX),
        "shards": shards,
    }


def _read_back(out: Path, total: int, expected: str) -> None:
    dataset = _random_access(out)
    if len(dataset) != total:
        raise InputError(f"{out}: {len(dataset)} images were written of {total}.")
    labels = (out / _LABELS).read_bytes()
    digest = hashlib.sha256()
    for row in range(total):
        digest.update(hashlib.sha256(dataset[row]).digest() + labels[8 * row : 8 * row + 8])
    if digest.hexdigest() != expected:
        raise InputError(f"{out}: the shards read back are not what was written; pack anew.")


def encoded(images: ImageDataset, max_side: int | None) -> Iterator[bytes]:
    """The images of a set as encoded bytes, in id order.

    Args:
        images: the set; files keep their bytes, decoded images become PNG.
        max_side: shrink the shorter side to so many pixels, where it is longer.

    Yields:
        Bytes of an image file.
    """
    from PIL import Image

    store = images.store
    for row in images.rows.tolist():
        if isinstance(store, FileStore):
            raw = store.source.read(store.names[row])
        else:
            pixels = store.read(torch.tensor([row]))[0].permute(1, 2, 0).cpu().numpy()
            buffer = BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            raw = buffer.getvalue()
        yield raw if max_side is None else shrink(raw, max_side)


def shrink(raw: bytes, max_side: int) -> bytes:
    """Resize an image so that its shorter side has so many pixels; smaller ones stay as they are.

    Args:
        raw: bytes of an image file.
        max_side: pixels of the shorter side.

    Returns:
        Bytes of a JPEG, or ``raw``.
    """
    from PIL import Image

    with Image.open(BytesIO(raw)) as image:
        width, height = image.size
        if min(width, height) <= max_side:
            return raw
        scale = max_side / min(width, height)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        image.draft("RGB", size)
        small = as_rgb(image).resize(size, Image.Resampling.BICUBIC)
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def files_module(data: LongTailedDataModule) -> LongTailedDataModule:
    """Make a datamodule read its files one by one, so that packing keeps their bytes."""
    if isinstance(data, FilesDataModule):
        data.storage = "files"
    return data
