"""Linear probe and nearest neighbors beside a running pretraining."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassStatScores

from bcl.core.checks import check_count, check_positive
from bcl.core.distributed import gather_rows, rank, world_size
from bcl.core.errors import InputError
from bcl.evaluation.features import extract_features
from bcl.evaluation.knn import knn_predict
from bcl.evaluation.shots import shot_groups
from bcl.training.measurement import Measurement, undisturbed


class OnlineProbe(Measurement):
    """Measure Many / Medium / Few during training, without changing the run.

    A linear head learns from the encoder's features of each training batch (first view, detached)
    and the batch's labels. Every n epochs, and after the last, it is measured on the test images,
    and so are nearest neighbors among the probe images. The run ends with the same weights, to the
    bit, as without it: the head has its own optimizer and draws no random number. With a process
    group the head sees the batch of all ranks, and all ranks hold the same numbers.

    Values are logged, and added to the history of the trainer's `bcl.training.RunRecorder`, which
    must come first among the callbacks, as ``online_linear/all``, ``/many``,
    ``/medium``, ``/few`` and ``online_knn/…``: accuracies in [0, 1]; a group's is the mean over its
    classes.

    Args:
        every_n_epochs: epochs between measurements.
        neighbors: number of cosine neighbors, with equal votes; 0 leaves them out.
        learning_rate: learning rate of the head's Adam.
        batch_size: images encoded at a time.

    Raises:
        InputError: an argument out of range, or a method or datamodule without what it needs.

    Example:
        >>> OnlineProbe(every_n_epochs=10).neighbors
        10
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        neighbors: int = 10,
        learning_rate: float = 1e-3,
        batch_size: int = 512,
    ) -> None:
        check_count("every_n_epochs of the online probe", every_n_epochs)
        check_count("neighbors of the online probe", neighbors, at_least=0)
        check_positive("learning_rate of the online probe", learning_rate)
        check_count("batch_size of the online probe", batch_size)
        self.every_n_epochs = every_n_epochs
        self.neighbors = neighbors
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.head: nn.Module | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self._groups: dict[str, Tensor] = {}
        self._features: Tensor | None = None
        self._hook: Any = None

    # --- head -----------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check method and data; build the head on the training device."""
        data: Any = getattr(trainer, "datamodule", None)
        counts: Any = getattr(data, "class_counts", None)
        if counts is None or not all(hasattr(data, name) for name in ("test_set", "probe_set")):
            raise InputError(
                f"the online probe needs labels, but {type(data).__name__} has no class_counts, "
                "probe_set and test_set; train without it, or on a datamodule of this library."
            )
        data.test_set()  # says by itself that there is none
        width = getattr(getattr(pl_module, "encoder", None), "num_features", None)
        if not isinstance(width, int) or not hasattr(pl_module, "encode"):
            raise InputError(
                f"the online probe needs a method with encode and an encoder with num_features; "
                f"{type(pl_module).__name__} has none. Use a method of this library."
            )
        self._groups, grouping = {}, "no groups"
        if len(counts) > 2:
            groups = shot_groups(counts, getattr(data, "grouping", "thirds"))
            self._groups = {name: ids for name, ids in groups.as_dict().items() if ids.numel()}
            grouping = groups.description
        for recorder in self.recorders(trainer):
            about = f"linear head on the training batches' labels, Adam {self.learning_rate:g}"
            if self.neighbors:
                about += f"; {self.neighbors} cosine neighbors in the probe set"
            recorder.record["online_probe"] = f"{about}; {grouping}"
        self.head = _head(width, len(counts), trainer.strategy.root_device)
        self.optimizer = torch.optim.Adam(self.head.parameters(), lr=self.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Head and optimizer: tensors and plain values."""
        if self.head is None or self.optimizer is None:
            return {}
        return {"head": dict(self.head.state_dict()), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the head of an interrupted run, unless it had other features or classes."""
        if self.head is None or self.optimizer is None or not state_dict:
            return
        try:
            self.head.load_state_dict(state_dict["head"])
            self.optimizer.load_state_dict(state_dict["optimizer"])
        except (RuntimeError, ValueError, KeyError):
            raise InputError(
                "the checkpoint's online probe is for other features or classes; resume the run "
                "as it was started, or without the online probe."
            ) from None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the encoder."""

        def keep(module: nn.Module, _: Any, output: Tensor) -> None:
            # The first pass of a step is that of the global views through the dense network.
            if module.training and self._features is None:
                self._features = output.detach()

        self._hook = pl_module.encoder.register_forward_hook(keep)  # type: ignore[union-attr]

    def on_train_batch_start(self, *_: Any) -> None:
        """Forget the last batch."""
        self._features = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Take one step of the head."""
        features, self._features = self._features, None
        labels = batch.get("label") if isinstance(batch, dict) else None
        if labels is None or features is None:
            raise InputError(
                "the online probe needs batches with a 'label' and a method that calls its "
                "encoder in each step; train without it."
            )
        assert self.head is not None and self.optimizer is not None  # noqa: PT018
        # Rows of view 0; float32 holds labels exactly, so one collective is enough.
        rows = torch.cat([features[: len(labels)].float(), labels.to(features.device)[:, None]], 1)
        rows = gather_rows(rows)  # (B, D + 1)
        self.head.train()
        loss = nn.functional.cross_entropy(self.head(rows[:, :-1]), rows[:, -1].long())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def on_train_end(self, *_: Any) -> None:
        """Leave the encoder as it was."""
        if self._hook is not None:
            self._hook.remove()

    def on_exception(self, *_: Any) -> None:
        """Leave the encoder as it was."""
        self.on_train_end()

    # --- measurement ----------------------------------------------------------------------

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Compute the accuracies by name, equal on every rank; all ranks must call it."""
        assert self.head is not None  # made in setup
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        device = trainer.strategy.root_device
        with undisturbed(trainer, pl_module) as encode:

            def extract(dataset: Any, name: str) -> Tensor:
                return extract_features(
                    encode, dataset, batch_size=self.batch_size, device=device, name=name
                ).to(device)

            test = data.test_set()
            mine = torch.arange(rank(), len(test), world_size())  # each image on one rank
            features, labels = extract(test, "test images")[mine.to(device)], test.labels[mine]
            self.head.eval()
            values = self._shares("online_linear", self.head(features).argmax(1), labels)
            if self.neighbors:
                probe = data.probe_set()
                nearest = knn_predict(
                    extract(probe, "probe images"),
                    probe.labels.to(device),
                    features,
                    (self.neighbors,),
                    num_classes=len(data.class_counts),
                )
                values |= self._shares("online_knn", nearest[self.neighbors], labels)
        return values

    def _shares(self, name: str, predicted: Tensor, labels: Tensor) -> dict[str, float]:
        """Share of correct predictions overall and per group, over the images of all ranks."""
        classes = self.head[1].out_features  # type: ignore[index]
        metric = MulticlassStatScores(int(classes), average=None).to(predicted.device)
        if len(labels):
            metric.update(predicted, labels.to(predicted.device))
        table = metric.compute().double().cpu()  # (C, 5), summed over the ranks
        correct, counts = table[:, 0], table[:, 4]
        per_class = correct / counts  # NaN without test images
        values = {f"{name}/all": float(correct.sum() / counts.sum())}
        means = {group: float(per_class[ids].nanmean()) for group, ids in self._groups.items()}
        return values | {f"{name}/{group}": mean for group, mean in means.items() if mean == mean}


def _head(width: int, classes: int, device: torch.device) -> nn.Sequential:
    """Standardize, then a linear map that starts at zero: nothing in it is random."""
    linear: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, width, classes, device=device
    )
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, device=device), linear)
