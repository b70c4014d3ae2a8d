"""Boosted Contrastive Learning: SimCLR whose views follow the memorization score."""

from typing import Any

from bcl.augment import BoostedRandAugment, ContrastiveViews
from bcl.core.errors import InputError
from bcl.methods.simclr import SimCLR


class BCL(SimCLR):
    r"""BCL-I: each sample's augmentation is as strong as the model has not memorized it.

    .. math:: \Psi(x_i; M_i) = a_1 \circ \dots \circ a_k (x_i), \qquad
        a_j(x) = A_j(x; \text{magnitude}(M_i)) \text{ with probability } M_i

    after the usual views. It is `SimCLR` with a boost in its views, and goes with any loss that
    returns one value per sample.

    Args:
        arguments: those of `SimCLR`; ``views`` must have a ``boost``, and by default has the
            released BCL-I rule.

    Raises:
        InputError: views without a boost.

    Source: BCL (arXiv 2205.12693), equations 3 to 5.

    Example:
        >>> BCL("resnet8", image_size=16).views.boost is not None
        True
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.views.boost is None:
            raise InputError(
                "BCL needs views with a boost; pass "
                "views=ContrastiveViews(size, boost=BoostedRandAugment()), or train SimCLR."
            )

    def default_views(self, image_size: int) -> ContrastiveViews:
        """Build boosted views for the given image size."""
        return ContrastiveViews(image_size, boost=BoostedRandAugment())
