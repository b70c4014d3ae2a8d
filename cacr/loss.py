"""CACR as a module."""

from torch import Tensor, nn

from bcl.functional import Reduction
from cacr.functional import Cost, Weights, cacr_terms


class CACRLoss(nn.Module):
    """CACR as a module; see `cacr.cacr_terms`."""

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
    ) -> None:
        super().__init__()
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

    def forward(
        self,
        views: Tensor,
        negatives: Tensor | None = None,
        keys: Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> Tensor:
        """Compute the loss of (V, B, D) views."""
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
            normalize=self.normalize,
            reduction=reduction or self.reduction,
            gather=self.gather,
            chunk_size=self.chunk_size,
        )
        return self.attraction_weight * terms.attraction + self.repulsion_weight * terms.repulsion
