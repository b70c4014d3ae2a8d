"""Running a recorded training, for the command line and for scripts."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback

from bcl.core.checks import check_count
from bcl.core.errors import InputError, Interrupted, find_input_error
from bcl.core.locks import locked
from bcl.training.checkpoints import AtomicCheckpointIO, Checkpoints, TorchRandomState
from bcl.training.feature_signals import FeatureSignals
from bcl.training.history import HistoryWriter
from bcl.training.loggers import LogHistory
from bcl.training.online_probe import OnlineProbe
from bcl.training.progress import RunProgress
from bcl.training.record import RunRecorder, warnings_noted
from bcl.training.selection import Selection
from bcl.training.stopping import StopOnSignal
from bcl.training.watch import FeatureWatch

# In the text of a collective's error; the last is gloo's, where another one has timed out before.
COLLECTIVES = ("gloo", "NCCL", "timeout caused pair closure")


def make_trainer(
    record: dict[str, Any],
    folder: str | Path,
    settings: Mapping[str, Any],
    *,
    save: Mapping[str, Any] | None = None,
    log: str | Iterable[str] | None = None,
    online: OnlineProbe | None = None,
    watch: FeatureWatch | None = None,
    history_every: int | None = None,
    resumed_at: int | None = None,
    change: Iterable[str] = (),
) -> pl.Trainer:
    """Build the trainer of a recorded run.

    Args:
        record: from `bcl.training.record.new_record`.
        folder: the run's folder; checkpoints go to ``checkpoints/last.ckpt``.
        settings: arguments of Lightning's trainer; callbacks and plugins are added to the run's.
        save: intervals of `bcl.training.checkpoints.Checkpoints`.
        log: loggers, see `LogHistory`.
        online: the online probe, if the run has one.
        watch: measures of the features without labels; the default `FeatureWatch` if not given.
        history_every: epochs between files of the tracker's history, if the run has them.
        resumed_at: optimizer steps of the checkpoint in the folder that the run resumes from.
        change: options of the configuration that may differ from those of the run resumed.

    Returns:
        The trainer, for `fit`.

    Raises:
        InputError: settings that Lightning refuses, or that do not match the launcher's processes.
    """
    settings = dict(settings)
    check_count("trainer.accumulate_grad_batches", settings.get("accumulate_grad_batches", 1))
    recorder = RunRecorder(record, folder, change)
    callbacks: list[Callback] = [recorder, TorchRandomState(), StopOnSignal()]
    callbacks.append(Checkpoints(Path(folder) / "checkpoints", **(save or {})))
    if settings.get("enable_progress_bar") is not False:
        callbacks.append(RunProgress(recorder))
    callbacks += [FeatureSignals(), Selection()]
    if history_every is not None:
        keep = resumed_at is not None
        callbacks.append(HistoryWriter(Path(folder) / "tracker", history_every, keep))
    callbacks += [*([online] if online else []), watch or FeatureWatch()]
    callbacks += _listed(settings.pop("callbacks", None))
    if log:
        callbacks.append(LogHistory(recorder, log, resumed_at))
    settings |= {
        "default_root_dir": folder,
        "callbacks": callbacks,
        "plugins": [AtomicCheckpointIO(), *_listed(settings.pop("plugins", None))],
        "enable_progress_bar": False,  # Lightning's
        "use_distributed_sampler": False,  # the loader shares each batch between the ranks itself
    }
    try:
        trainer = pl.Trainer(**settings)
    except InputError:
        raise
    except (MisconfigurationException, TypeError, ValueError) as error:
        cause = " ".join(str(error).split()).rstrip(".")
        if "backend found" in cause:
            raise InputError(
                f"accelerator '{settings.get('accelerator')}' cannot be used here ({cause}); leave "
                "--trainer.accelerator out, and what there is is used, or set it to cpu."
            ) from None
        raise InputError(
            f"trainer: {cause}; `bcl fit --help-all` lists what each option takes."
        ) from None
    check_launch(trainer, bool(settings.get("sync_batchnorm")))
    return trainer


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def check_launch(trainer: pl.Trainer, sync_batchnorm: bool = False) -> None:
    """Refuse a launcher's processes that the trainer would let train each by itself."""
    started, here = _started()
    wanted = trainer.num_devices * trainer.num_nodes
    if sync_batchnorm and wanted > 1 and trainer.strategy.root_device.type == "cpu":
        raise InputError(
            "torch has no SyncBatchNorm for CPU ranks; leave --trainer.sync_batchnorm out (each "
            "rank then normalizes by its own share), or train on GPUs."
        )
    if started in (1, wanted):
        return
    nodes = max(started // here, 1)
    raise InputError(
        f"the launcher started {started} processes, but the trainer is set for {wanted}; add "
        f"--trainer.devices {here}" + (f" --trainer.num_nodes {nodes}." if nodes > 1 else ".")
    )


def _started() -> tuple[int, int]:
    """Processes that torchrun or srun started: all, and those of this node."""
    total = int(os.environ.get("WORLD_SIZE") or 1)
    if total == 1 and SLURMEnvironment.detect():
        total = int(os.environ.get("SLURM_NTASKS") or 1)
        return total, max(total // int(os.environ.get("SLURM_NNODES") or 1), 1)
    return total, int(os.environ.get("LOCAL_WORLD_SIZE") or total)


def fit(
    trainer: pl.Trainer,
    method: pl.LightningModule,
    data: pl.LightningDataModule,
    checkpoint: str | Path | None = None,
) -> None:
    """Train a method; like ``trainer.fit``, with errors that a user can act on.

    Args:
        trainer: Lightning's trainer, such as the one of `make_trainer`.
        method: the method to train.
        data: its datamodule.
        checkpoint: where to resume from.

    Raises:
        KeyboardInterrupt: the user stopped the run, or a signal ended it after a checkpoint.
        InputError: bad input, another run in the folder, or a lost rank; once training has
            started, it names the last good checkpoint.
    """
    saver = trainer.checkpoint_callback
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    stop = next((each for each in callbacks if isinstance(each, StopOnSignal)), None)
    _refuse_requeued(trainer, checkpoint)
    try:
        with _one_run(saver if trainer.is_global_zero else None), warnings_noted(trainer):
            trainer.fit(method, datamodule=data, ckpt_path=checkpoint)
    except SystemExit:  # Lightning's answer to an interrupt
        if not trainer.interrupted:
            raise
        where = saver.last_good() if isinstance(saver, Checkpoints) else ""
        raise KeyboardInterrupt(f"interrupted.{where}") from None
    except (InputError, RuntimeError) as error:
        cause = find_input_error(error) or _lost_rank(error)
        if cause is None:
            raise
        where = saver.last_good() if isinstance(saver, Checkpoints) else ""
        raise InputError(f"{cause}{where}") from None
    finally:
        if stop is not None:
            stop.restore()
    if stop is not None and stop.stopped is not None:
        _end(trainer, stop.stopped)


def _end(trainer: pl.Trainer, cause: signal.Signals) -> None:
    """Say which signal ended the run, and how it goes on."""
    text = f"stopped by {cause.name} after step {trainer.global_step}"
    if trainer.is_global_zero:
        saver = trainer.checkpoint_callback
        where = f" ({saver.path})" if isinstance(saver, Checkpoints) else ""
        raise Interrupted(f"{text}; resume with --ckpt_path last{where}", cause)
    text = f"rank {trainer.global_rank} {text}"
    # Lightning, where it started the ranks, would kill rank 0 after another one that has failed.
    if isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment):
        print(f"bcl: {text}", file=sys.stderr)
    else:
        raise Interrupted(text, cause)


@contextlib.contextmanager
def _one_run(saver: Any) -> Iterator[None]:
    """Hold the lock of a run's checkpoints; refuse a folder in which another run is going on."""
    if not isinstance(saver, Checkpoints):
        yield
        return
    folder = saver.path.parent
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)  # after a refusal
        try:
            stack.enter_context(locked(folder / ".lock", wait=False))
        except BlockingIOError as error:
            raise InputError(
                f"{folder} is in use by a run, {error.strerror}; wait for its end or stop it, or "
                "name another folder with --trainer.default_root_dir. If that process is gone "
                f"although its host is out of reach, delete {folder / '.lock'}."
            ) from None
        yield


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _refuse_requeued(trainer: pl.Trainer, checkpoint: str | Path | None) -> None:
    """Lightning would resume from such a file even where a new run was asked for."""
    left = sorted(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"))
    if checkpoint is None and left:
        raise InputError(
            f"{left[0]} was saved by Lightning when it requeued a job, and may lie within a step; "
            "delete it, and resume with --ckpt_path last or start again."
        )


def _lost_rank(error: BaseException) -> InputError | None:
    """The error of a collective that another rank will not enter any more."""
    text = str(error)
    if isinstance(error, torch.distributed.DistError) or any(word in text for word in COLLECTIVES):
        text = re.sub(r"^\[\S+\] ", "", text)  # a place in torch's source
        cause = text.partition(". ")[0].partition("\n")[0].rstrip(".")
        return InputError(f"another rank has ended or cannot be reached: {cause}.")
    return None
