"""Running a recorded training, for the command line and for scripts."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from bcl.core import provenance
from bcl.core.errors import find_input_error
from bcl.models.encoders import encoder_spec


def new_record(
    name: str, method: pl.LightningModule, seed: int, config: dict[str, Any]
) -> dict[str, Any]:
    """Start the record of a run: all that is known before its first step.

    Args:
        name: the run's name in reports.
        method: its class names the method.
        seed: the run's seed.
        config: plain values that rebuild method and data (``model``, ``data``, ``trainer``).

    Returns:
        The record, for `bcl.training.callbacks.RunRecorder`.
    """
    return {
        "name": name,
        "method": type(method).__name__,
        "seed": seed,
        "config": config,
        "encoder": provenance.plain(encoder_spec(getattr(method, "encoder", method))),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
    }


def fit(
    trainer: pl.Trainer,
    method: pl.LightningModule,
    data: pl.LightningDataModule,
    checkpoint: str | Path | None = None,
) -> None:
    """Train; an interrupt stays an interrupt, and bad input stays one clear error.

    Args:
        trainer: Lightning's trainer.
        method: what is trained.
        data: its datamodule.
        checkpoint: where to resume from.

    Raises:
        KeyboardInterrupt: the user stopped the run; what was saved before is whole.
        InputError: bad input, also where Lightning wrapped it.
    """
    try:
        trainer.fit(method, datamodule=data, ckpt_path=checkpoint)
    except SystemExit:  # Lightning's answer to an interrupt
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except RuntimeError as error:
        cause = find_input_error(error)
        if cause is None:
            raise
        raise cause from None
