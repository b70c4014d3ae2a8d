"""Encoders, projectors, pruning, exported and released encoders."""

from typing import TYPE_CHECKING

from bcl.core.lazy import lazy_names
from bcl.models.encoders import create_encoder as create_encoder
from bcl.models.projector import Projector as Projector
from bcl.models.small import SmallAlexNet as SmallAlexNet

if TYPE_CHECKING:
    from bcl.models.exported import load_encoder as load_encoder

__getattr__ = lazy_names(__name__, {"load_encoder": "bcl.models.exported"})  # which loads timm
