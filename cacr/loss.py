"""CACR as a module."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bcl.core.checks import TensorLike, check_positive
from bcl.core.errors import unknown_name
from cacr.functional import CACRSettings, cacr_terms

# Settings of the paper's experiments, as released. MoCo v3 works on cosines over a temperature T,
# 1 by default: c = 2 - 2 cos, so its RBF form has s = 1 / (2 T).
PAPER: dict[str, dict[str, Any]] = {
    "cifar10": {"repulsion_temperature": 0.9},
    "cifar100": {"repulsion_temperature": 2.0},
    "stl10": {"repulsion_temperature": 2.0},
    "imagenet-moco": {"repulsion_temperature": 2.0, "constant_weights": "queue"},
    "imagenet-mocov3": {"cost": "rbf", "rbf_scale": 0.5, "constant_weights": "all"},
}


@dataclass(eq=False)
class CACRLoss(CACRSettings, nn.Module):
    r"""Weighted sum of CACR's attraction and repulsion.

    .. math:: L = \alpha\,\text{attraction} + \beta\,\text{repulsion}

    `cacr.cacr_terms` describes the formulas, the three forms (views alone, with a queue, with a
    momentum teacher) and the behavior across ranks; `cacr.CACRSettings` describes all other
    arguments.

    Args:
        attraction_weight: :math:`\alpha \ge 0`.
        repulsion_weight: :math:`\beta \ge 0`.

    Raises:
        InputError: an argument out of its range.

    Source: CACR (arXiv 2105.03746).

    Example:
        >>> import torch
        >>> z = torch.eye(3).expand(2, 3, 3)  # positives coincide, negatives are orthogonal
        >>> CACRLoss()(z)
        tensor(-2.)
        >>> CACRLoss.paper("cifar10", reduction="none")(z).shape
        torch.Size([3])
    """

    attraction_weight: float = 1.0
    repulsion_weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the weights, and set up the module."""
        nn.Module.__init__(self)
        super().__post_init__()
        check_positive("attraction_weight", self.attraction_weight, zero=True)
        check_positive("repulsion_weight", self.repulsion_weight, zero=True)

    @classmethod
    def paper(cls, name: str, **changes: Any) -> "CACRLoss":
        """Build the loss with the settings of one of the paper's experiments, as released.

        Args:
            name: ``"cifar10"``, ``"cifar100"``, ``"stl10"`` (views alone), ``"imagenet-moco"``
                (call it with a queue and keys) or ``"imagenet-mocov3"`` (call it with keys; RBF
                cost at temperature T = 1).
            changes: arguments that override these settings.

        Returns:
            The loss.

        Raises:
            InputError: unknown name.
        """
        if name not in PAPER:
            raise unknown_name("experiment", name, PAPER)
        return cls(**{**PAPER[name], **changes})

    def forward(
        self,
        views: TensorLike,
        negatives: TensorLike | None = None,
        keys: TensorLike | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            views: (V, B, D) features, of any length.
            negatives: (Q, D) keys of a queue, or None.
            keys: momentum features of the same samples, or None.

        Returns:
            () or (B,).
        """
        attraction, repulsion = cacr_terms(views, negatives, keys=keys, settings=self)
        return self.attraction_weight * attraction + self.repulsion_weight * repulsion
