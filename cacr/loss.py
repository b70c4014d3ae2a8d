"""CACR as a module."""

from typing import Any

from torch import Tensor, nn

from bcl.core.checks import check_positive
from bcl.core.errors import unknown_name
from bcl.losses.nt_xent import Reduction
from cacr.functional import Constant, Cost, Weights, cacr_terms, check_settings

# Settings of the paper's experiments, as released. MoCo v3 works on cosines over a temperature T,
# 1 by default: c = 2 - 2 cos, so its RBF form has s = 1 / (2 T).
PAPER: dict[str, dict[str, Any]] = {
    "cifar10": {"repulsion_temperature": 0.9},
    "cifar100": {"repulsion_temperature": 2.0},
    "stl10": {"repulsion_temperature": 2.0},
    "imagenet-moco": {"repulsion_temperature": 2.0, "constant_weights": "queue"},
    "imagenet-mocov3": {"cost": "rbf", "rbf_scale": 0.5, "constant_weights": "all"},
}


class CACRLoss(nn.Module):
    r"""Weighted sum of CACR's attraction and repulsion.

    .. math:: L = \alpha\,\text{attraction} + \beta\,\text{repulsion}

    The formulas, the three forms (views alone, with a queue, with a momentum teacher) and the
    behavior across ranks are those of `cacr.cacr_terms`.

    Args:
        attraction_temperature: :math:`t^+ \ge 0`.
        repulsion_temperature: :math:`t^- \ge 0`.
        cost: ``"euclidean"`` or ``"rbf"``.
        rbf_scale: s > 0.
        attraction: ``"conditional"`` or ``"uniform"`` weights.
        repulsion: likewise.
        debias: :math:`\tau^+` in [0, 1).
        normalize: False takes rows of length one as they are.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (one loss a sample).
        chunk_size: rows of a block; 0 for the dense form; None for a choice by size.
        attraction_weight: :math:`\alpha \ge 0`.
        repulsion_weight: :math:`\beta \ge 0`.
        gather: compare with the samples of all ranks of the process group, if there is one.
        both_directions: queries from both views of a pair.
        constant_weights: ``"none"``, ``"queue"`` or ``"all"``.
        validate: look for values that are not finite at every call.

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

    def __init__(
        self,
        attraction_temperature: float = 1.0,
        repulsion_temperature: float = 2.0,
        cost: Cost = "euclidean",
        rbf_scale: float = 2.0,
        attraction: Weights = "conditional",
        repulsion: Weights = "conditional",
        debias: float = 0.0,
        normalize: bool = True,
        reduction: Reduction = "mean",
        chunk_size: int | None = None,
        attraction_weight: float = 1.0,
        repulsion_weight: float = 1.0,
        gather: bool = True,
        *,
        both_directions: bool = False,
        constant_weights: Constant = "none",
        validate: bool = False,
    ) -> None:
        super().__init__()
        check_settings(
            attraction_temperature, repulsion_temperature, cost, rbf_scale, attraction, repulsion,
            debias, constant_weights, reduction, chunk_size,
        )  # fmt: skip
        check_positive("attraction_weight", attraction_weight, zero=True)
        check_positive("repulsion_weight", repulsion_weight, zero=True)
        self.attraction_temperature = attraction_temperature
        self.repulsion_temperature = repulsion_temperature
        self.cost: Cost = cost
        self.rbf_scale = rbf_scale
        self.attraction: Weights = attraction
        self.repulsion: Weights = repulsion
        self.debias = debias
        self.normalize = normalize
        self.reduction: Reduction = reduction
        self.chunk_size = chunk_size
        self.attraction_weight = attraction_weight
        self.repulsion_weight = repulsion_weight
        self.gather = gather
        self.both_directions = both_directions
        self.constant_weights: Constant = constant_weights
        self.validate = validate

    @classmethod
    def paper(cls, name: str, **changes: Any) -> "CACRLoss":
        """Build the loss with the settings of one of the paper's experiments, as released.

        Args:
            name: ``"cifar10"``, ``"cifar100"``, ``"stl10"`` (views alone), ``"imagenet-moco"``
                (call it with a queue and keys) or ``"imagenet-mocov3"`` (call it with keys; RBF
                cost at temperature T = 1).
            changes: arguments of the class that differ.

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
        views: Tensor,
        negatives: Tensor | None = None,
        keys: Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            views: (V, B, D) features, not normalized.
            negatives: (Q, D) a queue, or None.
            keys: momentum features of the same samples, or None.
            reduction: instead of the module's for this call.

        Returns:
            () or (B,).
        """
        terms = cacr_terms(
            views,
            negatives,
            keys=keys,
            attraction_temperature=self.attraction_temperature,
            repulsion_temperature=self.repulsion_temperature,
            cost=self.cost,
            rbf_scale=self.rbf_scale,
            attraction=self.attraction,
            repulsion=self.repulsion,
            debias=self.debias,
            both_directions=self.both_directions,
            constant_weights=self.constant_weights,
            normalize=self.normalize,
            reduction=reduction or self.reduction,
            gather=self.gather,
            chunk_size=self.chunk_size,
            validate=self.validate,
        )
        return self.attraction_weight * terms.attraction + self.repulsion_weight * terms.repulsion

    def extra_repr(self) -> str:
        """Describe the loss in a model's print-out."""
        return (
            f"attraction_temperature={self.attraction_temperature}, "
            f"repulsion_temperature={self.repulsion_temperature}, cost='{self.cost}', "
            f"reduction='{self.reduction}', gather={self.gather}"
        )
