"""Methods, data and a trainer small enough for a test."""

import pytorch_lightning as pl
import torch
from torch import nn

from bcl import SimCLR
from bcl.methods import EncoderSettings, OptimizerSettings, ScheduleSettings
from bcl.training.checkpoints import AtomicCheckpointIO
from bcl.training.fit import fit as fit_with
from datamodules import DigitsLT

SIZE = 16
TINY = EncoderSettings("resnet8", {"width": 4})
NO_WARMUP = ScheduleSettings(warmup_epochs=0)


class Dropping(nn.Module):
    """An encoder that draws from torch's own random numbers."""

    num_features = 12

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 5, 4), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.2)
        )

    def forward(self, x):
        return self.layers(x).mean((2, 3))


class Images(pl.LightningDataModule):
    """24 random images in batches of 8, in a fixed order, without labels."""

    num_samples = 24

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (24, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
        rows = [{"image": images[i], "id": torch.tensor(i)} for i in range(24)]
        return torch.utils.data.DataLoader(rows, batch_size=8)


class Pixels(nn.Module):
    """8 x 8 gray pixels and one parameter, for a probe that can be judged."""

    num_features = 64

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return nn.functional.avg_pool2d(x.mean(1), 2).flatten(1) * self.weight


class StopError(Exception):
    """Raised by `Cut`."""


class Cut(pl.Callback):
    """End a run at the first batch of an epoch, or after so many steps."""

    def __init__(self, epoch=None, step=None):
        self.place = epoch, step

    def on_train_batch_start(self, trainer, *_):
        epoch, step = self.place
        if trainer.current_epoch == epoch or trainer.global_step == step:
            raise StopError


def method(cls=SimCLR, encoder=Dropping, learning_rate=0.1, **arguments):
    torch.manual_seed(0)
    optimizer = OptimizerSettings(learning_rate=learning_rate)
    arguments = {"views": SIZE, "schedule": NO_WARMUP, "seed": 0, **arguments}
    return cls(encoder(), optimizer=optimizer, **arguments)


def fit(model, *callbacks, data=None, resume=None, **settings):
    trainer = pl.Trainer(
        **{"max_epochs": 2, "logger": False, "enable_checkpointing": False, **settings},
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=list(callbacks),
    )
    fit_with(trainer, model, data or DigitsLT(), resume)
    return trainer


def train(method, epochs=2, **settings):
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        **{"enable_checkpointing": False, **settings},
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    fit_with(trainer, method, Images())
    return trainer
