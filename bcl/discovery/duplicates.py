"""Groups of images that are nearly the same."""

import torch
from torch import Tensor

from bcl.core.checks import check_positive
from bcl.discovery.neighbors import Neighbors

SHARE = 0.1  # of the median distance to the nearest image


def duplicate_distance(neighbors: Neighbors, share: float = SHARE) -> float:
    """A distance below which two images count as copies: a share of the median to the nearest.

    Encoders differ in scale, so no fixed distance suits all.
    """
    check_positive("share", share)
    return share * float(neighbors.distances[:, 0].median())


def duplicate_groups(neighbors: Neighbors, distance: float) -> Tensor:
    """Join images at most ``distance`` apart into groups.

    Groups are connected: two members may lie farther apart if others link them.

    Args:
        neighbors: of every image; pairs farther down than these are not seen.
        distance: cosine distance.

    Returns:
        (N,) int64 group of each image, -1 for those without a copy; the largest group is 0, and
        of equal ones that with the lowest id.

    Example:
        >>> from bcl.discovery import nearest_neighbors
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.001], [1.0, 1.0]])
        >>> duplicate_groups(nearest_neighbors(x, k=2), distance=0.01).tolist()
        [0, -1, 0, -1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(neighbors.ids)
    near = neighbors.distances <= distance
    rows, others = near.nonzero()[:, 0], neighbors.ids[near]
    links = coo_array((near[near].numpy(), (rows.numpy(), others.numpy())), shape=(count, count))
    of = torch.from_numpy(connected_components(links, directed=False)[1]).to(torch.int64)
    sizes = torch.bincount(of)
    # Components are numbered by their lowest id, so a stable sort keeps that order among equals.
    order = torch.sort(sizes, descending=True, stable=True).indices
    number = torch.full_like(sizes, -1)
    groups = int((sizes > 1).sum())
    number[order[:groups]] = torch.arange(groups)
    return number[of]
