"""COLT's second term: images of one collection attract each other."""

from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.checks import TensorLike, as_ids, as_tensor, check_positive
from bcl.core.distributed import sum_over_ranks
from bcl.losses.context import AroundLoss, call_loss
from bcl.losses.nt_xent import as_two_views, counts_of, cross_entropy, reduce_samples
from bcl.losses.precision import full_precision, unit_rows


class DomainLoss(AroundLoss):
    r"""Add to a loss that images of the training set, and external ones, attract their own kind.

    With the unit rows u of both views of the batch, :math:`D(u)` the other rows of the same
    domain (training set or external), and :math:`s = u \cdot u'`,

    .. math:: \ell_i = \text{loss}_i + \alpha \operatorname{mean}_{v}
        \frac{1}{|D(u_{vi})|} \sum_{u' \in D(u_{vi})}
        -\log \frac{\exp(s / \tau)}{\sum_{u'' \ne u_{vi}} \exp(u_{vi} \cdot u'' / \tau)}

    with NT-Xent's denominator, over all rows. The sum over s needs only the sum of the rows of a
    domain, so the cost beside NT-Xent's is small. A batch of one domain has no second term. With a
    process group the rows are those of all ranks.

    Args:
        loss: any loss of (2, B, D) features, whose reduction and gathering hold here too.
        weight: :math:`\alpha \ge 0`; COLT has 0.2 on CIFAR, 0.01 on ImageNet-100 and Places.
        temperature: :math:`\tau` of the second term.

    Raises:
        InputError: a number out of its range, or another number of views.

    Source: COLT (arXiv 2306.04934), as its released code has it. In the paper's formula the
    denominator has the rows of the other domain alone.

    Example:
        >>> from bcl import NTXentLoss
        >>> views = torch.eye(3).expand(2, 3, 3)
        >>> loss_of = DomainLoss(NTXentLoss(temperature=1.0), weight=1.0, temperature=1.0)
        >>> loss_of(views, ids=torch.tensor([7, 2, -1]))  # the last one is external
        tensor(2.2541)
    """

    def __init__(self, loss: nn.Module, weight: float = 0.2, temperature: float = 0.2) -> None:
        super().__init__(loss)
        check_positive("weight", weight, zero=True)
        check_positive("temperature", temperature)
        self.weight, self.temperature = weight, temperature

    def forward(
        self,
        views: TensorLike,
        *more: Any,
        ids: TensorLike | None = None,
        epoch: float | None = None,
        epochs: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Compute the loss.

        Args:
            views: (2, B, D) features, of any length.
            more: further arguments of the inner loss.
            ids: (B,) sample ids, -1 of external images; without them all are of one domain.
            epoch: epochs done, for the inner loss.
            epochs: epochs of the run, for the inner loss.
            options: further arguments of the inner loss.

        Returns:
            What the inner loss returns, () or (B,).
        """
        views = as_tensor("views", views)
        ids = None if ids is None else as_tensor("ids", ids)
        loss = call_loss(self.loss, views, *more, ids=ids, epoch=epoch, epochs=epochs, **options)
        if ids is None:
            return loss
        views = as_two_views(views)
        ids = as_ids(ids, views.shape[1]).to(views.device)
        counts = counts_of(views, self.gather)
        with full_precision(views):
            u = unit_rows(views)
            extra = cross_entropy(u, self.temperature, counts)  # (2, B), with the positive alone
            positive = torch.linalg.vecdot(u[0], u[1])
            extra = (
                extra + (positive - self._within(u, ids < 0, len(counts) > 1)) / self.temperature
            )
            both = self._sizes(ids < 0, len(counts) > 1).all()
            extra = torch.where(both, extra, 0.0)
            return loss + self.weight * reduce_samples(extra, self.reduction, counts)

    def _sizes(self, external: Tensor, gather: bool) -> Tensor:
        """(2,) samples of each domain, of all ranks."""
        sizes = torch.stack([~external, external]).sum(1)
        return sum_over_ranks(sizes) if gather else sizes

    def _within(self, u: Tensor, external: Tensor, gather: bool) -> Tensor:
        """(2, B) mean cosine of each row with the others of its domain."""
        member = torch.stack([~external, external]).to(u)  # (2 domains, B)
        sums = member @ u.sum(0)  # (2 domains, D)
        sums = sum_over_ranks(sums) if gather else sums
        others = 2 * self._sizes(external, gather) - 1
        domain = external.long()
        total: Tensor = torch.linalg.vecdot(u, sums[domain]) - torch.linalg.vecdot(u, u)
        return total / others[domain]

    def extra_repr(self) -> str:
        """Describe the loss when a model is printed."""
        return f"weight={self.weight}, temperature={self.temperature}"
