"""Encoders, projectors, pruning, exported and released encoders."""

from bcl.models.encoders import create_encoder as create_encoder
from bcl.models.exported import load_encoder as load_encoder
from bcl.models.projector import Projector as Projector
from bcl.models.small import SmallAlexNet as SmallAlexNet
