"""Boosted Contrastive Learning: SimCLR whose views follow the memorization score."""

from bcl.augment import BoostedRandAugment, ContrastiveViews
from bcl.core.errors import InputError
from bcl.methods.simclr import SimCLR


class BCL(SimCLR):
    r"""BCL-I: the less the model has memorized a sample, the stronger its augmentation.

    .. math:: \Psi(x_i; M_i) = a_1 \circ \dots \circ a_k (x_i), \qquad
        a_j(x) = A_j(x; \text{magnitude}(M_i)) \text{ with probability } M_i

    after the usual views. This is `bcl.SimCLR`, with the same arguments and any per-sample loss,
    whose views must have a ``boost``; by default they have the released scheme of BCL-I.

    Source: BCL (arXiv 2205.12693), equations 3 to 5.

    Example:
        >>> BCL("resnet8", views=16).views.boost is not None
        True
    """

    def build_views(self, views: ContrastiveViews | int) -> ContrastiveViews:
        """Return boosted views; refuse others."""
        if isinstance(views, int):
            return ContrastiveViews(views, boost=BoostedRandAugment())
        if views.boost is None:
            raise InputError(
                "BCL needs views with a boost; pass "
                "views=ContrastiveViews(size, boost=BoostedRandAugment()), or train SimCLR."
            )
        return views
