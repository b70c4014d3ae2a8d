"""Nearest neighbors of every image within its own collection."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.checks import check_count
from bcl.core.errors import InputError

EXACT_ROWS = 20_000  # beyond, candidates are searched in fewer dimensions
SEARCH_DIMENSIONS, SEARCH_FACTOR = 128, 4  # and this many times k of them are compared exactly
BLOCK_BYTES = 128 << 20  # of similarities at a time
TILE = 1 << 15  # images that a block is compared with at a time
RUN = 64  # similarities whose largest stands for them


class Neighbors(NamedTuple):
    """The k nearest other images of each, nearest first."""

    ids: Tensor  # (N, k) int64
    distances: Tensor  # (N, k) float32, cosine distances in [0, 2]


def nearest_neighbors(
    embeddings: Tensor, k: int = 10, *, exact_rows: int = EXACT_ROWS
) -> Neighbors:
    r"""Find the k nearest other images by cosine distance, :math:`1 - x_i^\top x_j`.

    Rows are normalized first. Up to ``exact_rows`` images, or 128 dimensions, all pairs are
    compared. Beyond, 4k candidates come from the 128 main directions and are then compared in all
    dimensions: distances are always exact, and few neighbors are missed. Memory does not grow with
    the number of pairs.

    Args:
        embeddings: (N, D) floating point.
        k: neighbors per image, fewer if the collection is smaller.
        exact_rows: images up to which all pairs are compared in all dimensions.

    Raises:
        InputError: fewer than two images, or values that are not finite.

    Example:
        >>> ring = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> nearest_neighbors(ring, k=1).ids.flatten().tolist()
        [1, 0, 1]
    """
    check_count("k", k)
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise InputError(
            f"neighbors need at least two embeddings (N, D), got shape {tuple(embeddings.shape)}."
        )
    if not bool(embeddings.isfinite().all()):
        bad = int((~embeddings.isfinite().all(1)).nonzero()[0])
        raise InputError(f"the embedding of row {bad} is not finite; embed the collection again.")
    k = min(k, len(embeddings) - 1)
    rows = normalize(embeddings.detach().float(), dim=1)
    if len(rows) <= exact_rows or rows.shape[1] <= SEARCH_DIMENSIONS:
        return _search(rows, k)
    candidates = _search(_main_directions(rows, SEARCH_DIMENSIONS), SEARCH_FACTOR * k).ids
    return _compare(rows, candidates, k)


def _search(rows: Tensor, k: int) -> Neighbors:
    """All pairs, a block of rows and a tile of their others at a time."""
    total, k = len(rows), min(k, len(rows) - 1)
    width = min(TILE, total)
    step = max(1, min(BLOCK_BYTES // (4 * width), total))
    # Of all blocks: memory is costly to get, and small results between large blocks break it up.
    room = rows.new_empty(step, width)
    values, ids = rows.new_empty(total, k), rows.new_empty(total, k, dtype=torch.int64)
    for start in range(0, total, step):
        end = min(start + step, total)
        best = [_within(rows, (start, end), first, k, room) for first in range(0, total, TILE)]
        top, others = (torch.cat(parts, 1) for parts in zip(*best, strict=True))  # (b, tiles·k)
        values[start:end], place = top.topk(k, dim=1)
        ids[start:end] = others.gather(1, place)
    return Neighbors(ids, _distances(values))


def _within(
    rows: Tensor, block: tuple[int, int], first: int, k: int, room: Tensor
) -> tuple[Tensor, Tensor]:
    """Similarities and ids of a block's k nearest in the tile that begins at ``first``."""
    (start, end), tile = block, rows[first : first + TILE]
    similarity = torch.mm(rows[start:end], tile.T, out=room[: end - start, : len(tile)])
    low, high = max(start, first), min(end, first + len(tile))
    if low < high:  # images that meet themselves
        own = similarity[low - start : high - start, low - first : high - first]
        own.fill_diagonal_(-torch.inf)
    top, place = largest(similarity, min(k, len(tile)))
    return top, place + first


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``values.topk(k)`` of wide rows: the k runs with the largest maxima hold the k largest."""
    number, width = values.shape
    whole = width // RUN * RUN
    if whole <= k * RUN:
        return tuple(values.topk(k, dim=1))  # type: ignore[return-value]
    runs = values[:, :whole].view(number, -1, RUN)  # (b, runs, RUN)
    best = runs.amax(2).topk(k, dim=1).indices[:, :, None]  # (b, k, 1)
    places = torch.arange(width, device=values.device)
    inside = (best * RUN + places[:RUN]).flatten(1)  # (b, k·RUN)
    inside = torch.cat([inside, places[whole:].expand(number, -1)], 1)  # and what is left over
    top, place = values.gather(1, inside).topk(k, dim=1)
    return top, inside.gather(1, place)


def _main_directions(rows: Tensor, dimensions: int) -> Tensor:
    """(N, dimensions) normalized coordinates along the leading eigenvectors of XᵀX."""
    vectors = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -dimensions:]
    return normalize(rows @ vectors, dim=1)


def _compare(rows: Tensor, candidates: Tensor, k: int) -> Neighbors:
    """The k nearest of each row's candidates, in all dimensions."""
    ids, values = [], []
    for block, others in zip(torch.split(rows, 512), torch.split(candidates, 512), strict=True):
        similarity = torch.einsum("bd,bkd->bk", block, rows[others])
        top = similarity.topk(k, dim=1)
        ids.append(others.gather(1, top.indices))
        values.append(top.values)
    return Neighbors(torch.cat(ids), _distances(torch.cat(values)))


def _distances(similarities: Tensor) -> Tensor:
    return (1 - similarities).clamp(0, 2)
