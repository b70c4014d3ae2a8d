"""Signals of the tail from the features of a whole collection: who lies far from all others?"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.checks import TensorLike, as_features, as_tensor, check_between, check_count
from bcl.core.errors import InputError
from bcl.core.random import permutation
from bcl.evaluation.features import check_finite
from bcl.evaluation.neighbors import BLOCK_BYTES, largest
from bcl.memorization.signals import neighbors_of

EXACT_ROWS = 100_000
BANDWIDTHS = (0.01, 10.0)  # beyond, float32 cannot tell the densities
_SAMPLE_STREAM = 0xDE45
_NAMES = ("neighbors_1", "neighbors", "neighbors_100", "sparseness")


def feature_signals(
    features: TensorLike,
    names: tuple[str, ...] = _NAMES,
    *,
    ids: TensorLike | None = None,
    bandwidth: float = 0.5,
    exact_rows: int = EXACT_ROWS,
) -> dict[str, Tensor]:
    r"""Measure how far images lie from the others of their collection; higher is rarer.

    With the features :math:`x_i` of length one,

    .. math:: \text{neighbors}_k = \frac1k \sum_{j \in N_k(i)} (1 - x_i^\top x_j), \qquad
        \text{sparseness} = -\log \frac{1}{N - 1} \sum_{j \ne i}
        \exp\Bigl(-\frac{\lVert x_i - x_j \rVert^2}{2 h^2}\Bigr)

    the mean cosine distance to the k nearest others (k = 1, 10 as ``"neighbors"``, 100), and minus
    the log of a Gaussian kernel density. Beyond ``exact_rows`` images, others are those of a sample
    of that size, always the same. Memory does not grow with the number of pairs.

    Args:
        features: (N, D) floating point, of lengths between 1e-12 and 1e18, or 0.
        names: the signals wanted.
        ids: (n,) rows to measure; all if not given.
        bandwidth: :math:`h` of the kernel, in [0.01, 10].
        exact_rows: images up to which all pairs are compared.

    Returns:
        (n,) float32 by name.

    Raises:
        InputError: not more images than neighbors, features that are not finite, an unknown name,
            or ids that are no rows.

    Source: neighbor distances as in BRIDGE/FOMO (github.com/Thiggel/FOMO); densities as in rwSAM
    (ICLR 2022).

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> feature_signals(x, ("neighbors_1",))
        {'neighbors_1': tensor([0., 0., 1.])}
    """
    features = as_features("features", features, "(N, D)")
    check_finite("features", features)
    check_between("bandwidth", bandwidth, *BANDWIDTHS)
    check_count("exact_rows", exact_rows, at_least=2)
    if isinstance(names, str) or not names or not set(names) <= {*_NAMES}:
        raise InputError(
            f"names takes some of {', '.join(_NAMES)}, such as ('neighbors',); got {names!r}."
        )
    deepest = max(map(neighbors_of, names))
    rows = normalize(features.float(), dim=1)
    others = torch.arange(len(rows), device=rows.device)
    if len(rows) > exact_rows:
        sample = permutation(len(rows), 0, _SAMPLE_STREAM, device=rows.device)[:exact_rows]
        others = sample.sort().values
    check_neighbors(deepest, len(others))
    place = torch.full((len(rows),), -1, device=rows.device)  # among the others, -1 for outside
    place[others] = torch.arange(len(others), device=rows.device)
    ids = torch.arange(len(rows)) if ids is None else as_tensor("ids", ids)
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if ids.ndim != 1 or not len(ids) or not whole:
        raise InputError(
            f"ids must be whole numbers (n,), at least one, got {ids.dtype} of shape "
            f"{tuple(ids.shape)}."
        )
    ids = ids.long()  # bytes would be a mask
    if bool(((ids < 0) | (ids >= len(rows))).any()):
        raise InputError(f"ids must lie in [0, {len(rows)}), the rows; got {ids.tolist()!s:.80}.")
    step = max(1, BLOCK_BYTES // (4 * len(others)))
    columns = rows[others].T.contiguous()
    parts = [
        _block_signals(rows[own] @ columns, place[own], names, deepest, bandwidth)
        for own in torch.split(ids.to(rows.device), step)
    ]
    return dict(zip(names, torch.cat(parts, 1), strict=True))


def _block_signals(
    similarity: Tensor, place: Tensor, names: tuple[str, ...], deepest: int, bandwidth: float
) -> Tensor:
    """(signals, n) of (n, R) similarities, of which ``place`` says where a row meets itself."""
    inside = (place >= 0).nonzero()[:, 0]
    similarity[inside, place[inside]] = -torch.inf
    near = largest(similarity, deepest)[0] if deepest else similarity  # (n, k), nearest first
    found = []
    for name in names:
        if count := neighbors_of(name):
            found.append((1 - near[:, :count]).clamp(0, 2).mean(1))
        else:  # |x - y|² = 2 - 2 x·y
            exponents = (similarity - 1).div_(bandwidth**2)  # (n, R)
            top = exponents.amax(1, keepdim=True)  # (n, 1)
            others = similarity.shape[1] - (place >= 0).long()
            total = exponents.sub_(top).exp_().sum(1)
            found.append((others / total).log() - top[:, 0])
    return torch.stack(found)


def check_neighbors(k: int, images: int) -> None:
    """Refuse more neighbors than other images."""
    if images <= max(k, 1):
        raise InputError(
            f"{k or 1} nearest neighbors need more than {images} images; leave signals with fewer "
            "neighbors, such as neighbors_1, or take more images."
        )
