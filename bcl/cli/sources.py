"""Encoders and image sets that the commands for collections name."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.files import file_hash

if TYPE_CHECKING:
    from bcl.discovery.embedding import Extra

HINT = "a run's folder, a checkpoint, an exported encoder or timm:NAME"


@dataclass
class Encoder:
    """An encoder of uint8 images, and the run that trained it, if there is one."""

    encode: Callable[[Tensor], Tensor]
    size: int  # pixels
    about: str  # tells it from others
    run: Any = None
    signals: dict[str, Tensor] = field(default_factory=dict)


def open_encoder(name: str, device: str, size: int | None = None) -> Encoder:
    """Open what ``bcl embed`` names: a run, a checkpoint, an exported folder or ``timm:NAME``."""
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), device, size)
    path = Path(name)
    if (path / "config.json").is_file():
        return _exported(path, device, size)
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise InputError(f"no encoder at {path}; name {HINT}.")
    return _run(path, device, size)


def _run(path: Path, device: str, size: int | None) -> Encoder:
    from bcl.training.checkpoints import load_run

    run = load_run(path)
    method = run.method.to(device)
    if not hasattr(method, "encode"):
        raise InputError(f"{path}: {type(method).__name__} has no encoder; name {HINT}.")
    signals, tracker = {}, getattr(method, "tracker", None)
    if tracker is not None:
        loss = torch.where(tracker.seen, tracker.momentum_loss, torch.nan)
        signals = {f"momentum_{_watched(method)}": loss.cpu(), "score": tracker.scores.cpu()}
    size = size or int(run.data.image_size)
    return Encoder(method.encode, size, f"{size} px {file_hash(path)}", run, signals)


def _watched(method: Any) -> str:
    """What a method's memory follows: the loss or another signal."""
    return str(getattr(getattr(method, "memory", None), "signal", "loss"))


def _exported(path: Path, device: str, size: int | None) -> Encoder:
    from bcl.models.exported import load_encoder
    from bcl.models.weights import WEIGHTS, read_config

    encoder: Any = load_encoder(path).to(device)
    size = size or int(read_config(path)["bcl"]["encoder"]["image_size"])
    about = f"{size} px {file_hash(path / WEIGHTS)}"
    return Encoder(_normalized(encoder, encoder.mean, encoder.std, device), size, about)


def _timm(name: str, device: str, size: int | None) -> Encoder:
    from bcl.models.encoders import create_encoder, native_size

    size = size or native_size(name, True) or 224
    model: Any = create_encoder(name, size, small_stem=False, pretrained=True)
    encode = _normalized(model.to(device).eval(), model.mean, model.std, device)
    return Encoder(encode, size, f"timm:{name} {size} px")


def _normalized(encoder: Any, mean: Any, std: Any, device: str) -> Callable[[Tensor], Tensor]:
    """An encoder of uint8 images from one of normalized ones."""
    mean, std = (torch.tensor(x, device=device)[:, None, None] * 255 for x in (mean, std))
    return lambda images: encoder((images.float() - mean) / std)


def open_images(source: str | None, encoder: Encoder) -> tuple[Any, "Extra"]:
    """The images of a source, or those that a run was trained on, and what is known of them."""
    from bcl.discovery.embedding import Extra

    if source is None and encoder.run is None:
        raise InputError("name the images too: a folder, an archive or a list of paths.")
    if source is not None:
        from datamodules import ImageCollection

        data: Any = ImageCollection(source, image_size=encoder.size, storage="files")
    else:
        data = encoder.run.data
    images = data.sets.train
    own = source is None or _trained_on(encoder, images)
    files = images.files
    about = {
        "encoder": encoder.about,
        "root": _root(data, files),
        "unreadable": [list(each) for each in getattr(data.sets, "unreadable", [])],
    }
    sizes = None if files is None else lambda ids: _sizes(files, images.rows[ids])
    return images, Extra(encoder.signals if own else {}, sizes, about)


def _root(data: Any, files: Any) -> str:
    """The folder that paths are relative to; "" where there is none."""
    if files is not None:
        return str(Path(files.reader.root).absolute())
    roots: Any = getattr(data, "roots", ())  # of a collection whose images are in memory
    return str(Path(roots[0]).absolute()) if len(roots) == 1 and Path(roots[0]).is_dir() else ""


def _trained_on(encoder: Encoder, images: Any) -> bool:
    """Whether these are the images of the encoder's run, in the same order."""
    return encoder.run is not None and encoder.run.record.get("content_hash") == images.content_hash


def _sizes(files: Any, rows: Tensor) -> list[tuple[int, int]]:
    """Width and height of image files, from their first bytes."""
    from PIL import Image

    found = []
    for row in rows.tolist():
        with Image.open(io.BytesIO(files.reader.read(str(files.names[row])))) as image:
            found.append(image.size)
    return found
