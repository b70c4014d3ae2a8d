"""When a run is saved, and what else than the model a resume needs."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch import Tensor

from bcl.core.errors import InputError
from bcl.training.checkpoints import is_damaged, keep_as


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether a file's folder is this one, however both are written.

    Example:
        >>> lies_in("run/../run/last.ckpt", "run")
        True
    """
    return Path(path).resolve().parent == Path(folder).resolve()


def is_last_epoch(trainer: pl.Trainer) -> bool:
    """Whether training ends with the running epoch: by epochs, by steps, or because it was asked.

    Args:
        trainer: at the end of an epoch.
    """
    by_epochs = trainer.current_epoch + 1 == trainer.max_epochs
    by_steps = 0 <= trainer.max_steps <= trainer.global_step  # -1: no limit
    return by_epochs or by_steps or trainer.should_stop


def is_cut(trainer: pl.Trainer) -> bool:
    """Whether training was asked to stop, as by ``max_time``, in the middle of an epoch.

    Lightning ends such an epoch as if it were whole; resumed from there, it would lose its rest.

    Args:
        trainer: at the end of a batch or of an epoch.
    """
    return bool(trainer.should_stop) and not trainer.is_last_batch


class Checkpoints(Checkpoint):
    """Save ``last.ckpt`` every n epochs, and every n steps or minutes within them.

    The checkpoint before stays beside it as ``previous.ckpt`` (see
    `bcl.training.checkpoints.AtomicCheckpointIO`).

    Args:
        folder: where checkpoints go.
        every_n_epochs: epochs between checkpoints; the last epoch is always saved.
        every_n_steps: optimizer steps between checkpoints, if any.
        every_minutes: minutes between checkpoints, if any.

    Raises:
        InputError: an interval that is not positive.
    """

    def __init__(
        self,
        folder: str | Path,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
    ) -> None:
        intervals = {"epochs": every_n_epochs, "steps": every_n_steps, "minutes": every_minutes}
        for unit, value in intervals.items():
            if value is not None and value <= 0:
                raise InputError(f"{unit} between checkpoints must be positive, got {value!r}.")
        self.path = Path(folder) / "last.ckpt"
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self._step = 0
        self._time = time.monotonic()
        self._resumed: Path | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make sure that all ranks go on from the same place.

        Raises:
            InputError: some ranks see a checkpoint and some do not.
        """
        if trainer.world_size == 1:
            return
        found: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(found, trainer.ckpt_path is not None)
        if len(set(found)) > 1:
            raise InputError(
                f"ranks {[rank for rank, seen in enumerate(found) if not seen]} see no checkpoint "
                f"in {self.path.parent}, the others do; put the run's folder on a file system that "
                "all nodes share (--trainer.default_root_dir)."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from here; a run removes the checkpoints of another one that it replaces."""
        self._resumed = None if trainer.ckpt_path is None else Path(trainer.ckpt_path)
        if trainer.is_global_zero:
            for left in self.path.parent.glob(f".*{self.path.name}*"):  # by a killed writer
                left.unlink(missing_ok=True)
            self._mend()
        own = self._resumed is not None and lies_in(self._resumed, self.path.parent)
        if not own and trainer.is_global_zero:
            # Interrupted before its first checkpoint, it must not be resumed from the old run's.
            for name in ("last.ckpt", "previous.ckpt"):
                self.path.with_name(name).unlink(missing_ok=True)
        self._step = trainer.global_step
        self._time = time.monotonic()

    def _mend(self) -> None:
        """Put the checkpoint that is resumed in the place of a damaged ``last.ckpt``.

        The next save would else move the damaged file over ``previous.ckpt``, the only whole one.
        """
        previous = self.path.with_name("previous.ckpt")
        if self._resumed is None or self._resumed.absolute() != previous.absolute():
            return
        if self.path.exists() and is_damaged(self.path):
            keep_as(previous, self.path)

    def _save(self, trainer: pl.Trainer) -> None:
        self._refuse_broken(trainer)
        trainer.save_checkpoint(self.path)
        self._step = trainer.global_step
        self._time = time.monotonic()

    def last_good(self) -> str:
        """Name the newest checkpoint, in a sentence; nothing that was refused is in it."""
        if self.path.exists():
            return f"The last good checkpoint is {self.path}."
        if self._resumed is not None:
            return f"The last good checkpoint is {self._resumed}, which the run went on from."
        return "There is no checkpoint yet."

    def _refuse_broken(self, trainer: pl.Trainer) -> None:
        """A finite loss can have a gradient that is not: its step must not enter a checkpoint."""
        named = dict(trainer.lightning_module.named_parameters())
        sound = [value.isfinite().all() for value in named.values()]
        if not sound or bool(torch.stack(sound).all()):
            return
        bad = [name for name, fine in zip(named, sound, strict=True) if not bool(fine)]
        raise InputError(
            f"step {trainer.global_step - 1} made {len(bad)} of {len(named)} weights not finite "
            f"(first: '{bad[0]}'); they were not saved. Lower the learning rate, or clip the "
            f"gradient with --trainer.gradient_clip_val. {self.last_good()}"
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Save within an epoch, between two optimizer steps."""
        # After the last batch the epoch has yet to be ended (scores, history): see below.
        if trainer.is_last_batch or trainer.fit_loop._should_accumulate():
            return
        steps = trainer.global_step - self._step
        if not steps:
            return
        due = is_cut(trainer) or (self.every_n_steps is not None and steps >= self.every_n_steps)
        if not due and self.every_minutes is not None:
            late = time.monotonic() - self._time >= 60 * self.every_minutes
            due = bool(trainer.strategy.broadcast(late))  # the ranks' clocks differ
        if due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save at the end of an epoch, after the scores were refreshed."""
        if is_cut(trainer) and self.path.exists():
            return  # what was saved after its last batch goes on exactly
        done = trainer.current_epoch + 1
        steps_due = (
            self.every_n_steps is not None
            and trainer.global_step - self._step >= self.every_n_steps
        )
        if done % self.every_n_epochs == 0 or is_last_epoch(trainer) or steps_due:
            self._save(trainer)


class TorchRandomState(Callback):
    """Keep torch's generators in checkpoints, for encoders with dropout or stochastic depth.

    Order and augmentation need no state; see `bcl.core.random`. A resume on another number of ranks
    leaves the generators as they are.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Tensor]] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Collect the generators of all ranks."""
        own = {"cpu": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(pl_module.device)
        states: list[Any] = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, own)
        checkpoint["torch_random_state"] = states

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep them until the first step: building the loaders draws numbers too."""
        self._loaded = checkpoint.get("torch_random_state")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Set the generators before the first step after a resume."""
        states, self._loaded = self._loaded, None
        if states is None or len(states) != trainer.world_size:
            return
        own = states[trainer.global_rank]
        torch.set_rng_state(own["cpu"].cpu())
        if "cuda" in own and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"].cpu(), pl_module.device)
