"""Which images to label first: rare ones, and no two alike."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.checks import check_count

SHARE = 0.1  # of the collection, the rarest, from which the images are chosen
PER_IMAGE = 5  # at least this many candidates per image wanted


def label_first(
    embeddings: Tensor, rarity: Tensor, n: int = 50, usable: Tensor | None = None
) -> Tensor:
    r"""Choose n images that are rare and far from each other: k-center among the isolated.

    Candidates are the rarest tenth of the images, at least 5n. The rarest is chosen first, then
    again and again the candidate farthest from all chosen,
    :math:`\arg\max_i \min_{j \in S} (1 - x_i^\top x_j)`; on equal distances, the rarer.

    Args:
        embeddings: (N, D) floating point.
        rarity: (N,) larger is rarer.
        n: images wanted; fewer if there are fewer.
        usable: (N,) bool, which images may be chosen, such as those that are not dark.

    Returns:
        (n,) int64 positions in the order of choice. The first m are the choice of m images from
        the same candidates.

    Source: k-center greedy of Sener and Savarese 2018 (arXiv 1708.00489), equation 6.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
        >>> label_first(x, torch.tensor([0.9, 0.8, 0.1, 0.3]), n=2).tolist()
        [0, 3]
    """
    check_count("n", n)
    order = torch.sort(rarity, descending=True, stable=True).indices
    if usable is not None:
        order = order[usable[order]]
    candidates = order[: max(round(SHARE * len(order)), PER_IMAGE * n)]
    # rarest first
    return candidates[k_center(normalize(embeddings[candidates].float(), dim=1), n)]


def k_center(rows: Tensor, n: int) -> Tensor:
    """Choose n rows of length one, from the first on always the farthest from all chosen.

    Args:
        rows: (N, D).
        n: rows wanted; fewer if there are fewer.

    Returns:
        (n,) int64 places in the order of choice; of equal distances the first place.

    Example:
        >>> k_center(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), 2)
        tensor([0, 2])
    """
    nearest = rows.new_full((len(rows),), torch.inf)  # distance to the chosen
    chosen: list[int] = []
    for _ in range(min(n, len(rows))):
        place = int(nearest.argmax())  # the first of equal values
        chosen.append(place)
        nearest = nearest.minimum(1 - rows @ rows[place])
        nearest[place] = -torch.inf
    return torch.tensor(chosen, dtype=torch.int64)
