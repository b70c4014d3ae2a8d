"""Boosted Contrastive Learning: self-supervised learning on long-tailed data.

Importing this package loads torch alone; names that need more are loaded when first used.
"""

from typing import TYPE_CHECKING

from bcl._lazy import lazy_names

if TYPE_CHECKING:
    from bcl.augment import BoostedRandAugment as BoostedRandAugment
    from bcl.augment import ContrastiveViews as ContrastiveViews
    from bcl.encoders import Projector as Projector
    from bcl.encoders import SmallAlexNet as SmallAlexNet
    from bcl.encoders import create_encoder as create_encoder
    from bcl.errors import InputError as InputError
    from bcl.evaluation import ProbeReport as ProbeReport
    from bcl.evaluation import ProbeResult as ProbeResult
    from bcl.evaluation import evaluate as evaluate
    from bcl.evaluation import fit_linear_probe as fit_linear_probe
    from bcl.exported import load_encoder as load_encoder
    from bcl.functional import nt_xent as nt_xent
    from bcl.history import TrackerHistory as TrackerHistory
    from bcl.learners import BCL as BCL
    from bcl.learners import SDCLR as SDCLR
    from bcl.learners import OnlineProbe as OnlineProbe
    from bcl.learners import SimCLR as SimCLR
    from bcl.losses import NTXentLoss as NTXentLoss
    from bcl.memorization import MemorizationTracker as MemorizationTracker
    from bcl.shots import shot_groups as shot_groups

__version__ = "0.1.0"

_HOMES = {
    "BCL": "bcl.learners",
    "BoostedRandAugment": "bcl.augment",
    "ContrastiveViews": "bcl.augment",
    "InputError": "bcl.errors",
    "MemorizationTracker": "bcl.memorization",
    "NTXentLoss": "bcl.losses",
    "OnlineProbe": "bcl.learners",
    "ProbeReport": "bcl.evaluation",
    "ProbeResult": "bcl.evaluation",
    "Projector": "bcl.encoders",
    "SDCLR": "bcl.learners",
    "SimCLR": "bcl.learners",
    "SmallAlexNet": "bcl.encoders",
    "TrackerHistory": "bcl.history",
    "create_encoder": "bcl.encoders",
    "evaluate": "bcl.evaluation",
    "fit_linear_probe": "bcl.evaluation",
    "load_encoder": "bcl.exported",
    "nt_xent": "bcl.functional",
    "shot_groups": "bcl.shots",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
