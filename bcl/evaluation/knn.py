"""Nearest neighbors on frozen features."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.checks import check_choice, check_count, check_positive
from bcl.core.errors import InputError
from bcl.evaluation.features import check_finite

METRICS = ("cosine", "euclidean")
BLOCK_BYTES = 64 << 20  # of similarities per block
TEST_ROWS = 1024  # test images per block, enough for an efficient matrix product


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
    temperature is given. Ties go to the class whose neighbors are nearer. Both sets are processed
    in blocks, so memory does not grow with them.

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
            not match, NaN in the features.

    Example:
        >>> x, y = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1])
        >>> knn_predict(x, y, torch.tensor([[0.2, 1.0]]), ks=(1,))
        {1: tensor([0])}
    """
    check_choice("metric", metric, METRICS)
    check_count("k", min(ks, default=0))
    check_positive("temperature", 1.0 if temperature is None else temperature)
    _check_shapes(train_features, train_labels, test_features)
    train_labels = train_labels.to(torch.int64)  # narrow types cannot index votes
    classes = num_classes if num_classes is not None else int(train_labels.max()) + 1
    train, test = train_features.detach().float(), test_features.detach().float()
    if metric == "cosine":
        train, test = normalize(train, dim=1), normalize(test, dim=1)
        offset = train.new_zeros(len(train))
    else:  # |a - b|² orders like |b|² / 2 - a·b for a fixed a
        center = train.mean(0)
        train, test = train - center, test - center
        offset = train.square().sum(1) / 2
    largest = min(max(ks), len(train))
    # Ranks break ties: together they count less than any whole vote. (Votes by similarity differ
    # by less than a whole one, and are hardly ever equal.)
    tie = torch.linspace(1, 0, largest, device=test.device, dtype=torch.float64)
    tie *= (1e-4 if temperature is None else 1e-12) / largest
    found: dict[int, list[Tensor]] = {k: [] for k in ks}
    for block in torch.split(test, TEST_ROWS):
        values, places = _nearest(train, offset, block, largest)  # (m, k), nearest first
        votes = torch.ones_like(values, dtype=torch.float64)
        if temperature is not None and metric == "cosine":
            # Relative to the nearest, or low temperatures overflow.
            votes = ((values - values[:, :1]).double() / temperature).exp()
        for k in ks:
            total = votes.new_zeros(len(block), classes)
            total.scatter_add_(1, train_labels[places[:, :k]], (votes + tie)[:, :k])
            found[k].append(total.argmax(1))
    return {k: torch.cat(parts) for k, parts in found.items()}


def _check_shapes(train: Tensor, labels: Tensor, test: Tensor) -> None:
    fits = train.ndim == 2 and labels.shape == train.shape[:1] and test.shape[1:] == train.shape[1:]
    if not fits or train.numel() == 0 or test.shape[0] == 0:
        raise InputError(
            "neighbors need training features (N, D), labels (N,) and test features (M, D), got "
            f"{tuple(train.shape)}, {tuple(labels.shape)} and {tuple(test.shape)}."
        )
    check_finite("train features", train)
    check_finite("test features", test)


def _nearest(train: Tensor, offset: Tensor, block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities (m, k) and positions of the nearest training rows, which come in blocks."""
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
