"""Contrastive Attraction and Contrastive Repulsion (CACR) losses."""

from typing import TYPE_CHECKING

from bcl.core.lazy import lazy_names

if TYPE_CHECKING:
    from cacr.functional import CACRSettings as CACRSettings
    from cacr.functional import CACRTerms as CACRTerms
    from cacr.functional import cacr_terms as cacr_terms
    from cacr.loss import CACRLoss as CACRLoss
    from cacr.method import CACR as CACR
    from cacr.queue import MomentumQueue as MomentumQueue
    from cacr.queue import momentum_update as momentum_update

_HOMES = {
    "CACR": "cacr.method",
    "CACRLoss": "cacr.loss",
    "CACRSettings": "cacr.functional",
    "CACRTerms": "cacr.functional",
    "MomentumQueue": "cacr.queue",
    "cacr_terms": "cacr.functional",
    "momentum_update": "cacr.queue",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    """The public names, for tab completion and ``help``."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
