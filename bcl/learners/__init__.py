"""Lightning modules: an encoder, a projector, views, a per-sample loss and a tracker, composed."""

from bcl.learners.boosted import BCL
from bcl.learners.loggers import LogHistory, run_loggers
from bcl.learners.online import OnlineProbe
from bcl.learners.schedule import warmup_cosine
from bcl.learners.sdclr import SDCLR
from bcl.learners.simclr import SimCLR
from bcl.learners.tracking import HistoryWriter

__all__ = [
    "BCL",
    "SDCLR",
    "HistoryWriter",
    "LogHistory",
    "OnlineProbe",
    "SimCLR",
    "run_loggers",
    "warmup_cosine",
]
