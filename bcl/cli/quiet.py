"""Lightning without its notes on devices, loaders and products."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning.fabric", "lightning.pytorch")


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's information lines, and warnings about its own insides, for a while."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    loggers += [logging.getLogger(f"{name}.utilities.rank_zero") for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # The loss on the bar is rank 0's; the record holds the mean over the ranks.
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        # Loggers get a row an epoch, whatever the interval of steps.
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
