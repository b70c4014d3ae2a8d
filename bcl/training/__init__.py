"""A run: trainer, checkpoints, record, loggers, progress and the online probe."""

from bcl.training.history import HistoryWriter as HistoryWriter
from bcl.training.loggers import LogHistory as LogHistory
from bcl.training.loggers import run_loggers as run_loggers
from bcl.training.online_probe import OnlineProbe as OnlineProbe
