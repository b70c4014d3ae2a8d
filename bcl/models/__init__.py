"""Encoders, projectors, pruning, exported and released encoders."""

from bcl.models.encoders import Projector as Projector
from bcl.models.encoders import SmallAlexNet as SmallAlexNet
from bcl.models.encoders import create_encoder as create_encoder
from bcl.models.exported import load_encoder as load_encoder
