"""Features of an image set: extracted once, on one rank or many, and kept on disk."""

import hashlib
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bcl.core.distributed import gather_rows, rank, world_size
from bcl.core.errors import InputError
from bcl.core.files import save_tensors

SAMPLED = 256  # images whose pixels tell copies of a set apart
Encode = Callable[[Tensor], Tensor]
Progress = Callable[[str, int, int], None]  # what is done, steps done, steps in total


class ImageDataset(Protocol):
    """What the evaluation needs of an image set."""

    labels: Tensor
    content_hash: str

    def __len__(self) -> int:
        """Number of images."""

    def images(self, indices: Tensor) -> Tensor:
        """The images at (n,) indices, uint8 (n, 3, H, W)."""

    def batches(self, batch_size: int, device: Any) -> Iterator[dict[str, Tensor]]:
        """Batches in the order of the ids."""


@dataclass(frozen=True)
class FeatureCache:
    """Features on disk, in files named after everything that they depend on.

    The folder is created if missing; the key names the checkpoint's hash and the layer.
    """

    folder: str | Path
    key: str

    def path(self, images: ImageDataset, autocast: torch.dtype | None) -> Path:
        """File of an image set's features."""
        # The content hash of a folder covers file names and labels, which a copy that was resized
        # shares; so the pixels of 256 images across the set count too.
        ids = torch.arange(0, len(images), max(1, len(images) // SAMPLED))
        pixels = images.images(ids).cpu().numpy()
        seen = (
            f"{images.content_hash}:{pixels.shape}:{hashlib.sha256(pixels.tobytes()).hexdigest()}"
        )
        digest = hashlib.sha256(f"{self.key}|{seen}|{autocast}".encode()).hexdigest()[:24]
        return Path(self.folder) / f"features-{digest}.pt"


def check_finite(name: str, rows: Tensor) -> None:
    """Refuse (N, D) rows that hold NaN or infinity."""
    finite = rows.isfinite().all(1)
    if not bool(finite.all()):
        raise InputError(
            f"{name} are not finite in {int((~finite).sum())} rows, first in row "
            f"{int((~finite).nonzero()[0])}; the encoder has diverged or its weights are damaged."
        )


def extract_features(
    encode: Encode,
    images: ImageDataset,
    *,
    batch_size: int = 512,
    device: str | torch.device = "cpu",
    autocast: torch.dtype | None = None,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
    name: str = "images",
) -> Tensor:
    """Encode every image of a set exactly once.

    With a process group, all ranks must call it; each encodes its share and gets all rows. Batches
    hold the same images on any number of ranks.

    Args:
        encode: (B, 3, H, W) uint8 images to (B, D) features.
        images: the set; its batches carry the ids.
        batch_size: images per batch.
        device: where the images are encoded.
        autocast: reduced precision for the encoder, such as ``torch.bfloat16``.
        cache: where features are kept; read if they are there, written otherwise.
        progress: called with the name, images done and images in total, on rank 0.
        name: what the set is called in messages.

    Returns:
        (N, D) float32 features on the CPU, row i of image i.

    Raises:
        InputError: an empty set, images missing or repeated, features of the wrong shape or not
            finite.

    Example:
        >>> from datamodules import DigitsLT
        >>> digits = DigitsLT().test_set()
        >>> features = extract_features(lambda x: x.float().mean((2, 3)), digits, batch_size=64)
        >>> features.shape
        torch.Size([500, 3])
    """
    total = len(images)
    if total == 0:
        raise InputError(f"the set '{name}' has no images; nothing can be measured on it.")
    path = None if cache is None else cache.path(images, autocast)
    kept = None if path is None else _read(path, total)
    # Ranks may see a shared folder differently; all read it or none does.
    here = torch.tensor([int(kept is not None)], device=device if world_size() > 1 else "cpu")
    if bool(gather_rows(here).all()) and kept is not None:
        return kept
    device, done = torch.device(device), 0
    keep_on = device if world_size() > 1 else torch.device("cpu")  # ranks exchange on the device
    all_ids, all_rows = [], []
    for batch in _own_batches(images, batch_size, device):
        own = batch["id"]
        all_ids.append(own.to(keep_on))
        all_rows.append(encode_batch(encode, batch, device, autocast, name).to(keep_on))
        done += own.numel() * world_size()
        if progress is not None and rank() == 0:
            progress(f"{name} images", min(done, total), total)
    ids, rows = torch.cat(all_ids), torch.cat(all_rows)
    if world_size() > 1:
        ids, rows = gather_rows(ids).cpu(), gather_rows(rows).cpu()
    times = torch.bincount(ids, minlength=total)
    if times.numel() != total or not bool((times == 1).all()):
        raise InputError(
            f"{name}: {int((times[:total] == 0).sum())} images were not encoded and "
            f"{int((times > 1).sum())} more than once of {total}; the image set's batches must "
            "hold each exactly once."
        )
    features = torch.empty_like(rows)
    features[ids] = rows
    check_finite(f"features of {name}", features)
    if path is not None and rank() == 0:
        _keep(path, features)
    return features


def _keep(path: Path, features: Tensor) -> None:
    """Write features for another time; they are not lost where that fails."""
    try:
        save_tensors(path, {"features": features})
    except OSError as error:
        why = error.strerror or error
        print(f"note: the features are not kept in {path.parent}: {why}", file=sys.stderr)


def encode_batch(
    encode: Encode,
    batch: dict[str, Tensor],
    device: torch.device,
    autocast: torch.dtype | None,
    name: str,
) -> Tensor:
    """(n, D) float32 features of the images that have an id."""
    images = batch["image"]
    with (
        torch.inference_mode(),
        torch.autocast(device.type, autocast, enabled=autocast is not None),
    ):
        rows = encode(images)
    if rows.ndim != 2 or len(rows) != len(images):
        raise InputError(
            f"encode returned shape {tuple(rows.shape)} for {len(images)} images of {name}; it "
            "must return one row of features per image, (B, D)."
        )
    # Inference tensors cannot be used under autograd, hence the copy.
    return rows[: len(batch["id"])].float().clone()


def _own_batches(
    images: ImageDataset, batch_size: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """This rank's batches, every R-th of R ranks."""
    if world_size() == 1:
        yield from images.batches(batch_size, device)
        return
    starts = list(range(0, len(images), batch_size))
    for start in starts[rank() :: world_size()]:
        ids = torch.arange(start, min(start + batch_size, len(images)))
        yield {"image": images.images(ids).to(device), "id": ids.to(device)}
    if rank() >= len(starts):  # more ranks than batches: one image gives the width
        first = images.images(torch.zeros(1, dtype=torch.int64)).to(device)
        yield {"image": first, "id": torch.zeros(0, dtype=torch.int64, device=device)}


def _read(path: Path, total: int) -> Tensor | None:
    """Features that fit, or None: a damaged file is simply written again."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch does not look at the checksums
                return None
        features: Tensor = torch.load(path, weights_only=True)["features"]
        fits = features.dtype == torch.float32 and features.ndim == 2 and len(features) == total
    except Exception:
        return None
    return features if fits and bool(features.isfinite().all()) else None
