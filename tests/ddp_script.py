"""Train twenty steps on some ranks and write what must not depend on their number."""

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

from bcl import BCL, BoostedRandAugment, ContrastiveViews
from datamodules import DigitsLT


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

    def on_train_batch_end(self, trainer, learner, outputs, *_):
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach())))


def main(ranks, out):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    views = ContrastiveViews(16, flip=0.0, boost=BoostedRandAugment())
    learner = BCL(
        Encoder(),
        views=views,
        projector_batch_norm=False,
        learning_rate=0.2,
        warmup_epochs=0,
        seed=0,
    )
    watch = Losses()
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
        callbacks=[watch],
    )
    trainer.fit(learner, datamodule=DigitsLT(batch_size=96))
    state = {"losses": watch.losses, "tracker": learner.tracker.state_dict()}
    torch.save({**state, "weights": learner.encoder.state_dict()}, f"{out}.{trainer.global_rank}")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
