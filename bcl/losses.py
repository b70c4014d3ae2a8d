"""Contrastive losses as modules."""

from torch import Tensor, nn

from bcl.errors import InputError
from bcl.functional import Reduction, nt_xent


class NTXentLoss(nn.Module):
    """NT-Xent as a module; see `bcl.nt_xent`."""

    def __init__(
        self,
        temperature: float = 0.2,
        reduction: Reduction = "mean",
        gather: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.reduction: Reduction = reduction
        self.gather = gather
        self.chunk_size = chunk_size

    def forward(
        self,
        views: Tensor,
        temperature: float | Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> Tensor:
        """Compute the loss of (2, B, D) views, not normalised."""
        if views.ndim != 3 or views.shape[0] != 2:
            raise InputError(f"views must be of shape (2, B, D), got {tuple(views.shape)}.")
        return nt_xent(
            views[0],
            views[1],
            self.temperature if temperature is None else temperature,
            reduction=reduction or self.reduction,
            gather=self.gather,
            chunk_size=self.chunk_size,
        )
