"""Contrastive Attraction and Contrastive Repulsion (CACR) losses."""

from typing import TYPE_CHECKING

from bcl._lazy import lazy_names

if TYPE_CHECKING:
    from cacr.functional import cacr_terms as cacr_terms
    from cacr.loss import CACRLoss as CACRLoss

_HOMES = {
    "CACRLoss": "cacr.loss",
    "cacr_terms": "cacr.functional",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
