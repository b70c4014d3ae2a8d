"""Boosted Contrastive Learning: self-supervised learning on long-tailed data.

Importing this package loads torch alone; names that need more are loaded when first used.
"""

from typing import TYPE_CHECKING

from bcl.core.lazy import lazy_names

if TYPE_CHECKING:
    from bcl.augment import BoostedRandAugment as BoostedRandAugment
    from bcl.augment import ContrastiveViews as ContrastiveViews
    from bcl.core.errors import InputError as InputError
    from bcl.discovery import discover as discover
    from bcl.discovery import embed as embed
    from bcl.evaluation import ProbeReport as ProbeReport
    from bcl.evaluation import ProbeResult as ProbeResult
    from bcl.evaluation import evaluate as evaluate
    from bcl.evaluation import fit_linear_probe as fit_linear_probe
    from bcl.evaluation import shot_groups as shot_groups
    from bcl.evaluation import tail_discovery as tail_discovery
    from bcl.losses import CosineSchedule as CosineSchedule
    from bcl.losses import DomainLoss as DomainLoss
    from bcl.losses import GeometricHarmonization as GeometricHarmonization
    from bcl.losses import MACLLoss as MACLLoss
    from bcl.losses import NTXentLoss as NTXentLoss
    from bcl.losses import SimilarityTemperature as SimilarityTemperature
    from bcl.losses import SogCLRLoss as SogCLRLoss
    from bcl.losses import contrastive_signals as contrastive_signals
    from bcl.losses import macl_loss as macl_loss
    from bcl.losses import nt_xent as nt_xent
    from bcl.losses import sam_ascent as sam_ascent
    from bcl.losses import signal_weights as signal_weights
    from bcl.losses import simplex_etf as simplex_etf
    from bcl.losses import sinkhorn as sinkhorn
    from bcl.memorization import MemorizationTracker as MemorizationTracker
    from bcl.memorization import TrackerHistory as TrackerHistory
    from bcl.methods import BCL as BCL
    from bcl.methods import SDCLR as SDCLR
    from bcl.methods import SimCLR as SimCLR
    from bcl.models import Projector as Projector
    from bcl.models import SmallAlexNet as SmallAlexNet
    from bcl.models import create_encoder as create_encoder
    from bcl.models import load_encoder as load_encoder
    from bcl.training import OnlineProbe as OnlineProbe

__version__ = "0.2.0.dev0"

_HOMES = {
    "BCL": "bcl.methods",
    "BoostedRandAugment": "bcl.augment",
    "ContrastiveViews": "bcl.augment",
    "CosineSchedule": "bcl.losses",
    "DomainLoss": "bcl.losses",
    "GeometricHarmonization": "bcl.losses",
    "InputError": "bcl.core.errors",
    "MACLLoss": "bcl.losses",
    "MemorizationTracker": "bcl.memorization",
    "NTXentLoss": "bcl.losses",
    "OnlineProbe": "bcl.training",
    "ProbeReport": "bcl.evaluation",
    "ProbeResult": "bcl.evaluation",
    "Projector": "bcl.models",
    "SDCLR": "bcl.methods",
    "SimCLR": "bcl.methods",
    "SimilarityTemperature": "bcl.losses",
    "SmallAlexNet": "bcl.models",
    "SogCLRLoss": "bcl.losses",
    "TrackerHistory": "bcl.memorization",
    "contrastive_signals": "bcl.losses",
    "create_encoder": "bcl.models",
    "discover": "bcl.discovery",
    "embed": "bcl.discovery",
    "evaluate": "bcl.evaluation",
    "fit_linear_probe": "bcl.evaluation",
    "load_encoder": "bcl.models",
    "macl_loss": "bcl.losses",
    "nt_xent": "bcl.losses",
    "sam_ascent": "bcl.losses",
    "shot_groups": "bcl.evaluation",
    "signal_weights": "bcl.losses",
    "simplex_etf": "bcl.losses",
    "sinkhorn": "bcl.losses",
    "tail_discovery": "bcl.evaluation",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    """The public names, for tab completion and ``help``."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
