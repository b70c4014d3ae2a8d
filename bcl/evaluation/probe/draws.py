"""The training sets of a probe: P draws of equal shape, each with a validation part."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bcl.core.random import permutation
from bcl.evaluation.metrics import class_accuracy, nan_mean

ALIKE = 1e-6  # a feature that varies by less of its own size is constant up to rounding
FAINTEST = 1e-30  # a feature that varies by less has no inverse in float32


@dataclass
class Draws:
    """P training sets, with the rows of the validation part last."""

    x: Tensor  # (P, n, D) float32 features
    y: Tensor  # (P, n) int64 labels
    num_fit: int  # rows before the validation part
    num_classes: int

    @property
    def num_held(self) -> int:
        """Rows of the validation part."""
        return self.x.shape[1] - self.num_fit

    @property
    def held_x(self) -> Tensor:
        """(P, v, D) features of the validation part."""
        return self.x[:, self.num_fit :]

    def accuracies(self, logits: Tensor) -> list[float]:
        """Mean class accuracy of every head on its validation part; logits (P, v, C)."""
        held_y = self.y[:, self.num_fit :]
        return [
            nan_mean(class_accuracy(row, truth, self.num_classes))
            for row, truth in zip(logits.argmax(-1), held_y, strict=True)
        ]

    def standardize(self) -> tuple[Tensor, Tensor, Tensor]:
        """Bring features to mean 0 and deviation 1 in place, constant ones to 0.

        Returns mean, deviation (1 where constant) and where features are constant, (P, 1, D) each.
        """
        x = self.x
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        spread = high - low
        # Compared with the feature itself: the others may be of any scale.
        constant = spread <= ALIKE * torch.maximum(low.abs(), high.abs())
        constant |= spread < FAINTEST
        spread = torch.where(constant, 1.0, spread)
        mean = x.mean(1, keepdim=True)
        x.sub_(mean).div_(spread)  # within [-1, 1], where squares neither overflow nor vanish
        deviation = torch.where(constant, 1.0, x.square().mean(1, keepdim=True).sqrt())
        x.div_(deviation).masked_fill_(constant, 0.0)  # constant features hold only rounding
        return mean, deviation.mul_(spread), constant


def by_class(labels: Tensor, *keys: int) -> tuple[Tensor, Tensor]:
    """(N,) positions sorted by class, random within, and the rank of each within its class."""
    order = permutation(labels.numel(), *keys, device=labels.device)
    order = order[torch.sort(labels[order], stable=True).indices]
    counts = torch.bincount(labels)
    place = torch.arange(labels.numel(), device=labels.device)
    return order, place - (counts.cumsum(0) - counts)[labels[order]]


def split_validation(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions to fit on and to validate on, stratified by class.

    A class of n images gives ``round(n * share)`` to the validation part, at most n - 1.
    """
    order, rank = by_class(labels, seed, 0x5B117)
    counts = torch.bincount(labels)
    take = torch.minimum((counts * share).round().to(torch.int64), (counts - 1).clamp(min=0))
    held = rank < take[labels[order]]
    return order[~held].sort().values, order[held].sort().values


def balanced_weights(y: Tensor, num_classes: int) -> Tensor:
    """(P, n) weights of rows with mean 1 that make all classes of (P, n) labels weigh alike."""
    counts = torch.zeros(len(y), num_classes, device=y.device)
    counts.scatter_add_(1, y, torch.ones_like(y, dtype=counts.dtype))
    present = (counts > 0).sum(1, keepdim=True)
    return y.shape[1] / (present * counts.gather(1, y))
