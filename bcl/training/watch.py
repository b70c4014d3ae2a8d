"""What can be seen of a pretraining without labels: how its features spread, or collapse."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from bcl.core.checks import check_count
from bcl.core.errors import InputError
from bcl.evaluation.unlabeled import PAIRS, FeatureMeasures, measure_features, sample
from bcl.training.measurement import Measurement, undisturbed
from bcl.training.record import add_note

EVERY = 10  # epochs, for data without labels
LEAST, MOST = 100, 2000  # images; a tenth of all between them, so that small sets cost little too


class FeatureWatch(Measurement):
    """Watch the features of a sample of the training images, without labels or effect on the run.

    After the first epoch, every n epochs and after the last: ``features/alignment`` of two SimCLR
    views, ``features/uniformity``, ``features/effective_rank`` (RankMe), and
    ``features/neighbors_kept``, the share of an image's nearest neighbors (cosine) that are those
    of the measurement before. Values are logged, and added to the history of the trainer's
    `bcl.training.RunRecorder`, which must come first among the callbacks. One line says so when the
    features have collapsed. The run ends with the same weights, to the bit, as without it. With a
    process group the ranks share the images, and all hold the same numbers.

    Args:
        every_n_epochs: epochs between measurements, 0 for none; if None, 10 where the data has no
            labels, and none where it has.
        images: size of the sample; if None, a tenth of the images, but 100 to 2,000.
        neighbors: number of nearest neighbors.
        batch_size: images encoded at a time.

    Raises:
        InputError: an argument out of range, or a method or datamodule without what it needs.

    Example:
        >>> FeatureWatch(every_n_epochs=5, images=500).every_n_epochs
        5
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        images: int | None = None,
        neighbors: int = 10,
        batch_size: int = 256,
    ) -> None:
        if every_n_epochs is not None:
            check_count("every_n_epochs of the watch", every_n_epochs, at_least=0)
        if images is not None:
            check_count("images of the watch", images, at_least=2)
        check_count("neighbors of the watch", neighbors)
        check_count("batch_size of the watch", batch_size)
        self.asked = every_n_epochs
        self.every_n_epochs = every_n_epochs or EVERY
        self.images = images
        self.neighbors = neighbors
        self.batch_size = batch_size
        self._active = False
        self._collapsed = False
        self._before: Tensor | None = None  # (n, k), of the last measurement

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """See whether there is something to watch."""
        data: Any = getattr(trainer, "datamodule", None)
        possible = hasattr(data, "train_set") and hasattr(pl_module, "encode")
        if self.asked is None:
            self._active = possible and not len(getattr(data, "class_names", "labeled"))
        elif self.asked and not possible:
            raise InputError(
                f"the watch needs a method with encode and a datamodule with train_set, not "
                f"{type(pl_module).__name__} and {type(data).__name__}; train without it."
            )
        else:
            self._active = self.asked > 0
        for recorder in self.recorders(trainer) if self._active else ():
            recorder.record["watch"] = (
                f"{len(self._watched(data)):,} training images, {self.neighbors} cosine neighbors; "
                f"alignment of two SimCLR views of at most {PAIRS} images"
            )

    def state_dict(self) -> dict[str, Any]:
        """The last neighbors, and whether a collapse was reported."""
        if self._before is None:
            return {}
        return {"neighbors": self._before.to(torch.int32), "collapsed": self._collapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from an interrupted run."""
        if state_dict:
            self._before = state_dict["neighbors"].long()
            self._collapsed = bool(state_dict["collapsed"])

    def is_due(self, trainer: pl.Trainer) -> bool:
        """Whether this epoch is measured; the first is, too."""
        return self._active and (trainer.current_epoch == 0 or super().is_due(trainer))

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Compute the measures by name, equal on every rank; all ranks must call it."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        views: Any = getattr(pl_module, "views", None)
        with undisturbed(trainer, pl_module) as encode:
            found = measure_features(
                encode,
                self._watched(data),
                getattr(views, "size", None) or int(data.image_size),
                neighbors=self.neighbors,
                before=self._before,
                batch_size=self.batch_size,
                device=trainer.strategy.root_device,
            )
        if found.collapsed and not self._collapsed:
            self._tell(trainer, found)
        self._before, self._collapsed = found.neighbors, found.collapsed
        return found.values

    def _watched(self, data: Any) -> Any:
        """The sample of the training images."""
        images = data.train_set()
        return sample(images, self.images or min(max(len(images) // 10, LEAST), MOST))

    def _tell(self, trainer: pl.Trainer, found: FeatureMeasures) -> None:
        """Say in one line that the features have collapsed, and keep it in the record."""
        line = (
            f"the features have collapsed in epoch {trainer.current_epoch}: all images look alike "
            f"to the encoder (effective rank {found.values['features/effective_rank']:.1f} of "
            f"{found.width}, uniformity {found.values['features/uniformity']:.4f}); lower the "
            "learning rate, or start again with more warmup epochs or larger batches"
        )
        add_note(trainer, line)
