"""Training images and external ones in one batch."""

import copy
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from datamodules.images.dataset import Batch, ImageDataset


class Beside:
    """Training images and external ones as one set: ids from 0 on, and from -1 downward.

    Batches have the ids of training images, -1 for external ones, and under ``"external"`` the
    place of each external image among those, -1 for training images.
    """

    def __init__(self, own: ImageDataset, external: ImageDataset) -> None:
        self.own, self.external = own, external
        self._device = torch.device("cpu")

    @property
    def labels(self) -> Tensor:
        """Of the training images."""
        return self.own.labels

    def to(self, device: torch.device) -> "Beside":
        """The images that are in memory on a device."""
        there = copy.copy(self)
        if self.own.files is None:  # batches are put together where the training images are
            there._device = device
            there.own, there.external = self.own.to(device), self.external.to(device)
        return there

    def stream(
        self, batches: Iterator[Tensor], keys: tuple[int, ...] | None = None
    ) -> Iterator[Batch]:
        """As `ImageDataset.stream`; of each batch the training images come first."""
        mixed, first, second = itertools.tee(batches, 3)
        place = self.external.labels.device
        own = self.own.stream(filter(len, (ids[ids >= 0] for ids in first)), keys)
        others = (-1 - ids[ids < 0].to(place) for ids in second)
        external = self.external.stream(filter(len, others), keys)
        for ids in mixed:
            count = int((ids >= 0).sum())
            parts = [self._part(next(own), "id")] if count else []
            parts += [self._part(next(external), "external")] if count < len(ids) else []
            yield {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _part(self, batch: Batch, name: str) -> Batch:
        """Images of one of both sets, whose ids go under a name."""
        ids = batch["id"].to(self.labels.device)
        none = torch.full_like(ids, -1)
        label = batch["label"] if name == "id" else none
        part = {"image": batch["image"].to(self._device), "id": none, "label": label}
        return part | {"external": none} | {name: ids}
