"""Linear probes by ridge regression to one-hot labels, in closed form."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bcl.evaluation.probe.draws import Draws, balanced_weights
from bcl.evaluation.probe.options import Choice, FittedHeads, ProbeOptions, fixed_l2

GRID = tuple(10.0 ** (e / 2) for e in range(4, -13, -1))  # 100 to 1e-6, by half decades
FALLBACK_L2 = 0.1  # without a validation part


class RidgeSystem:
    r"""W = (XᵀX/n + λI)⁻¹ XᵀY/n for one-hot Y, from one eigendecomposition for all λ."""

    def __init__(self, x: Tensor, y: Tensor, num_classes: int, balanced: bool = False) -> None:
        n = x.shape[1]
        targets = one_hot(y, num_classes).to(x)  # (P, n, C)
        weighted = x
        if balanced:
            weights = balanced_weights(y, num_classes)[..., None].to(x)
            weighted, targets = x * weights, targets * weights
        self.center = weighted.mean(1, keepdim=True)  # (P, 1, D)
        self.share = targets.mean(1, keepdim=True)  # (P, 1, C)
        moment = torch.bmm(weighted.mT, x).div_(n) - self.center.mT * self.center  # (P, D, D)
        cross = torch.bmm(x.mT, targets).div_(n) - self.center.mT * self.share  # (P, D, C)
        values, self.vectors = torch.linalg.eigh(moment)
        self.values = values.clamp_(min=0)[:, :, None]
        self.rotated = self.vectors.mT @ cross

    def solve(self, l2: float) -> tuple[Tensor, Tensor]:
        """Weights (P, D, C) and biases (P, C)."""
        weight = self.vectors @ (self.rotated / (self.values + l2))
        return weight, (self.share - self.center @ weight)[:, 0]


def fit_ridge(draws: Draws, options: ProbeOptions) -> FittedHeads:
    """Choose the penalty on the validation part, then solve for all rows, standardized both."""
    choice = fixed_l2(options, draws.num_held, FALLBACK_L2) or _search(draws, options)
    weight, bias = RidgeSystem(draws.x, draws.y, draws.num_classes, options.balanced).solve(
        choice.value
    )
    return FittedHeads(weight, bias, choice.per_head("l2", len(weight)))


def _search(draws: Draws, options: ProbeOptions) -> Choice:
    """The penalty of the highest accuracy on the validation part."""
    fit = slice(draws.num_fit)
    system = RidgeSystem(draws.x[:, fit], draws.y[:, fit], draws.num_classes, options.balanced)
    tried = {}
    for l2 in options.listed or GRID:
        weight, bias = system.solve(l2)
        tried[l2] = draws.accuracies(torch.baddbmm(bias[:, None], draws.held_x, weight))
    best = max(tried, key=lambda l2: sum(tried[l2]))  # the strongest of equals
    return Choice(best, "validation part", tried)
