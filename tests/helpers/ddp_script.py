"""Train twenty steps of each method on some ranks and write what must not depend on them."""

import os
import sys
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from bcl import BCL, BoostedRandAugment, ContrastiveViews, DomainLoss, NTXentLoss
from bcl.augment import ChainSettings
from bcl.methods import (
    MemorySettings,
    OptimizerSettings,
    ProjectorSettings,
    ScheduleSettings,
    SharpnessSettings,
)
from bcl.training import Selection
from cacr import CACR
from cacr.method import TeacherSettings
from datamodules import DigitsLT
from datamodules.external import SelectionSettings


class Encoder(nn.Sequential):
    """Norms without batch statistics, as SyncBatchNorm needs a GPU."""

    num_features = 16

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 16, 3, 2),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 2),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


class Losses(pl.Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, method, outputs, *_):
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach())))


def methods(precision):
    views = {"chain": ChainSettings(flip_probability=0.0), "boost": BoostedRandAugment()}
    plain = {
        "projector": ProjectorSettings(batch_norm=False),
        "schedule": ScheduleSettings(warmup_epochs=0),
        "seed": 0,
    }
    # For each: DDP reseeds where Lightning's PL_GLOBAL_SEED is set, one process does not.
    torch.manual_seed(0)
    yield (
        "bcl_i",
        BCL(
            Encoder(),
            views=ContrastiveViews(16, **views),
            optimizer=OptimizerSettings(learning_rate=0.2),
            **plain,
        ),
    )
    if precision == "64-true":
        torch.manual_seed(0)
        yield (
            "rwsam",
            BCL(
                Encoder(),
                views=ContrastiveViews(16, **views),
                optimizer=OptimizerSettings(
                    learning_rate=0.2, sharpness=SharpnessSettings(rho=0.5, signal="loss")
                ),
                **plain,
            ),
        )
        torch.manual_seed(0)
        yield (
            "colt",
            BCL(
                Encoder(),
                views=ContrastiveViews(16, **views),
                loss=DomainLoss(NTXentLoss(reduction="none")),
                memory=MemorySettings(watch=("tailness",)),
                optimizer=OptimizerSettings(learning_rate=0.2),
                **plain,
            ),
        )
    if precision == "32-true":
        # CACR's losses lie close together: a rounding error moves a score far enough to flip the
        # coin of an operation now and then, and then the runs are different ones.
        del views["boost"]
    for form, count in (("batch", 3), ("moco", 3), ("moco-v3", 2)):
        torch.manual_seed(0)
        yield (
            f"cacr_{form}",
            CACR(
                Encoder(),
                form=form,
                views=ContrastiveViews(16, count, **views),
                teacher=TeacherSettings(momentum=0.9, queue_size=192, predictor_features=32),
                optimizer=OptimizerSettings(learning_rate=0.05),
                **plain,
            ),
        )


def main(ranks, out):
    torch.set_num_threads(1)
    states, external = {}, f"{out}.{os.environ.get('RANK', 0)}.npy"
    noise = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), np.uint8)
    np.save(external, noise)
    for precision in ("64-true", "32-true"):
        for name, method in methods(precision):
            states[f"{name} {precision}"] = train(
                ranks, method, precision, external if name == "colt" else None
            )
    torch.save(states, f"{out}.{os.environ.get('RANK', 0)}")


def train(ranks, method, precision, external):
    watch, selection = Losses(), None
    if external is not None:  # four steps per epoch, as without
        selection = SelectionSettings("colt", external, budget=40, start=1, every=2, clusters=5)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_epochs=5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        precision=precision,
        callbacks=[watch, Selection()],
    )
    trainer.fit(method, datamodule=DigitsLT(batch_size=96, selection=selection))
    # What follows from the weights alone, and the queue.
    state = {k: v for k, v in method.state_dict().items() if not k.startswith("tracker.")}
    return {
        "losses": watch.losses,
        "weights": state,
        "tracker": method.tracker.state_dict(),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
