"""Ending a run on a signal: between two steps, on all ranks, after a checkpoint."""

import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback

SIGNALS = (signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGUSR1", None)]))


class StopOnSignal(Callback):
    """End training after the step in which a rank got SIGTERM, SIGUSR1 or SIGINT.

    The handlers only set a flag, which the ranks compare after each optimizer step. Lightning's own
    starts a collective wherever the signal finds a rank: if the others are in another one, all of
    them wait forever. A second SIGINT interrupts at once.
    """

    def __init__(self) -> None:
        self.received = 0
        self.stopped: signal.Signals | None = None  # what ended the run
        self._former: dict[signal.Signals, Any] = {}  # handlers
        self._group: Any = None
        self._step = 0

    def setup(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        """Keep Lightning from setting its handlers, which would also requeue a job of SLURM."""
        # No public door: plugins turn off the requeueing, but not the handlers.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_fit_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Set the handlers, and make a group that asks no GPU to wait."""
        if trainer.world_size > 1 and dist.get_backend() != "gloo":
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.getsignal(number) for number in SIGNALS}
            for number in SIGNALS:
                signal.signal(number, self._note)

    def restore(self) -> None:
        """Set the handlers that were there before."""
        while self._former:
            number, handler = self._former.popitem()
            signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start counting steps."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop if any rank was asked to; `Checkpoints`, called later, saves."""
        if trainer.global_step == self._step:  # between optimizer steps no state is exact
            return
        self._step = trainer.global_step
        number = torch.tensor(self.received)
        if trainer.world_size > 1:
            dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group)
        if number:
            self.stopped = signal.Signals(int(number))
            trainer.should_stop = True
