"""Features of an image set: extracted once, on one rank or many, and kept on disk."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bcl.core.distributed import gather_rows, rank, world_size
from bcl.core.errors import InputError, unknown_name
from bcl.core.files import atomic_write

SAMPLED = 256  # images whose pixels tell copies of a set apart
Encode = Callable[[Tensor], Tensor]
Progress = Callable[[str, int, int], None]


class ImageDataset(Protocol):
    """What the evaluation needs of an image set."""

    labels: Tensor
    content_hash: str

    def __len__(self) -> int:
        """How many images."""
        ...

    def images(self, indices: Tensor) -> Tensor:
        """Some images, uint8 (n, 3, H, W)."""
        ...

    def batches(self, batch_size: int, device: Any) -> Iterator[dict[str, Tensor]]:
        """Batches in the order of the ids."""
        ...


@dataclass(frozen=True)
class FeatureCache:
    """Features on disk, under a name made of everything that they depend on.

    Attributes:
        folder: where the files lie; made if need be.
        key: names the encoder and how it is read: the checkpoint's hash (`file_hash`), the layer.
    """

    folder: str | Path
    key: str

    def path(self, content_hash: str, autocast: torch.dtype | None) -> Path:
        """File of an image set's features."""
        text = "|".join((self.key, content_hash, str(autocast)))
        digest = hashlib.sha256(text.encode()).hexdigest()[:24]
        return Path(self.folder) / f"features-{digest}.pt"


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content, for `FeatureCache.key`.

    Args:
        path: the file.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def data_hash(images: ImageDataset) -> str:
    """What a set's features depend on: its content hash, and pixels of 256 images across it.

    The content hash of a folder stands for file names and labels, which another copy of the set,
    decoded or resized otherwise, shares.

    Args:
        images: the set.

    Returns:
        Text for `FeatureCache.path`.
    """
    ids = torch.arange(0, len(images), max(1, len(images) // SAMPLED))
    pixels = images.images(ids).cpu().numpy()
    return f"{images.content_hash}:{pixels.shape}:{hashlib.sha256(pixels.tobytes()).hexdigest()}"


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

    With a process group, rank r of R takes every R-th batch and the rows are put together by
    image, so nothing is padded and no image counts twice; batches hold the same images on
    any number of ranks. Every rank returns all rows. All ranks must call it.

    Args:
        encode: (B, 3, H, W) uint8 images to (B, D) features.
        images: the set; its batches carry the ids.
        batch_size: images at a time.
        device: where the images are encoded.
        autocast: reduced precision for the encoder, such as ``torch.bfloat16``.
        cache: where features are kept; read if they are there, written otherwise.
        progress: called with the name, images done and images in all, on rank 0.
        name: what the set is called in messages.

    Returns:
        (N, D) float32 features on the CPU, row i of image i.

    Raises:
        InputError: an empty set, images missing or twice, features of the wrong shape or not
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
    path = None if cache is None else cache.path(data_hash(images), autocast)
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
            f"{int((times > 1).sum())} more than once of {total}; each must come exactly once. "
            "The image set's batches are at fault."
        )
    features = torch.empty_like(rows)
    features[ids] = rows
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
        ids: Tensor = batch["id"]
        with (
            torch.inference_mode(),
            torch.autocast(device.type, autocast, enabled=autocast is not None),
        ):
            rows = encode(batch["image"])
        if rows.ndim != 2 or rows.shape[0] != batch["image"].shape[0]:
            raise InputError(
                f"encode gave shape {tuple(rows.shape)} for {batch['image'].shape[0]} images of "
                f"{name}; it must give one row of features an image, (B, D)."
            )
        rows = rows[: ids.numel()].float().to(keep_on)
        finite = rows.isfinite().all(1)
        if not bool(finite.all()):
            raise InputError(
                f"features of {name} are not finite, first at image "
                f"{int(ids.to(keep_on)[~finite][0])}; the encoder has diverged or its weights are "
                "damaged."
            )
        all_ids.append(ids.to(keep_on))
        all_rows.append(rows.clone())  # inference tensors could not be used under autograd
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
    if rank() >= len(starts):  # more ranks than batches: one image tells the width
        first = images.images(torch.zeros(1, dtype=torch.int64)).to(device)
        yield {"image": first, "id": torch.zeros(0, dtype=torch.int64, device=device)}


def _read(path: Path, total: int) -> Tensor | None:
    """Features that fit, or None: a damaged file is only a file to be made again."""
    try:
        features = torch.load(path, weights_only=True)["features"]
    except Exception:
        return None
    if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[0] != total:
        return None
    sound = features.dtype == torch.float32 and bool(features.isfinite().all())
    return features if sound else None


def layer_encoder(method: nn.Module, layer: str = "pooled") -> Encode:
    """Read another layer than the one that `encode` gives.

    Args:
        method: has ``encode``, ``encoder`` and ``projector``.
        layer: ``"pooled"`` (what ``encode`` gives), ``"projector"``, ``"class_token"`` or
            ``"mean"`` (of a ViT's patch tokens), or the name of any submodule of the encoder, such
            as SmallAlexNet's ``"fc7"``; maps are averaged over their positions.

    Returns:
        Images to (B, D) features.

    Raises:
        InputError: the encoder has no such layer; no encoder.
    """
    encoder = getattr(method, "encoder", None)
    encode: Encode | None = getattr(method, "encode", None)
    if not isinstance(encoder, nn.Module) or encode is None:
        raise InputError(
            f"{type(method).__name__} has no encoder to evaluate; take the checkpoint of a "
            "method of this library."
        )
    if layer == "pooled":
        return encode
    if layer == "projector":
        projector: Any = method.projector

        def project(images: Tensor) -> Tensor:
            with torch.no_grad():
                training = projector.training
                projector.eval()
                result: Tensor = projector(encode(images))
                projector.train(training)
                return result

        return project
    tokens = layer in ("class_token", "mean")
    modules = dict(encoder.named_modules())
    module = modules.get("norm" if tokens else layer)
    if not layer or module is None or (tokens and not hasattr(encoder, "num_prefix_tokens")):
        if tokens:
            raise InputError(f"layer '{layer}' is for vision transformers, not for this encoder.")
        known = [name for name in modules if name and name.count(".") < 2]
        raise unknown_name("layer", layer, ["pooled", "projector", "class_token", "mean", *known])
    prefix = int(getattr(encoder, "num_prefix_tokens", 1))

    def read(images: Tensor) -> Tensor:
        found: list[Tensor] = []
        handle = module.register_forward_hook(lambda _m, _i, output: found.append(output))
        try:
            encode(images)
        finally:
            handle.remove()
        output = found[-1]
        if layer == "class_token":
            return output[:, 0]
        if layer == "mean":
            return output[:, prefix:].mean(1)
        if output.ndim == 4:
            return output.mean((2, 3))
        return output.mean(1) if output.ndim == 3 else output

    return read
