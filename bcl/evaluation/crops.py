"""Random crops and flips, for probes that augment, and pairs of views, for the alignment."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bcl.augment import ContrastiveViews
from bcl.core.random import hash64, uniform
from bcl.evaluation.features import Encode, ImageDataset, extract_features


def crop_and_flip(images: Tensor, ids: Tensor, seed: int, epoch: int) -> Tensor:
    """Zero-pad (B, 3, H, W) images by an eighth, crop and flip by seed, epoch and (B,) ids."""
    B, _, H, W = images.shape
    ids = ids.to(images.device)
    pad_y, pad_x = max(H // 8, 1), max(W // 8, 1)
    padded = nn.functional.pad(images, (pad_x, pad_x, pad_y, pad_y))
    top = hash64(seed, epoch, ids, 1).remainder(2 * pad_y + 1)  # (B,)
    left = hash64(seed, epoch, ids, 2).remainder(2 * pad_x + 1)
    rows = top[:, None] + torch.arange(H, device=images.device)  # (B, H)
    place = torch.arange(W, device=images.device)
    flip = uniform(seed, epoch, ids, 3) < 0.5
    columns = left[:, None] + torch.where(flip[:, None], W - 1 - place, place)  # (B, W)
    batch = torch.arange(B, device=images.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class CroppedSet:
    """An image set seen through one random crop and flip of every image, those of an epoch."""

    def __init__(self, base: ImageDataset, seed: int, epoch: int = 0) -> None:
        self.base, self.seed, self.epoch, self.labels = base, seed, epoch, base.labels
        self.content_hash = f"{base.content_hash}+crop-{seed}" + (f"-{epoch}" if epoch else "")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.base)

    def images(self, indices: Tensor) -> Tensor:
        """The cropped images at (n,) indices, uint8 (n, 3, H, W)."""
        return crop_and_flip(self.base.images(indices), indices, self.seed, self.epoch)

    def batches(self, batch_size: int, device: Any) -> Iterator[dict[str, Tensor]]:
        """Batches in the order of the ids."""
        for batch in self.base.batches(batch_size, device):
            n = batch["id"].numel()  # padding images have no id
            ids = nn.functional.pad(batch["id"], (0, batch["image"].shape[0] - n))
            yield {**batch, "image": crop_and_flip(batch["image"], ids, self.seed, self.epoch)}


class PartialSet:
    """Some images of a set, at (n,) positions."""

    def __init__(self, base: ImageDataset, rows: Tensor) -> None:
        self.base, self.rows = base, rows.cpu()
        self.labels = base.labels.cpu()[self.rows]
        self.content_hash = base.content_hash

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def images(self, indices: Tensor) -> Tensor:
        """The images at (n,) indices, uint8 (n, 3, H, W)."""
        return self.base.images(self.rows[indices])

    def batches(self, batch_size: int, device: Any) -> Iterator[dict[str, Tensor]]:
        """Batches in the order of the rows."""
        for ids in torch.split(torch.arange(len(self)), batch_size):
            yield {"image": self.images(ids).to(device), "id": ids.to(device)}


class ViewedSet:
    """Two SimCLR views of n images of a set, as bytes: 2i and 2i + 1 show its image ``ids[i]``."""

    def __init__(
        self, base: ImageDataset, ids: Tensor, size: int | tuple[int, int], device: Any = "cpu"
    ) -> None:
        self.base, self.ids, self.device = base, ids, device
        self.labels = base.labels[ids.to(base.labels.device)].repeat_interleave(2)
        self.content_hash = f"{base.content_hash}+views-{size}"
        self._make = ContrastiveViews(size)

    def __len__(self) -> int:
        """Number of views."""
        return 2 * len(self.ids)

    def images(self, indices: Tensor) -> Tensor:
        """The views at (n,) indices, uint8 (n, 3, H, W)."""
        places, row = torch.unique(indices // 2, return_inverse=True)
        ids = self.ids[places].to(self.device)
        pair = self._make(self.base.images(self.ids[places]).to(self.device), ids=ids)
        assert isinstance(pair, Tensor)  # no local views
        views = pair[indices % 2, row]  # of (2, m, 3, H, W)
        return (views * 255).round().to(torch.uint8)

    def batches(self, batch_size: int, device: Any) -> Iterator[dict[str, Tensor]]:
        """Batches in the order of the ids."""
        for ids in torch.split(torch.arange(len(self)), batch_size):
            yield {"image": self.images(ids).to(device), "id": ids.to(device)}


def view_features(encode: Encode, views: ViewedSet, **options: Any) -> tuple[Tensor, Tensor]:
    """Features (n, D) of both views of every image; the options are `extract_features`'."""
    features = extract_features(encode, views, **options)  # (2n, D)
    return features[::2], features[1::2]
