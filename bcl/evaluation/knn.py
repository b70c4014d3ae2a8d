"""Nearest neighbors on frozen features."""

import torch
from torch import Tensor

from bcl.core.errors import InputError, unknown_name

METRICS = ("cosine", "euclidean")
BLOCK_BYTES = 64 << 20  # similarities held at a time
TEST_ROWS = 1024  # test images at a time, enough for an efficient matrix product


def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    ks: tuple[int, ...] = (1, 10, 200),
    *,
    metric: str = "cosine",
    num_classes: int | None = None,
    temperature: float | None = None,
) -> dict[int, Tensor]:
    r"""Predict labels by a vote of the k nearest training images, for several k at once.

    Each neighbor has one vote, or :math:`e^{s/\tau}` with its cosine similarity s when a
    temperature is given. Among equal votes the class whose neighbors rank nearer wins.
    Distances are worked on in blocks of both sets, so memory does not grow with them.

    Args:
        train_features: (N, D).
        train_labels: (N,).
        test_features: (M, D).
        ks: numbers of neighbors; those above N use N.
        metric: ``"cosine"`` or ``"euclidean"``.
        num_classes: C.
        temperature: for weighted votes with the cosine metric.

    Returns:
        k to (M,) predicted labels.

    Raises:
        InputError: unknown metric, k below 1, a temperature that is not positive, shapes that do
            not fit, NaN in the features.

    Example:
        >>> x, y = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1])
        >>> knn_predict(x, y, torch.tensor([[0.2, 1.0]]), ks=(1,))
        {1: tensor([0])}
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    if not ks or min(ks) < 1:
        raise InputError(f"k must be at least 1, got {ks}.")
    if temperature is not None and not temperature > 0:
        raise InputError(f"temperature must be positive, got {temperature}.")
    _check(train_features, train_labels, test_features)
    train_labels = train_labels.to(torch.int64)  # narrow types cannot index votes
    classes = num_classes if num_classes is not None else int(train_labels.max()) + 1
    train, test = train_features.detach().float(), test_features.detach().float()
    if metric == "cosine":
        train = torch.nn.functional.normalize(train, dim=1)
        test = torch.nn.functional.normalize(test, dim=1)
        offset = train.new_zeros(train.shape[0])
    else:
        # |a - b|² orders like |b|² / 2 - a·b for a fixed a.
        center = train.mean(0)
        train, test = train - center, test - center
        offset = train.square().sum(1) / 2
    largest = min(max(ks), train.shape[0])
    found: dict[int, list[Tensor]] = {k: [] for k in ks}
    for start in range(0, test.shape[0], TEST_ROWS):
        block = test[start : start + TEST_ROWS]
        values, places = _nearest(train, offset, block, largest)  # (m, k), nearest first
        labels = train_labels[places]
        if temperature is None or metric != "cosine":
            weights = torch.ones_like(values, dtype=torch.float64)
        else:  # of the nearest 1: at a low temperature the exponentials leave any number format
            weights = ((values - values[:, :1]).double() / temperature).exp()
        # Ranks break ties: all of them together count less than any whole vote.
        # (Votes by similarity differ by less than a whole one, and are hardly ever equal.)
        least = 1e-4 if temperature is None else 1e-12
        tie = torch.linspace(least, 0, largest, device=weights.device, dtype=torch.float64)
        tie /= largest
        for k in ks:
            votes = weights.new_zeros(block.shape[0], classes)
            votes.scatter_add_(1, labels[:, :k], (weights + tie)[:, :k])
            found[k].append(votes.argmax(1))
    return {k: torch.cat(parts) for k, parts in found.items()}


def _check(train: Tensor, labels: Tensor, test: Tensor) -> None:
    """Refuse features that have no neighbors."""
    fits = train.ndim == 2 and labels.shape == train.shape[:1] and test.shape[1:] == train.shape[1:]
    if not fits or train.numel() == 0 or test.shape[0] == 0:
        raise InputError(
            f"neighbors need training features (N, D), labels (N,) and test features (M, D), got "
            f"{tuple(train.shape)}, {tuple(labels.shape)} and {tuple(test.shape)}."
        )
    for name, rows in (("train", train), ("test", test)):
        finite = rows.isfinite().all(1)
        if not bool(finite.all()):
            raise InputError(
                f"{int((~finite).sum())} rows of the {name} features hold NaN or infinity, first "
                f"row {int((~finite).nonzero()[0])}; the encoder has diverged or is damaged."
            )


def _nearest(train: Tensor, offset: Tensor, block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities (m, k) and positions of the nearest training rows, in blocks of those too."""
    columns = max(k, BLOCK_BYTES // (4 * block.shape[0]))
    values = block.new_empty(block.shape[0], 0)
    places = torch.empty(block.shape[0], 0, dtype=torch.int64, device=block.device)
    for start in range(0, train.shape[0], columns):
        part = train[start : start + columns]
        similarity = torch.addmm(-offset[start : start + columns], block, part.T)
        near = similarity.topk(min(k, part.shape[0]), dim=1)
        values = torch.cat([values, near.values], 1)
        places = torch.cat([places, near.indices + start], 1)
        if values.shape[1] > k:
            best = values.topk(k, dim=1)
            values, places = best.values, places.gather(1, best.indices)
    return values, places
