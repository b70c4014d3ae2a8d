"""Clusters of a collection, and the curve of their sizes."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.checks import check_count
from bcl.core.errors import InputError

CHOICES = (2, 3, 4, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100)
MANY, FEWEST = 1_000, 8  # of so many images, fewer clusters say nothing about a tail
SAMPLE = 2_000  # images that choose the number of clusters


class Clusters(NamedTuple):
    """A partition of N images, the largest cluster first."""

    of: Tensor  # (N,) int64 cluster of each image
    distances: Tensor  # (N,) float32 cosine distance to its center
    sizes: Tensor  # (C,) int64, descending


def cluster(embeddings: Tensor, count: int | None = None, seed: int = 0) -> Clusters:
    """Cluster by spherical k-means: k-means of normalized rows, distances by cosine.

    Args:
        embeddings: (N, D) floating point.
        count: number of clusters; by default the one of `CHOICES` with the best silhouette on a
            sample of 2,000 images, at least 8 for a collection of 1,000.
        seed: of the sample and of the initial centers.

    Returns:
        The partition. The curve of its sizes estimates the tail of the collection from below:
        k-means divides large groups and joins small ones.

    Raises:
        InputError: more clusters than images.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> cluster(x, 2).of.tolist()
        [0, 0, 0, 1, 1]
    """
    rows = normalize(embeddings.float(), dim=1)
    if count is not None:
        check_count("clusters", count)
        if count > len(rows):
            raise InputError(f"{count} clusters of {len(rows)} images; ask for fewer clusters.")
    of = _k_means(rows, choose_count(rows, seed) if count is None else count, seed)
    sizes, order = torch.sort(torch.bincount(of), descending=True, stable=True)
    of = order.argsort()[of]
    sizes = sizes[sizes > 0]
    centers = torch.zeros(len(sizes), rows.shape[1]).index_add_(0, of, rows)
    similarity = (rows * normalize(centers, dim=1)[of]).sum(1)
    return Clusters(of, (1 - similarity).clamp(0, 2), sizes)


def choose_count(rows: Tensor, seed: int = 0) -> int:
    """The number of clusters of `CHOICES` with the best silhouette on a sample; 1 below 4 rows."""
    from sklearn.metrics import silhouette_score

    generator = torch.Generator().manual_seed(seed)
    sample = rows[torch.randperm(len(rows), generator=generator)[:SAMPLE]]
    found = {}
    fewest = FEWEST if len(rows) >= MANY else 0
    for count in [choice for choice in CHOICES if fewest <= choice <= len(sample) // 2]:
        of = _k_means(sample, count, seed)
        if int(of.max()) > int(of.min()):
            found[count] = silhouette_score(sample.numpy(), of.numpy(), metric="cosine")
    return max(found, key=lambda count: found[count]) if found else 1


def _k_means(rows: Tensor, count: int, seed: int) -> Tensor:
    """(N,) int64 clusters of normalized rows."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=4096)
    return torch.from_numpy(model.fit_predict(rows.numpy())).to(torch.int64)
