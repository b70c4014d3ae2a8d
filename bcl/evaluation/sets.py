"""The image sets that an evaluation needs, their labels and groups."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.evaluation.crops import CroppedSet
from bcl.evaluation.features import ImageDataset
from bcl.evaluation.probe.draws import by_class
from bcl.evaluation.protocols import Protocol
from bcl.evaluation.shots import REPORTED, shot_groups


class Sets:
    """The image sets of a datamodule that some protocols need, by name.

    ``images`` and ``labels`` (N,) have the keys ``"probe"``, ``"test"`` and more; ``groups`` has
    the main grouping first.
    """

    def __init__(
        self,
        data: Any,
        protocols: list[Protocol],
        grouping: str | None,
        seed: int,
        device: str | torch.device,
    ) -> None:
        self.data, self.num_classes = data, int(data.num_classes)
        self.counts = torch.as_tensor(data.class_counts).cpu()
        if self.counts.numel() != self.num_classes:
            raise InputError(
                f"the data has {self.num_classes} classes, but class_counts has "
                f"{self.counts.numel()}; take both from the same data set."
            )
        names = getattr(data, "class_names", range(self.num_classes))
        self.class_names = [str(name) for name in names]
        self.images: dict[str, ImageDataset] = {"probe": data.probe_set(), "test": data.test_set()}
        for protocol in protocols:
            if protocol.train == "long-tailed":
                self.images["long-tailed"] = data.train_set()
            if protocol.cropped:
                self.images[protocol.source] = CroppedSet(self.images[protocol.train], seed)
        self.labels = {
            name: self.read_labels(name, each).to(device) for name, each in self.images.items()
        }
        possible = REPORTED if self.num_classes >= 3 else ("thresholds",)
        main = grouping or getattr(data, "grouping", possible[0])
        ordered = dict.fromkeys((main, *possible))
        self.groups = {name: shot_groups(self.counts, name) for name in ordered}

    def read_labels(self, name: str, images: Any) -> Tensor:
        """(N,) int64 labels of a set, one for each image."""
        labels = getattr(images, "labels", None)
        if labels is None or labels.numel() != len(images):
            raise InputError(
                f"the {name} set has no label for each of its {len(images)} images; use a labeled "
                "set."
            )
        labels = torch.as_tensor(labels).cpu().to(torch.int64)
        outside = ((labels < 0) | (labels >= self.num_classes)).nonzero().flatten().tolist()
        if outside:
            at = outside[0]
            raise InputError(
                f"image {at} of the {name} set has label {int(labels[at])}, outside 0 to "
                f"{self.num_classes - 1}; leave unlabeled images out."
            )
        return labels

    def description(self, protocol: Protocol) -> str:
        """A protocol's training images in words, which are called balanced only where they are."""
        counts = torch.bincount(self.labels["probe"])
        even = len({*counts[counts > 0].tolist()}) == 1
        return protocol.description if even else protocol.description.replace("balanced ", "")

    def subsets(self, protocol: Protocol) -> list[Tensor]:
        """Positions (n,) of each draw's training images."""
        labels, shots = self.labels[protocol.source], protocol.shots
        if shots is None:
            return [torch.arange(labels.numel(), device=labels.device)]
        if shots == 0:
            return [_as_rarest(labels, draw) for draw in range(protocol.draws)]
        found = []
        for draw in range(protocol.draws):
            rows = torch.as_tensor(self.data.few_shot(shots, draw)).to(labels.device)
            counts = torch.bincount(labels[rows], minlength=self.num_classes)
            if isinstance(shots, int) and int(counts.min()) < shots:
                raise InputError(
                    f"'{protocol.name}' needs {shots} images of every class, but class "
                    f"{int(counts.argmin())} has {int(counts.min())} in the probe set; take fewer."
                )
            found.append(rows)
        return found

    def provenance(self) -> dict[str, Any]:
        """Which images the numbers are of."""
        data, probe, test = self.data, self.images["probe"], self.images["test"]
        return {
            "recipe": str(getattr(data, "recipe", "")),
            "content_hash": str(getattr(data, "content_hash", "")),
            "probe_hash": str(probe.content_hash),
            "test_hash": str(test.content_hash),
            # Of the images' bytes; the hashes above know image files by their names.
            "images_hash": str(getattr(data, "images_hash", "")),
            "test_images_hash": str(getattr(test, "images_hash", "")),
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "class_counts": self.counts.tolist(),
            "train_images": int(self.counts.sum()),
            "probe_images": len(probe),
            "test_images": len(test),
            "test_counts": torch.bincount(self.labels["test"], minlength=self.num_classes).tolist(),
            "notes": [str(note) for note in getattr(data, "notes", [])],
            "root": image_root(data.train_set()),
            "test_root": image_root(test),
        }


def image_root(images: Any) -> str:
    """The folder that the names of a set's images are relative to; "" where there is none."""
    origin = getattr(images, "origin", None)
    return "" if origin is None else str(Path(origin.reader.root).absolute())


def _as_rarest(labels: Tensor, draw: int) -> Tensor:
    """As many images of each class as the rarest class that has any."""
    counts = torch.bincount(labels)
    order, rank = by_class(labels, draw, 0xBA1A)
    return order[rank < counts[counts > 0].min()].sort().values
