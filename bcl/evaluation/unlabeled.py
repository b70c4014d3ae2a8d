"""Measures of the features of some images without labels, as they change during a training."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bcl.core.random import permutation
from bcl.evaluation import measures
from bcl.evaluation.crops import ViewedSet, view_features
from bcl.evaluation.features import Encode, ImageDataset, extract_features

PAIRS = 256  # images whose two views give the alignment
# Collapsed runs measured 1.0 to 2.0 and -0.005 to 0, poor starts of good ones 2.5 and -0.015.
COLLAPSED_RANK, COLLAPSED_UNIFORMITY = 2.0, -0.01
_SAMPLE_STREAM = 0x3A7C


class FeatureMeasures(NamedTuple):
    """Measures by name, and the (n, k) nearest neighbors that they were made with."""

    values: dict[str, float]
    neighbors: Tensor
    width: int  # of the features

    @property
    def collapsed(self) -> bool:
        """Whether all images have nearly the same features."""
        rank, evenness = self.values["features/effective_rank"], self.values["features/uniformity"]
        return rank < COLLAPSED_RANK or evenness > COLLAPSED_UNIFORMITY


def sample(images: Any, most: int) -> Any:
    """A part of an image set, drawn at random but always the same, in the order of the ids."""
    if len(images) <= most:
        return images
    return images.subset(permutation(len(images), 0, _SAMPLE_STREAM)[:most].sort().values)


def resized(encode: Encode, size: int | tuple[int, int]) -> Encode:
    """Encode after resizing to the size of the views: a vision transformer takes one size."""
    shape = (size, size) if isinstance(size, int) else tuple(size)

    def encode_resized(x: Tensor) -> Tensor:
        if x.shape[2:] != shape:
            x = interpolate(x.float(), shape, mode="bilinear", antialias=True)
            x = x.round().to(torch.uint8)
        return encode(x)

    return encode_resized


def measure_features(
    encode: Encode,
    images: ImageDataset,
    size: int | tuple[int, int],
    *,
    neighbors: int,
    before: Tensor | None = None,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
) -> FeatureMeasures:
    """Measure the features of an image set.

    ``size`` is that of the views, which other images are resized to; ``before`` holds the neighbors
    of another measurement.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "device": device}
    features = extract_features(resized(encode, size), images, name="images", **options)
    some = permutation(len(images), 0, _SAMPLE_STREAM)[:PAIRS].sort().values
    viewed = ViewedSet(images, some, size, device)
    first, second = view_features(encode, viewed, name="views", **options)
    found = measures.nearest_neighbors(features, neighbors)
    values = {
        "features/alignment": measures.alignment(first, second),
        "features/uniformity": measures.uniformity(features),
        "features/effective_rank": measures.effective_rank(features),
    }
    if before is not None and before.shape == found.shape:
        values["features/neighbors_kept"] = measures.neighbor_agreement(before, found)
    return FeatureMeasures(values, found, features.shape[1])
