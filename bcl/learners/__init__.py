"""Lightning modules: an encoder, a projector, views, a per-sample loss and a tracker, composed."""

from bcl.learners.boosted import BCL
from bcl.learners.schedule import warmup_cosine
from bcl.learners.sdclr import SDCLR
from bcl.learners.simclr import SimCLR

__all__ = ["BCL", "SDCLR", "SimCLR", "warmup_cosine"]
