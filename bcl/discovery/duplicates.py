"""Groups of images that are nearly the same."""

import torch
from torch import Tensor

from bcl.core.checks import check_positive
from bcl.evaluation.neighbors import Neighbors

SHARE = 0.1  # of the distance to the 10th neighbor
TIGHT = 0.2  # times the share, of the median distance to the nearest: a burst of more than ten
ROUNDING = 1e-6  # of the distance of equal images


def duplicate_distance(neighbors: Neighbors, share: float = SHARE) -> Tensor:
    """Distances below which two images count as copies.

    Encoders differ in scale, and regions of one embedding in density. So a pair is a copy when it
    is nearer than a share of the smaller of its two distances to the last neighbor searched, each
    counted as the median of all at most. A burst of more copies than neighbors fills these lists
    itself: a fifth of that share of the median distance to the nearest is always near enough, and
    so are equal images.

    Args:
        neighbors: of every image, (N, k).
        share: larger finds more copies, and more that are none.

    Returns:
        (N, k) cosine distances, one for each pair.
    """
    check_positive("share", share)
    last = neighbors.distances[:, -1]  # (N,)
    last = last.clamp(max=float(last.median()))  # a small group, all alone, is no copy
    local = share * torch.minimum(last[:, None], last[neighbors.ids])  # (N, k)
    everywhere = share * TIGHT * float(neighbors.distances[:, 0].median())
    return local.clamp(min=max(everywhere, ROUNDING))


def duplicate_groups(neighbors: Neighbors, distance: float | Tensor) -> Tensor:
    """Join images at most ``distance`` apart into groups.

    Groups are connected: two members may lie farther apart if others link them.

    Args:
        neighbors: of every image; pairs farther down than these are not seen.
        distance: cosine distance, one for all or one for each pair, (N, k).

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
