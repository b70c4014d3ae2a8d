"""A run: trainer, checkpoints, record, loggers, progress, and what is measured beside it."""

from bcl.training.feature_signals import FeatureSignals as FeatureSignals
from bcl.training.fit import make_trainer as make_trainer
from bcl.training.history import HistoryWriter as HistoryWriter
from bcl.training.loggers import LogHistory as LogHistory
from bcl.training.online_probe import OnlineProbe as OnlineProbe
from bcl.training.record import RunRecorder as RunRecorder
from bcl.training.selection import Selection as Selection
from bcl.training.watch import FeatureWatch as FeatureWatch
