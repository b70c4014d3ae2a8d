"""SimCLR as the composition that the other methods vary."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from bcl.augment import ContrastiveViews
from bcl.core.errors import InputError, unknown_name
from bcl.core.random import permutation
from bcl.losses.nt_xent import NTXentLoss
from bcl.memorization.tracker import MemorizationTracker, Normalization
from bcl.methods.optimizers import OptimizerName, build_optimizer, parameter_groups
from bcl.methods.schedule import warmup_cosine
from bcl.models import Projector, create_encoder

# The released code normalizes with ImageNet's statistics on every data set, CIFAR too.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ScoreSource = Literal["own", "mean", "shuffled"]
SCORE_SOURCES: tuple[ScoreSource, ...] = ("own", "mean", "shuffled")
_SHUFFLE_STREAM = 0x5C0E  # keeps the shuffled scores apart from other random numbers


class SimCLR(pl.LightningModule):
    r"""Contrastive pretraining: views, encoder, projector, a loss per sample, the tracker.

    .. math:: z_{v,i} = g(f(\mathrm{view}_v(x_i))), \qquad
        \text{loss} = \tfrac1B \textstyle\sum_i \ell_i(z)

    The tracker watches the losses in every run; it steers the views only where these have a
    ``boost`` (see `bcl.BCL`). Labels are never read.

    Args:
        encoder: a name for `bcl.create_encoder`, or a module that maps (B, 3, H, W) to (B, D) and
            has ``num_features``.
        image_size: side of the views in pixels; that of ``views`` if not given, or 32.
        encoder_args: further arguments of `bcl.create_encoder`.
        projection_features: width of the projection z.
        projector_layers: number of linear layers of the projector.
        projector_hidden: width between them; that of the features if not given.
        projector_batch_norm: whether batch norm follows each of them.
        views: makes (V, B, 3, S, S) from a batch; two views with the papers' augmentation by
            default.
        loss: maps (V, B, D) to (B,) losses; `bcl.NTXentLoss` at temperature 0.2 by default.
        tracker_loss: another such loss for the tracker to watch, without gradient; ``loss`` itself
            if not given.
        num_samples: size of the training set; read from the datamodule where there is one.
        tracker_momentum: momentum of the loss memory.
        tracker_normalization: ``"max"`` (paper) or ``"rank"``.
        score_source: whose score a sample's views follow: its ``"own"`` (paper); or, as controls
            that tell memory from mere augmentation, the ``"mean"`` of all, or ``"shuffled"``, that
            of another sample, drawn anew each epoch.
        optimizer: ``"sgd"``, ``"lars"`` or ``"adamw"``.
        learning_rate: the highest of the schedule.
        momentum: momentum of SGD and LARS.
        weight_decay: weight decay.
        decay_norm_and_bias: whether weight decay applies to norms and biases too.
        warmup_epochs: epochs of linear warm-up, by the step.
        min_learning_rate: where the cosine ends.
        milestones: epochs that divide the learning rate by 10, in the place of the cosine.
        channels_last: lay images and convolutions out with the channels innermost, faster for
            convolutions under bfloat16 and on GPUs.
        seed: seed of the views; what they have already, if not given.

    Raises:
        InputError: a loss that does not return one value per sample.

    Source: SimCLR (arXiv 2002.05709) with the settings of BCL (arXiv 2205.12693).

    Example:
        >>> method = SimCLR("resnet8", image_size=16, num_samples=8)
        >>> method.encode(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape
        torch.Size([2, 64])
    """

    tracker: MemorizationTracker | None
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: str | nn.Module = "resnet18",
        image_size: int | None = None,
        encoder_args: dict[str, Any] | None = None,
        projection_features: int = 128,
        projector_layers: int = 2,
        projector_hidden: int | None = None,
        projector_batch_norm: bool = True,
        views: ContrastiveViews | None = None,
        loss: nn.Module | None = None,
        tracker_loss: nn.Module | None = None,
        num_samples: int | None = None,
        tracker_momentum: float = 0.97,
        tracker_normalization: Normalization = "max",
        score_source: ScoreSource = "own",
        optimizer: OptimizerName = "sgd",
        learning_rate: float = 0.5,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        decay_norm_and_bias: bool = True,
        warmup_epochs: int = 10,
        min_learning_rate: float = 1e-6,
        milestones: tuple[int, ...] = (),
        channels_last: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if image_size is None:
            image_size = 32 if views is None else max(views.size)
        self.image_size = image_size
        if isinstance(encoder, str):
            encoder = create_encoder(encoder, image_size, **(encoder_args or {}))
        features = getattr(encoder, "num_features", None)
        if not isinstance(features, int):
            raise InputError(
                "the encoder must have an integer attribute num_features, the width of its "
                f"output; {type(encoder).__name__} has none. Set it, or name a timm model."
            )
        self.channels_last = channels_last
        if channels_last:
            encoder = encoder.to(memory_format=torch.channels_last)
        self.encoder = encoder
        self.projector = Projector(
            features, projection_features, projector_hidden, projector_layers, projector_batch_norm
        )
        self.views = views if views is not None else self.default_views(image_size)
        if self.views.mean is not None:
            raise InputError(
                "the method normalizes the images itself; build its views without mean and std."
            )
        if seed is not None:
            self.views.seed = seed
        self.loss = loss if loss is not None else NTXentLoss(0.2, reduction="none")
        self.tracker_loss = tracker_loss
        for each in (self.loss, self.tracker_loss):
            if getattr(each, "reduction", "none") != "none":
                raise InputError(
                    f"the tracker needs one loss per sample, but {type(each).__name__} has "
                    f"reduction='{each.reduction}'; build it with reduction='none'."  # type: ignore[union-attr]
                )
        if tracker_loss is not None and type(self).sample_losses is not SimCLR.sample_losses:
            raise InputError(
                f"{type(self).__name__} has no tracker_loss: its loss is no function of the "
                "projections alone. Leave it out, or train BCL with another loss."
            )
        self._watched: Tensor | None = None
        self.tracker_momentum = tracker_momentum
        self.tracker_normalization: Normalization = tracker_normalization
        if score_source not in SCORE_SOURCES:
            raise unknown_name("score source", score_source, SCORE_SOURCES)
        self.score_source: ScoreSource = score_source
        self.tracker = None
        if num_samples is not None:
            self._make_tracker(num_samples)
        self.optimizer_name: OptimizerName = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.decay_norm_and_bias = decay_norm_and_bias
        self.warmup_epochs = warmup_epochs
        self.min_learning_rate = min_learning_rate
        self.milestones = tuple(milestones)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def default_views(self, image_size: int) -> ContrastiveViews:
        """Build the views of this method for the given image size."""
        return ContrastiveViews(image_size)

    def _make_tracker(self, num_samples: int) -> None:
        self.tracker = MemorizationTracker(
            num_samples, self.tracker_momentum, self.tracker_normalization
        ).to(self.device)
        # The tracker is the same on every rank by its own doing; DDP's broadcast of buffers
        # before each forward would send all N samples every step.
        self._ddp_params_and_buffers_to_ignore = [
            f"tracker.{name}" for name, _ in self.tracker.named_buffers()
        ]

    # --- features -------------------------------------------------------------------------

    def _normalize(self, images: Tensor) -> Tensor:
        if not images.is_floating_point():
            images = images.to(self.mean.dtype) / 255
        images = ((images - self.mean) / self.std).to(self.mean.dtype)
        return (
            images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images, uint8 or in [0, 1], to (B, D) features, with gradient."""
        return self.encoder(self._normalize(images))  # type: ignore[no-any-return]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images, uint8 or in [0, 1], to (B, D) features, in evaluation mode."""
        training = self.training
        self.eval()
        try:
            return self(images)  # type: ignore[no-any-return]
        finally:
            self.train(training)

    def project(self, views: Tensor | list[Tensor]) -> Tensor:
        """(V, B, 3, S, S) views, or a list of V by size, to (V, B, D) projections."""
        if isinstance(views, list):
            return torch.cat([self.project(group) for group in by_size(views)])
        count, batch = views.shape[:2]
        z = self.projector(self(views.flatten(0, 1)))  # (V * B, D)
        return z.view(count, batch, -1)  # type: ignore[no-any-return]

    def sample_losses(self, views: Tensor | list[Tensor]) -> Tensor:
        """Views to (B,) losses."""
        z = self.project(views)  # (V, B, D)
        if self.tracker_loss is not None:
            with torch.no_grad():
                self._watched = self.tracker_loss(z.detach())  # (B,)
        return self.loss(z)  # type: ignore[no-any-return]

    # --- training -------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Size the tracker by the datamodule's training set."""
        if stage != "fit":
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        samples: Any = getattr(data, "num_samples", None)
        if self.tracker is None and samples is None:
            raise InputError(
                f"the tracker's size is not known: give {type(self).__name__}(num_samples=N), or "
                "train with a datamodule that has num_samples."
            )
        if self.tracker is None:
            self._make_tracker(samples)
        elif samples is not None and self.tracker.num_samples != samples:
            raise InputError(
                f"the method tracks {self.tracker.num_samples} samples but the datamodule has "
                f"{samples}; train on the data that it was made for, or make a new method."
            )

    def view_scores(self, ids: Tensor) -> Tensor:
        """(B,) sample ids to the (B,) scores that steer their views; see ``score_source``."""
        assert self.tracker is not None
        scores = self.tracker.scores
        if self.score_source == "mean":
            return scores.mean().expand(len(ids))
        if self.score_source == "shuffled":
            order = permutation(
                len(scores),
                self.views.seed,
                self.current_epoch,
                _SHUFFLE_STREAM,
                device=scores.device,
            )
            return scores[order[ids]]
        return scores[ids]

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """One step as in the design: scores, views, projections, losses, tracker."""
        assert self.tracker is not None  # made in setup
        images, ids = batch["image"], batch["id"]
        scores = self.view_scores(ids) if self.views.boost is not None else None
        views = self.views(images, scores=scores, ids=ids, epoch=self.current_epoch)
        losses = self.sample_losses(views)  # (B,)
        with self._naming_the_step():
            self.tracker.update(ids, self._tracked(losses.detach()), wait=False)
        loss: Tensor = losses.mean()
        # Each rank's own, for the progress bar; `RunRecorder` keeps the mean over the ranks, which
        # goes to the loggers where there is a record.
        self.log(
            "loss",
            loss.detach(),
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            logger=self._lightning_logs(),
            batch_size=ids.numel(),
        )
        return loss

    def on_before_optimizer_step(self, _: torch.optim.Optimizer) -> None:
        """Let no step through whose losses the tracker refuses.

        Asked here and not in `training_step`, a GPU still has the backward pass to do, and does
        not run dry while the host waits.
        """
        assert self.tracker is not None
        with self._naming_the_step():
            self.tracker.settle()

    @contextlib.contextmanager
    def _naming_the_step(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise InputError(f"step {self.global_step}: {error}{self._last_good()}") from None

    def _tracked(self, losses: Tensor) -> Tensor:
        """What the tracker is given of a step's losses: those of ``tracker_loss`` if there is one.

        A loss that trains and is not finite takes the other's place: the tracker refuses it on all
        ranks and names its sample.
        """
        if self._watched is None or self._watched.shape != losses.shape:
            return losses if self._watched is None else self._watched
        return torch.where(losses.isfinite(), self._watched, losses)

    def _lightning_logs(self) -> bool:
        """Whether Lightning must hand values to loggers, because no callback does."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        return not any(getattr(each, "logs_the_record", False) for each in callbacks)

    def _last_good(self) -> str:
        """Name the newest checkpoint; nothing of a refused step is in it."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "last_good"):
                return f" {callback.last_good()}"
        return " There is no checkpoint yet."

    def on_train_epoch_end(self) -> None:
        """Refresh the scores once an epoch, before checkpoints are written."""
        assert self.tracker is not None
        self.tracker.refresh()

    def configure_optimizers(self) -> Any:
        """Build the optimizer; warm-up and cosine by the step."""
        groups = parameter_groups([self], self.weight_decay, self.decay_norm_and_bias)
        optimizer = build_optimizer(self.optimizer_name, groups, self.learning_rate, self.momentum)
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise InputError(
                f"the cosine schedule needs to know its end; set max_epochs to at least 1, "
                f"not {epochs!r}."
            )

        def factor(step: int) -> float:
            # Step 0 is asked for here and now, but the number of steps only once training runs:
            # asked earlier, Lightning makes the loaders before it restores their position.
            if step == 0:
                return 0.0 if self.warmup_epochs else 1.0
            total = int(self.trainer.estimated_stepping_batches)
            warmup = min(round(self.warmup_epochs * total / epochs), total)
            if self.milestones:
                passed = sum(step >= round(epoch * total / epochs) for epoch in self.milestones)
                return min(step / warmup, 1.0) * 0.1**passed if warmup else 0.1**passed
            rate = warmup_cosine(
                step,
                base=self.learning_rate,
                total=total,
                warmup=warmup,
                minimum=self.min_learning_rate,
            )
            return rate / self.learning_rate

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load weights and tracker; a method without a tracker takes the saved size."""
        saved = state_dict.get("tracker.momentum_loss")
        if self.tracker is None and saved is not None:
            self._make_tracker(saved.numel())
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def by_size(views: list[Tensor]) -> list[Tensor]:
    """Stack neighboring views of one size, which then pass the encoder together.

    Args:
        views: V tensors (B, 3, S, S), as a multi-crop gives them, global ones first.

    Returns:
        Tensors (V', B, 3, S, S), one a size.

    Example:
        >>> [tuple(group.shape) for group in by_size([torch.zeros(2, 3, s, s) for s in (8, 8, 4)])]
        [(2, 2, 3, 8, 8), (1, 2, 3, 4, 4)]
    """
    groups = itertools.groupby(views, key=lambda view: view.shape)
    return [torch.stack(list(group)) for _, group in groups]
