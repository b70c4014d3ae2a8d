"""How rare each image is."""

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.evaluation.neighbors import Neighbors


def neighbor_distance(neighbors: Neighbors, k: int) -> Tensor:
    r"""Mean cosine distance to the k nearest other images.

    .. math:: r_i = \frac{1}{k} \sum_{j \in N_k(i)} (1 - x_i^\top x_j)

    An image that few others resemble has a large one. ``k = 1`` ignores pairs of copies; larger
    ones also find small groups.

    Args:
        neighbors: of every image (see `nearest_neighbors`).
        k: how many of them; at most those that were searched.

    Returns:
        (N,) float32, larger is rarer.

    Example:
        >>> from bcl.discovery import nearest_neighbors
        >>> points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> neighbor_distance(nearest_neighbors(points, k=2), k=1).tolist()
        [0.0, 0.0, 1.0]
    """
    width = neighbors.distances.shape[1]
    if not 1 <= k <= width:
        raise InputError(f"k must lie between 1 and the {width} neighbors searched, got {k}.")
    return neighbors.distances[:, :k].mean(1)


def percentiles(scores: Tensor) -> Tensor:
    """(N,) shares in [0, 1] of the other images with a lower score; equal ones count half.

    Example:
        >>> percentiles(torch.tensor([5.0, 1.0, 9.0, 5.0])).tolist()
        [0.5, 0.0, 1.0, 0.5]
    """
    ordered = scores.sort().values
    below, upto = (torch.searchsorted(ordered, scores, right=right) for right in (False, True))
    return ((below + upto - 1) / (2 * max(len(scores) - 1, 1))).float()
