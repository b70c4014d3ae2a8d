"""Nearest neighbors on frozen features."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.checks import TensorLike, as_tensor, check_choice, check_count
from bcl.core.errors import InputError

BLOCK_BYTES = 64 << 20  # of similarities per block
TEST_ROWS = 1024  # test images per block, enough for an efficient matrix product


def knn_predict(
    train_features: TensorLike,
    train_labels: TensorLike,
    test_features: TensorLike,
    ks: tuple[int, ...] = (1, 10, 200),
    *,
    metric: str = "cosine",
    num_classes: int | None = None,
) -> dict[int, Tensor]:
    """Predict (M,) labels by equal votes of the k nearest of N training images, for every k.

    The metric is ``"cosine"`` or ``"euclidean"``. Ties go to the class whose neighbors are nearer;
    k above N uses N. Both sets are processed in blocks, so memory does not grow with them.

    Raises:
        InputError: an unknown metric, no training image, k below 1, or labels outside the classes.
    """
    train_features = as_tensor("train_features", train_features)
    test_features = as_tensor("test_features", test_features)
    train_labels = as_tensor("train_labels", train_labels)
    check_choice("metric", metric, ("cosine", "euclidean"))
    for k in ks:
        check_count("k", k)
    if len(train_features) == 0 or train_labels.shape != (len(train_features),):
        raise InputError(
            f"{len(train_features)} training features and labels of shape "
            f"{tuple(train_labels.shape)}; pass one label per feature, at least one."
        )
    train_labels = train_labels.to(torch.int64)  # narrow types cannot index votes
    lowest, highest = (int(end) for end in train_labels.aminmax())
    classes = num_classes if num_classes is not None else highest + 1
    if lowest < 0 or highest >= classes:
        raise InputError(
            f"labels lie in [{lowest}, {highest}], classes are 0 to {classes - 1}; leave unlabeled "
            "images out, or raise num_classes."
        )
    train, test = train_features.detach().float(), test_features.detach().float()
    if metric == "cosine":
        train, test = normalize(train, dim=1), normalize(test, dim=1)
        offset = train.new_zeros(len(train))
    else:  # |a - b|² orders like |b|² / 2 - a·b for a fixed a
        center = train.mean(0)
        train, test = train - center, test - center
        offset = train.square().sum(1) / 2
    largest = min(max(ks), len(train))
    # Ranks break ties: together they count less than any vote.
    rank = torch.linspace(1, 0, largest, device=test.device, dtype=torch.float64)
    votes = 1 + rank * (1e-4 / largest)
    found: dict[int, list[Tensor]] = {k: [] for k in ks}
    for block in torch.split(test, TEST_ROWS):
        labels = train_labels[_nearest(train, offset, block, largest)]  # (m, k), nearest first
        for k in ks:
            total = votes.new_zeros(len(block), classes)
            total.scatter_add_(1, labels[:, :k], votes[:k].expand(len(block), -1))
            found[k].append(total.argmax(1))
    return {k: torch.cat(parts) for k, parts in found.items()}


def _nearest(train: Tensor, offset: Tensor, block: Tensor, k: int) -> Tensor:
    """(m, k) positions of the nearest training rows, which are visited in blocks."""
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
    return places
