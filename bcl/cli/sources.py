"""Encoders and image sets that the commands for collections name."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bcl.cli.embed import HINT
from bcl.core.errors import InputError
from bcl.core.files import file_hash
from bcl.evaluation.sets import image_root
from bcl.memorization.tracker import trackers_of

if TYPE_CHECKING:
    from bcl.discovery.embedding import Extra


@dataclass
class Encoder:
    """An encoder of uint8 images, and the run that trained it, if there is one."""

    encode: Callable[[Tensor], Tensor]
    size: int  # pixels
    about: str  # tells it from others
    run: Any = None
    signals: dict[str, Tensor] = field(default_factory=dict)
    parameters: int = 0


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
        raise InputError(f"no encoder at {name}; name {HINT}.")
    return _run(path, device, size)


def _run(path: Path, device: str, size: int | None) -> Encoder:
    from bcl.training.checkpoints import load_run

    run = load_run(path)
    method = run.method.to(device)
    if not hasattr(method, "encode"):
        raise InputError(f"{path}: {type(method).__name__} has no encoder; name {HINT}.")
    size = size or int(run.data.image_size)
    about = _about(run.record.get("name") or path.stem, size, path)
    count = _parameters(getattr(method, "encoder", method))
    return Encoder(method.encode, size, about, run, memory_signals(method), count)


def _parameters(model: torch.nn.Module) -> int:
    return sum(part.numel() for part in model.parameters())


def memory_signals(method: Any) -> dict[str, Tensor]:
    """What a method's memory holds of each sample, by name; NaN where it was never seen."""
    signals = {}
    for signal, tracker in trackers_of(method).items():
        values = torch.where(tracker.seen, tracker.momentum_loss, torch.nan)
        signals[f"momentum_{signal}"] = values.cpu()
        signals.setdefault("score", tracker.scores.cpu())  # of the one that steers
    return signals


def _about(name: str, size: int, weights: Path) -> str:
    """Words that tell an encoder from others."""
    return f"{name}, {size} px, {file_hash(weights)[:16]}"


def is_encoder(name: str) -> bool:
    """Whether this names what `open_encoder` opens, rather than images or an embedding."""
    path = Path(name)
    inside = ("config.json", "checkpoints/last.ckpt")
    return (
        name.startswith("timm:")
        or any((path / each).is_file() for each in inside)
        or (path.is_file() and path.suffix == ".ckpt")
    )


def _exported(path: Path, device: str, size: int | None) -> Encoder:
    from bcl.models.exported import load_encoder
    from bcl.models.weights import WEIGHTS, read_config

    encoder: Any = load_encoder(path).to(device)
    size = size or int(read_config(path)["bcl"]["encoder"]["image_size"])
    about = _about(path.resolve().name, size, path / WEIGHTS)
    encode = _normalized(encoder, encoder.mean, encoder.std, device)
    return Encoder(encode, size, about, parameters=_parameters(encoder))


def _timm(name: str, device: str, size: int | None) -> Encoder:
    from bcl.models.encoders import create_encoder, native_size

    size = size or native_size(name, True) or 224
    model: Any = create_encoder(name, size, small_stem=False, pretrained=True)
    encode = _normalized(model.to(device).eval(), model.mean, model.std, device)
    return Encoder(encode, size, f"timm:{name}, {size} px", parameters=_parameters(model))


def _normalized(encoder: Any, mean: Any, std: Any, device: str) -> Callable[[Tensor], Tensor]:
    """An encoder of uint8 images from one of normalized ones."""
    mean, std = (torch.tensor(x, device=device)[:, None, None] * 255 for x in (mean, std))
    return lambda images: encoder((images.float() - mean) / std)


def open_images(
    source: str | None, encoder: Encoder, workers: int | None = None
) -> tuple[Any, "Extra"]:
    """The images of a source, or those that a run was trained on, and what is known of them."""
    from bcl.discovery.embedding import Extra
    from bcl.discovery.table import read_about

    if source is None and encoder.run is None:
        raise InputError("name the images too: a folder, an archive or a list of paths.")
    if source is not None and (made := read_about(source)) is not None:
        by = made.get("encoder")
        whose = "of this encoder" if by == encoder.about else f"of another encoder ({by})"
        raise InputError(
            f"{source} is an embedding {whose}, not images; bcl discover {source} --out DIR shows "
            "it as it is, and another embedding needs the images."
        )
    if source is not None:
        from datamodules import ImageCollection

        options: Any = {"image_size": encoder.size, "storage": "files", "workers": workers}
        data: Any = ImageCollection(source, **options)
    else:
        data = encoder.run.data
        check_place(data, "name the folder that they are in now after the run")
        if workers is not None and hasattr(data, "workers"):
            data.workers = workers
    images = data.sets.train
    files = images.origin
    about = {
        "encoder": encoder.about,
        "root": image_root(images),
        "unreadable": [list(each) for each in getattr(data.sets, "unreadable", [])],
    }
    sizes = None if files is None else lambda ids: _sizes(files, images.rows[ids])
    return images, Extra(own_signals(encoder, data, source is None), sizes, about)


def check_place(data: Any, next_step: str) -> None:
    """Refuse a run's datamodule whose images are no longer where they were."""
    for root in getattr(data, "roots", None) or [getattr(data, "root", None)]:
        if root and not str(root).startswith("hf:") and not Path(root).expanduser().exists():
            raise InputError(f"the run's images are no longer at {root}; {next_step}.")


def own_signals(encoder: Encoder, data: Any, own: bool) -> dict[str, Tensor]:
    """What the memory holds, if these are the images that the run was trained on, in its order."""
    if not encoder.signals:
        return {}
    trained_on = encoder.run.record.get("content_hash")
    if trained_on == data.content_hash or (own and trained_on is None):
        return encoder.signals
    print(
        "note: these are not the images that the run was trained on, so what its memory holds "
        f"({', '.join(encoder.signals)}) is left out",
        file=sys.stderr,
    )
    return {}


def _sizes(files: Any, rows: Tensor) -> list[tuple[int, int]]:
    """Width and height of image files, from their first bytes."""
    from datamodules.images.decode import opened

    found = []
    for row in rows.tolist():
        with opened(files.reader.read(str(files.names[row]))) as image:
            found.append(image.size)
    return found
