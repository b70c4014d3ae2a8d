"""Contrastive losses as modules."""

from torch import Tensor, nn

from bcl.functional import Negatives, Reduction, check_settings, nt_xent_views


class NTXentLoss(nn.Module):
    """NT-Xent as a module; the formula and its behaviour across ranks are those of `bcl.nt_xent`.

    Args:
        temperature: above 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (one loss a sample).
        gather: compare with the samples of all ranks of the process group, if there is one.
        chunk_size: rows of a block; 0 for the dense form; None for a choice by size.
        symmetric: False counts the rows of ``views[0]`` alone.
        negatives: ``"all"`` or ``"keys"``.
        focal: exponent of the focal variant; 0 or at least 1.
        normalize: False takes rows of length one as they are.
        validate: look for values that are not finite at every call.

    Raises:
        InputError: an argument out of its range.

    Example:
        >>> import torch
        >>> loss = NTXentLoss(temperature=1.0)
        >>> loss(torch.eye(3).expand(2, 3, 3))
        tensor(0.9048)
        >>> loss(torch.eye(3).expand(2, 3, 3), reduction="none").shape
        torch.Size([3])
    """

    def __init__(
        self,
        temperature: float = 0.2,
        reduction: Reduction = "mean",
        gather: bool = True,
        chunk_size: int | None = None,
        *,
        symmetric: bool = True,
        negatives: Negatives = "all",
        focal: float = 0.0,
        normalize: bool = True,
        validate: bool = False,
    ) -> None:
        super().__init__()
        check_settings(temperature, reduction, negatives, focal, chunk_size)
        self.temperature = temperature
        self.reduction: Reduction = reduction
        self.gather = gather
        self.chunk_size = chunk_size
        self.symmetric = symmetric
        self.negatives: Negatives = negatives
        self.focal = focal
        self.normalize = normalize
        self.validate = validate

    def forward(
        self,
        views: Tensor,
        temperature: float | Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            views: (2, B, D) features, not normalised.
            temperature: a number, () or (B,), instead of the module's for this call (schedules).
            reduction: instead of the module's for this call.

        Returns:
            () or (B,).
        """
        return nt_xent_views(
            views,
            self.temperature if temperature is None else temperature,
            reduction=reduction or self.reduction,
            symmetric=self.symmetric,
            negatives=self.negatives,
            focal=self.focal,
            normalize=self.normalize,
            gather=self.gather,
            chunk_size=self.chunk_size,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Describe the loss in a model's print-out."""
        return f"temperature={self.temperature}, reduction='{self.reduction}', gather={self.gather}"
