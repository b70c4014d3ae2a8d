"""Features of an image set: extracted once, on one rank or many, and kept on disk."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bcl.core.distributed import gather_rows, rank, world_size
from bcl.core.errors import InputError
from bcl.core.files import atomic_write

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

    Attributes:
        folder: where the files lie; created if missing.
        key: names the encoder and how it is read: the checkpoint's hash and the layer.
    """

    folder: str | Path
    key: str

    def path(self, images: ImageDataset, autocast: torch.dtype | None) -> Path:
        """File of an image set's features.

        The content hash of a folder covers file names and labels, which a copy of the set that was
        decoded or resized differently shares; so pixels of 256 images across the set count too.
        """
        ids = torch.arange(0, len(images), max(1, len(images) // SAMPLED))
        pixels = images.images(ids).cpu().numpy()
        parts = (
            self.key,
            f"{images.content_hash}:{pixels.shape}:{hashlib.sha256(pixels.tobytes()).hexdigest()}",
            str(autocast),
        )
        digest = hashlib.sha256("|".join(parts).encode()).hexdigest()[:24]
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

    With a process group, rank r of R encodes every R-th batch and all ranks, which must all call
    it, get all rows. Nothing is padded, no image counts twice, and batches hold the same images on
    any number of ranks.

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
        >>> image = digits.images(torch.tensor([70]))  # of the second batch
        >>> torch.allclose(features[70], image[0].float().mean((1, 2)))
        True
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
    ids, rows = _encode_own(encode, images, batch_size, device, autocast, progress, name)
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
        atomic_write(path, lambda file: torch.save({"features": features}, file))
    return features


def _encode_own(
    encode: Encode,
    images: ImageDataset,
    batch_size: int,
    device: str | torch.device,
    autocast: torch.dtype | None,
    progress: Progress | None,
    name: str,
) -> tuple[Tensor, Tensor]:
    """This rank's ids and features; on the device where ranks exchange them, else on the CPU."""
    device = torch.device(device)
    keep_on = device if world_size() > 1 else torch.device("cpu")
    total, done = len(images), 0
    all_ids, all_rows = [], []
    for batch in _own_batches(images, batch_size, device):
        ids, n = batch["id"], batch["image"].shape[0]
        with (
            torch.inference_mode(),
            torch.autocast(device.type, autocast, enabled=autocast is not None),
        ):
            rows = encode(batch["image"])
        if rows.ndim != 2 or rows.shape[0] != n:
            raise InputError(
                f"encode returned shape {tuple(rows.shape)} for {n} images of {name}; it must "
                "return one row of features per image, (B, D)."
            )
        # Inference tensors could not be used under autograd, hence the copy.
        all_rows.append(rows[: ids.numel()].float().to(keep_on).clone())
        all_ids.append(ids.to(keep_on))
        done += ids.numel() * world_size()
        if progress is not None and rank() == 0:
            progress(name, min(done, total), total)
    return torch.cat(all_ids), torch.cat(all_rows)


def _own_batches(
    images: ImageDataset, batch_size: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
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
        features: Tensor = torch.load(path, weights_only=True)["features"]
        fits = features.dtype == torch.float32 and features.ndim == 2 and len(features) == total
        return features if fits and bool(features.isfinite().all()) else None
    except Exception:
        return None
