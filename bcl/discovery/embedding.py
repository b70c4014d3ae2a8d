"""Embed a collection: rows written part by part, so that memory hardly grows with it."""

import functools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bcl.core.checks import check_count
from bcl.core.distributed import rank, world_size
from bcl.core.errors import InputError
from bcl.core.files import atomic_write, check_writable, write_text
from bcl.discovery.quality import image_quality
from bcl.discovery.table import Table, check_format, write_table
from bcl.evaluation.features import Encode, Progress, check_finite
from bcl.evaluation.thumbnails import thumbnails

if TYPE_CHECKING:
    from numpy.typing import NDArray

PART_ROWS = 2048  # rows of a part; an interrupt loses at most one part per device


class Images(Protocol):
    """What embedding needs of an image set, such as ``datamodule.train_set()``."""

    content_hash: str

    def __len__(self) -> int:
        """Number of images."""

    def names(self, ids: Tensor) -> list[str]:
        """File names of images by id."""

    def stream(self, batches: Iterator[Tensor]) -> Iterator[dict[str, Tensor]]:
        """Images of batches of ids: ``{"image": uint8 (n, 3, S, S), "id": (n,)}``."""


@dataclass(frozen=True)
class EmbedOptions:
    """How a collection is embedded.

    Attributes:
        batch_size: images encoded at a time.
        device: where.
        autocast: reduced precision of the encoder, such as ``torch.bfloat16``.
        half: store float16.
        thumbnails: store small images for `bcl discover`, about 1 kB each.
        progress: called with a name, images done and images in total.
    """

    batch_size: int = 256
    device: str | torch.device = "cpu"
    autocast: torch.dtype | None = None
    half: bool = False
    thumbnails: bool = True
    progress: Progress | None = None

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size)


@dataclass(frozen=True)
class Extra:
    """What is known of the images besides their pixels.

    Attributes:
        signals: (N,) values by name, such as a memory's scores.
        sizes: width and height of images by id; those of the decoded ones if not given.
        about: plain values that are kept with the table, such as the encoder and the paths' root.
    """

    signals: dict[str, Tensor] = field(default_factory=dict)
    sizes: Any = None  # function of (n,) ids to (n, 2)
    about: dict[str, Any] = field(default_factory=dict)


def embed(
    encode: Encode,
    images: Images,
    out: str | Path,
    options: EmbedOptions = EmbedOptions(),
    extra: Extra = Extra(),
    overwrite: bool = False,
) -> Path:
    """Write the embedding of every image of a set, in the order of the ids.

    Rows go to parts beside ``out`` first. After an interrupt the same call goes on with the parts
    that are missing. With a process group all ranks must call it; each writes its share of the
    parts, and rank 0 joins them: the file is the same on any number of ranks.

    Args:
        encode: (B, 3, S, S) uint8 images to (B, D) features.
        images: the set.
        out: a .parquet, .npz or .csv file with the columns id, path, width, height, the signals,
            three measures of quality (`bcl.discovery.image_quality`), embedding and thumbnail.
        options: batch size, device and what is stored.
        extra: signals, sizes of the files and words about the set.
        overwrite: whether an existing file may be replaced.

    Returns:
        The file.

    Raises:
        InputError: a file that exists, parts of another embedding, an empty set, signals of
            another length, or features that are not finite.

    Example:
        >>> import tempfile
        >>> from bcl.discovery.table import read_table
        >>> from datamodules import DigitsLT
        >>> out = Path(tempfile.mkdtemp()) / "digits.npz"
        >>> digits = DigitsLT().test_set()
        >>> _ = embed(lambda x: x.float().mean((2, 3)), digits, out)
        >>> read_table(out).features().shape
        torch.Size([500, 3])
    """
    target = Path(out)
    check_out(target, overwrite)
    if len(images) == 0:
        raise InputError("the set has no images; nothing can be embedded.")
    for name, values in extra.signals.items():
        if values.shape != (len(images),):
            raise InputError(
                f"signal '{name}' has {len(values)} values, the set {len(images)} images; it "
                "belongs to another set."
            )
    parts = open_parts(target, images, options, extra)
    write_parts(encode, images, parts, options, extra, share=(rank(), world_size()))
    if world_size() > 1:
        torch.distributed.barrier()
    if rank() == 0:
        join_parts(parts, target, len(images), extra.about)
    if world_size() > 1:
        torch.distributed.barrier()
    return target


def check_out(target: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written."""
    check_format(target)
    check_writable(target.absolute().parent, "--out")
    if target.is_dir() or (target.exists() and not overwrite):
        raise InputError(f"{target} exists; name another file, or pass --overwrite.")


def open_parts(target: Path, images: Images, options: EmbedOptions, extra: Extra) -> Path:
    """The folder of a file's parts; an `InputError` if it holds those of another embedding."""
    folder = target.with_name(f"{target.name}.parts")
    settings = {
        "encoder": extra.about.get("encoder", ""),
        "images": images.content_hash,
        "half": options.half,
        "autocast": str(options.autocast),
        "thumbnails": options.thumbnails,
        "rows": PART_ROWS,
    }
    note = folder / "about.json"
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = None
    if kept is not None and kept != settings:
        other = next(key for key in settings if kept.get(key) != settings[key])
        raise InputError(
            f"{folder} holds the beginning of another embedding ({other}: {kept.get(other)!r}, "
            f"now {settings[other]!r}); remove the folder or name another --out."
        )
    if kept is None and rank() == 0:
        write_text(note, json.dumps(settings, indent=2))
    return folder


def write_parts(
    encode: Encode,
    images: Images,
    folder: Path,
    options: EmbedOptions,
    extra: Extra,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Write the parts of a share (r of R) that are missing: part r, r + R and so on."""
    total = len(images)
    starts = range(0, total, PART_ROWS)
    own = [start for start in starts[share[0] :: share[1]] if not _part(folder, start).exists()]

    def batches() -> Iterator[Tensor]:
        for start in own:
            yield from torch.split(_ids(start, total), options.batch_size)

    device = torch.device(options.device)
    stream = images.stream(batches())
    done = total - sum(len(_ids(start, total)) for start in own) * share[1]
    for start in own:
        ids, found = _ids(start, total), []
        for batch in torch.split(ids, options.batch_size):
            found.append(_encode(encode, next(stream)["image"].to(device), options))
            done += len(batch) * share[1]
            if options.progress is not None and share[0] == 0:
                options.progress("embedding images", min(max(done, 1), total), total)
        rows = {key: np.concatenate([each[key] for each in found]) for key in found[0]}
        rows = _describe(images, ids, extra, rows)
        atomic_write(_part(folder, start), functools.partial(_save, rows))


def join_parts(folder: Path, target: Path, total: int, about: dict[str, Any]) -> None:
    """Join all parts to the file, then remove them."""
    files = [_part(folder, start) for start in range(0, total, PART_ROWS)]
    write_table(target, Parts(files, about))
    shutil.rmtree(folder, ignore_errors=True)


class Parts(Sequence[Table]):
    """Parts on disk, read one at a time."""

    def __init__(self, files: list[Path], about: dict[str, Any]) -> None:
        self.files, self.about = files, about

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: Any) -> Any:
        with np.load(self.files[place], allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
        embedding = columns.pop("embedding")
        joined, ends = columns.pop("_bytes").tobytes(), columns.pop("_ends").tolist()
        thumbnails = [joined[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        return Table(columns, embedding, thumbnails, self.about)


def _part(folder: Path, start: int) -> Path:
    return folder / f"rows-{start:010}.npz"


def _ids(start: int, total: int) -> Tensor:
    return torch.arange(start, min(start + PART_ROWS, total))


def _encode(encode: Encode, images: Tensor, options: EmbedOptions) -> "dict[str, NDArray[Any]]":
    """Embedding, quality and thumbnails of a batch."""
    kind = images.device.type
    with (
        torch.inference_mode(),
        torch.autocast(kind, options.autocast, enabled=options.autocast is not None),
    ):
        rows = encode(images)
    if rows.ndim != 2 or len(rows) != len(images):
        raise InputError(
            f"encode returned shape {tuple(rows.shape)} for {len(images)} images; it must return "
            "one row of features per image, (B, D)."
        )
    rows = rows.float()
    check_finite("features", rows)
    found = {"embedding": rows.to(torch.float16 if options.half else torch.float32).cpu().numpy()}
    found |= {name: values.cpu().numpy() for name, values in image_quality(images).items()}
    height, width = images.shape[2:]
    found["_decoded"] = np.tile(np.array([[width, height]], np.int32), (len(images), 1))
    files = thumbnails(images) if options.thumbnails else []
    found["_sizes"] = np.array([len(file) for file in files], np.int64)
    found["_bytes"] = np.frombuffer(b"".join(files), np.uint8)
    return found


def _save(rows: dict[str, Any], file: Any) -> None:
    np.savez(file, **rows)


def _describe(
    images: Images, ids: Tensor, extra: Extra, rows: "dict[str, NDArray[Any]]"
) -> "dict[str, Any]":
    """All columns of a part, in the order of the table."""
    decoded = rows.pop("_decoded")
    sizes = decoded if extra.sizes is None else np.asarray(extra.sizes(ids), np.int32)
    return {
        "id": ids.numpy(),
        "path": np.array(images.names(ids)),
        "width": sizes[:, 0],
        "height": sizes[:, 1],
        **{name: values[ids].float().cpu().numpy() for name, values in extra.signals.items()},
        "_ends": rows.pop("_sizes").cumsum(),
        **rows,
    }
