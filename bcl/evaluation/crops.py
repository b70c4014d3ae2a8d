"""Random crops and flips, for probes that augment."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.random import hash64, uniform
from bcl.evaluation.features import ImageDataset


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
    """An image set seen through one random crop and flip of every image."""

    def __init__(self, base: ImageDataset, seed: int) -> None:
        self.base, self.seed, self.labels = base, seed, base.labels
        self.content_hash = f"{base.content_hash}+crop-{seed}"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.base)

    def images(self, indices: Tensor) -> Tensor:
        """The cropped images at (n,) indices, uint8 (n, 3, H, W)."""
        return crop_and_flip(self.base.images(indices), indices, self.seed, 0)

    def batches(self, batch_size: int, device: Any) -> Iterator[dict[str, Tensor]]:
        """Batches in the order of the ids."""
        for batch in self.base.batches(batch_size, device):
            n = batch["id"].numel()  # padding images have no id
            ids = nn.functional.pad(batch["id"], (0, batch["image"].shape[0] - n))
            yield {**batch, "image": crop_and_flip(batch["image"], ids, self.seed, 0)}
