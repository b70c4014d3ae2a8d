"""On some ranks: a run with online probe, history and CSV; then one that diverges on one rank."""

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from ddp_script import Encoder

from bcl import SimCLR
from bcl.core.errors import InputError
from bcl.methods import OptimizerSettings, ProjectorSettings, ScheduleSettings
from bcl.training import OnlineProbe, RunRecorder, make_trainer
from bcl.training.fit import fit as fit_with
from datamodules import DigitsLT


class Poison(pl.Callback):
    """One weight of one rank becomes NaN before the fourth step: only its losses are affected."""

    def on_train_batch_start(self, trainer, method, *_):
        if trainer.global_step == 3 and trainer.global_rank == trainer.world_size - 1:
            with torch.no_grad():
                method.encoder[0].weight[0].fill_(torch.nan)


def fit(ranks, folder, *more, **options):
    torch.manual_seed(0)
    method = SimCLR(
        Encoder(),
        ProjectorSettings(batch_norm=False),
        views=16,
        optimizer=OptimizerSettings(learning_rate=0.1),
        schedule=ScheduleSettings(warmup_epochs=0),
        seed=0,
    )
    settings = {
        "accelerator": "cpu",
        "devices": ranks,
        "strategy": "ddp" if ranks > 1 else "auto",
        "max_epochs": 2,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": list(more),
    }
    save = {"every_n_steps": 1}
    record = {"name": "run", "seed": 0}
    trainer = make_trainer(record, folder, settings, save=save, log="csv", **options)
    # 500 test images in batches of 200: the ranks have unequal shares.
    data = DigitsLT(batch_size=96)
    try:
        fit_with(trainer, method, data)
    except (InputError, RuntimeError) as error:
        return trainer, method, str(error)
    return trainer, method, ""


def main(ranks, out):
    torch.set_num_threads(1)
    probe = OnlineProbe(batch_size=200)
    trainer, method, error = fit(ranks, out / "good", online=probe, history_every=1)
    assert not error, error
    recorder = next(each for each in trainer.callbacks if isinstance(each, RunRecorder))
    state = {
        "history": recorder.record["history"],
        "head": dict(probe.head.state_dict()),
        "tracker": dict(method.tracker.state_dict()),
    }
    trainer, method, state["error"] = fit(ranks, out / "bad", Poison())
    state["updated"] = method.tracker.updated_in
    state["finite"] = bool(method.tracker.momentum_loss.isfinite().all())
    state["steps"] = trainer.global_step
    torch.save(state, out / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
