"""A data set of your own, as a datamodule."""

# --8<-- [start:data]
import torch

from datamodules import ImageDataset, LongTailedDataModule, Sets


class Stripes(LongTailedDataModule):
    """Three classes of stripes, 200, 40 and 8 images."""

    def __init__(self, image_size: int = 16, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__(image_size=image_size, batch_size=batch_size, seed=seed)

    def build(self) -> Sets:
        """Make the sets. Runs once on every rank, and must give the same result on each."""
        return Sets(
            train=self.images("stripes/train", (200, 40, 8), 0),
            probe=self.images("stripes/probe", (30, 30, 30), 1),
            test=self.images("stripes/test", (20, 20, 20), 2),
            class_names=["flat", "upright", "slanted"],
            recipe="stripes, 248 images",
        )

    def images(self, name: str, counts: tuple[int, ...], draw: int) -> ImageDataset:
        """``counts`` images of each class; ``name`` identifies the set in hashes."""
        side = self.image_size
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        generator = torch.Generator().manual_seed(draw)
        images, labels = [], []
        for label, (count, phase) in enumerate(zip(counts, (y, x, x + y), strict=True)):
            shift = torch.randint(8, (count, 1, 1, 1), generator=generator)
            images.append((((phase + shift) % 8) * 30).expand(-1, 3, -1, -1))
            labels += [label] * count
        pixels = torch.cat(images).to(torch.uint8)  # (N, 3, S, S)
        return ImageDataset(pixels, torch.tensor(labels), name)


# --8<-- [end:data]

# --8<-- [start:use]
import pytorch_lightning as pl

import bcl
from bcl.methods import ScheduleSettings

data = Stripes()
method = bcl.BCL("resnet8", views=16, schedule=ScheduleSettings(warmup_epochs=0))
trainer = pl.Trainer(
    max_epochs=1,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    use_distributed_sampler=False,  # the loader shares batches between ranks itself
)
trainer.fit(method, datamodule=data)

report = bcl.evaluate(method, data, "full,knn", tracker=method.tracker)
# --8<-- [end:use]

assert data.class_counts.tolist() == [200, 40, 8]
assert method.tracker.seen.sum() == 7 * 32  # the last, incomplete batch is left out
assert report.protocols
