"""Two coordinates per image, for a map."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.checks import check_choice
from bcl.core.errors import InputError

PROJECTIONS = ("tsne", "pca", "umap")
LANDMARKS = 2_000  # images that t-SNE places; the others follow their nearest landmarks
DIMENSIONS = 50  # principal components that t-SNE sees
NEAREST = 3  # landmarks that place another image


def project(
    embeddings: Tensor, method: str = "tsne", seed: int = 0, landmarks: int = LANDMARKS
) -> Tensor:
    """Place every image on a map.

    t-SNE places a sample of ``landmarks`` images; each other image goes to the mean of its three
    nearest landmarks, weighted by closeness. So time grows with the number of images, not with its
    square.

    Args:
        embeddings: (N, D) floating point.
        method: ``"tsne"``, ``"pca"``, or ``"umap"`` (needs ``pip install umap-learn``).
        seed: of the sample and of the map.
        landmarks: images that t-SNE places.

    Returns:
        (N, 2) float32 in [0, 1], the longer side of the map filled.

    Raises:
        InputError: an unknown method, or UMAP that is not installed.

    Example:
        >>> x = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.9, 0.1]])
        >>> project(x, "pca").shape
        torch.Size([3, 2])
    """
    check_choice("map", method, PROJECTIONS)
    rows = normalize(embeddings.float(), dim=1)
    if method == "umap":
        return _fill(_umap(rows, seed))
    components = _components(rows, DIMENSIONS)
    if method == "pca" or len(rows) < 8:
        return _fill(components[:, :2])
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(rows), generator=generator)[:landmarks].sort().values
    places = _tsne(components[sample], seed)
    return _fill(places if len(sample) == len(rows) else _follow(components, sample, places))


def _components(rows: Tensor, dimensions: int) -> Tensor:
    """(N, d) principal components, the largest first, at least two; signs are fixed."""
    centered = rows - rows.mean(0)
    vectors = torch.linalg.eigh(centered.T @ centered).eigenvectors.flip(1)[:, :dimensions]
    largest = vectors.abs().argmax(0)
    found = centered @ (vectors * vectors[largest, torch.arange(vectors.shape[1])].sign())
    return found if found.shape[1] > 1 else torch.nn.functional.pad(found, (0, 1))


def _tsne(components: Tensor, seed: int) -> Tensor:
    from sklearn.manifold import TSNE

    start = components[:, :2] / components[:, 0].std().clamp_min(1e-12) * 1e-4
    model = TSNE(
        perplexity=min(30, (len(components) - 1) / 3),
        init=start.numpy(),
        learning_rate="auto",
        random_state=seed,
    )
    return torch.from_numpy(model.fit_transform(components.numpy()))


def _follow(components: Tensor, sample: Tensor, places: Tensor) -> Tensor:
    """Places of all rows from those of a sample."""
    found = []
    for block in torch.split(components, 4096):
        near = torch.cdist(block, components[sample]).topk(NEAREST, dim=1, largest=False)
        weights = normalize(1 / near.values.clamp_min(1e-6), p=1, dim=1)  # (b, NEAREST)
        found.append((weights[:, :, None] * places[near.indices]).sum(1))
    result = torch.cat(found)
    result[sample] = places
    return result


def _umap(rows: Tensor, seed: int) -> Tensor:
    try:
        from umap import UMAP
    except ImportError:
        raise InputError(
            "the map 'umap' needs umap-learn: pip install umap-learn, or choose 'tsne'."
        ) from None
    return torch.from_numpy(UMAP(metric="cosine", random_state=seed).fit_transform(rows.numpy()))


def _fill(places: Tensor) -> Tensor:
    low, high = places.aminmax(dim=0)
    return ((places - low) / (high - low).max().clamp_min(1e-12)).float()
