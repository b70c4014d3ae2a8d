"""SimCLR, the composition that the other methods vary."""

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from bcl.augment import ContrastiveViews
from bcl.core.checks import check_types
from bcl.core.errors import InputError
from bcl.core.random import permutation
from bcl.losses.context import call_loss, figures
from bcl.losses.nt_xent import NTXentLoss
from bcl.losses.signals import Signals, contrastive_signals, nt_xent_with_signals
from bcl.losses.state import SampleState
from bcl.memorization.tracker import MemorizationTracker, update_together
from bcl.methods.modes import evaluating
from bcl.methods.optimizers import OptimizerSettings
from bcl.methods.schedule import ScheduleSettings
from bcl.methods.settings import (
    EncoderSettings,
    MemorySettings,
    ProjectorSettings,
    build_encoder,
    per_sample,
)
from bcl.methods.sharpness import WHOLE, pass_twice
from bcl.models.encoders import to_channels_last
from bcl.models.released import NORMALIZATIONS

_SHUFFLE_STREAM = 0x5C0E  # separates the shuffled scores from other random numbers


class SampleLosses(NamedTuple):
    """What a step trains on and what the memory records.

    Args:
        losses: (B,) losses with gradient.
        watched: (B,) without gradient, by signal.
    """

    losses: Tensor
    watched: dict[str, Tensor]


class SimCLR(pl.LightningModule):
    r"""Contrastive pretraining from views, an encoder, a projector, a loss and a memory.

    .. math:: z_{v,i} = g(f(\mathrm{view}_v(x_i))), \qquad
        \text{loss} = \tfrac1B \textstyle\sum_i \ell_i(z)

    The memory records the losses of every run, or other signals (`bcl.methods.MemorySettings`), and
    steers the views where they have a ``boost`` (see `bcl.BCL`). Labels are never read. Images are
    normalized with the encoder's ``mean`` and ``std`` if it has such tuples, as pretrained and
    exported encoders do, or else with ImageNet's, as in the released code, which does so on CIFAR
    too.

    Args:
        encoder: a name for `bcl.create_encoder`, its settings, or a module that maps
            (B, 3, H, W) to (B, D) and has ``num_features``.
        projector: its settings, or a module that maps (B, D) to (B, D').
        views: a module that makes (V, B, 3, S, S) from a batch, without normalization; or S, the
            image size in pixels of the method's default views.
        loss: a module that maps projections (V, B, D) to (B,) losses; by default
            `bcl.NTXentLoss` at temperature 0.2. Of the sample ids (B,), the epoch and the epochs of
            the run it gets those that its ``forward`` names: ``ids``, ``epoch``, ``epochs``.
        memory: its settings, or a tracker.
        optimizer: settings of the optimizer.
        schedule: settings of the learning-rate schedule.
        num_samples: size of the training set; by default that of the datamodule.
        channels_last: use PyTorch's channels-last memory format, in which convolutions are
            faster; the configurations set it. It is left out for an encoder whose gradients would
            be wrong in it (`bcl.models.encoders.to_channels_last`).
        seed: seed of the views; by default they keep their own.

    Raises:
        InputError: a loss that reduces its batch, an encoder without ``num_features``, views that
            normalize, or signals of two views with another number of views.

    Source: SimCLR (arXiv 2002.05709) with the settings of BCL (arXiv 2205.12693).

    Example:
        >>> method = SimCLR("resnet8", views=16)
        >>> method.encode(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape
        torch.Size([2, 64])
        >>> method.sample_losses(torch.rand(2, 8, 3, 16, 16)).losses.shape
        torch.Size([8])
    """

    tracker: MemorizationTracker  # that steers; None until the size of the training set is known
    current_pass = WHOLE  # of the batch; a sharpness-aware step has two
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: str | EncoderSettings | nn.Module = "resnet18",
        projector: ProjectorSettings | nn.Module = ProjectorSettings(),
        views: ContrastiveViews | int = 32,
        loss: nn.Module | None = None,
        memory: MemorySettings | MemorizationTracker = MemorySettings(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        schedule: ScheduleSettings = ScheduleSettings(),
        num_samples: int | None = None,
        channels_last: bool = False,
        seed: int | None = None,
    ) -> None:
        check_types(SimCLR.__init__, locals())
        super().__init__()
        self.views = self.build_views(views)
        if self.views.mean is not None:
            raise InputError(
                "the method normalizes the images itself; build its views without mean and std."
            )
        if seed is not None:
            self.views.seed = seed
        self.encoder = build_encoder(encoder, image_size=max(self.views.size))
        self.channels_last = channels_last and to_channels_last(self.encoder)
        if isinstance(projector, ProjectorSettings):
            projector = projector.build(self.encoder.num_features)
        self.projector = projector
        self.loss = NTXentLoss(0.2, reduction="none") if loss is None else per_sample(loss)
        self.memory = memory if isinstance(memory, MemorySettings) else MemorySettings()
        self._check_views_of_signals()
        self.watched_loss = None if self.memory.loss is None else per_sample(self.memory.loss)
        self.register_module("tracker", None)
        self.watched = nn.ModuleDict()  # trackers of signals that do not steer
        if isinstance(memory, MemorizationTracker):
            self._set_trackers(memory)
        elif num_samples is not None:
            self._build_trackers(num_samples)
        self.optimizer = optimizer
        if optimizer.sharpness is not None:
            optimizer.sharpness.check_recorded(self.memory.signals)
        self.schedule = schedule
        for name, default in zip(("mean", "std"), NORMALIZATIONS["imagenet"], strict=True):
            own = getattr(self.encoder, name, None)  # of first weights
            values = own if isinstance(own, tuple) else default
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def build_views(self, views: ContrastiveViews | int) -> ContrastiveViews:
        """Return the views, or build the default ones for an image size."""
        return ContrastiveViews(views) if isinstance(views, int) else views

    def _check_views_of_signals(self) -> None:
        count = self.views.num_views + self.views.num_local
        if self.memory.contrasts and count != 2:
            named = ", ".join(name for name in self.memory.of_steps if name != "loss")
            raise InputError(
                f"the memory needs two views of an image for {named}, and there are {count}; use "
                "num_views=2 without local views, or record the loss or signals of features."
            )

    def _build_trackers(self, num_samples: int) -> None:
        first, *others = (self.memory.build(num_samples, name) for name in self.memory.signals)
        self._set_trackers(first, *others)

    def _set_trackers(self, first: MemorizationTracker, *others: MemorizationTracker) -> None:
        self.tracker = first.to(self.device)
        for name, tracker in zip(self.memory.signals[1:], others, strict=True):
            self.watched[name] = tracker.to(self.device)
        for part in self.loss.modules():
            if isinstance(part, SampleState):
                part.allocate(first.num_samples, self.device)
        # They keep themselves equal on all ranks. DDP would broadcast their rows every step.
        self._ddp_params_and_buffers_to_ignore = [
            name for name, _ in self.named_buffers() if name.startswith(self.sized_by_data)
        ]

    @property
    def trackers(self) -> dict[str, MemorizationTracker]:
        """The trackers by signal, the one that steers first; none before the size is known."""
        if self.tracker is None:
            return {}
        others: Any = self.watched.values()
        return dict(zip(self.memory.signals, (self.tracker, *others), strict=True))

    @property
    def sized_by_data(self) -> tuple[str, ...]:
        """Beginnings of the names of tensors with a row per training sample."""
        states = [n for n, part in self.named_modules() if isinstance(part, SampleState)]
        return ("tracker.", "watched.", *(f"{name}." for name in states))

    # --- features -------------------------------------------------------------------------

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize (B, 3, H, W) images, uint8 or in [0, 1], for the encoder."""
        if not images.is_floating_point():
            images = images.to(self.mean.dtype) / 255
        images = ((images - self.mean) / self.std).to(self.mean.dtype)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=layout)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images, uint8 or in [0, 1], to (B, D) features, with gradient."""
        return self.encoder(self.normalize(images))  # type: ignore[no-any-return]

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images, uint8 or in [0, 1], to (B, D) features, in evaluation mode."""
        with evaluating(self), torch.no_grad():
            return self(images)  # type: ignore[no-any-return]

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) images to (B, D) features and (B, D') projections, in evaluation mode."""
        with evaluating(self), torch.no_grad():
            features = self(images)
            return features, self.projector(features)

    def trained_encoder(self) -> nn.Module:
        """Return the encoder whose features `encode` returns, for an export."""
        return self.encoder  # type: ignore[no-any-return]

    def project(self, views: Tensor | list[Tensor]) -> Tensor:
        """(V, B, 3, S, S) views, or a list of V tensors of several sizes, to (V, B, D)."""
        if isinstance(views, list):
            return torch.cat([self.project(group) for group in by_size(views)])
        count, batch = views.shape[:2]
        z = self.projector(self(views.flatten(0, 1)))  # (V * B, D)
        return z.view(count, batch, -1)  # type: ignore[no-any-return]

    def sample_losses(
        self, views: Tensor | list[Tensor], ids: Tensor | None = None
    ) -> SampleLosses:
        """(V, B, 3, S, S) views of samples ``ids`` to losses and what the memory records."""
        z = self.project(views)  # (V, B, D)
        if not (self.memory.contrasts and isinstance(self.loss, NTXentLoss)):
            return self.watch(z, self.loss_of(z, ids=ids))
        temperature = self.loss.temperature_at(self.current_epoch, self._epochs())
        memory = self.memory
        losses, signals = nt_xent_with_signals(
            self.loss, z, temperature,
            signal_temperature=memory.temperature, num_neighbors=memory.num_neighbors,
        )  # fmt: skip
        return self.watch(z, losses, signals)

    def loss_of(self, z: Tensor, *more: Any, **known: Any) -> Tensor:
        """(V, B, D) projections, and what the loss takes besides, to (B,) losses."""
        return call_loss(
            self.loss, z, *more, epoch=self.current_epoch, epochs=self._epochs(), **known
        )

    def _epochs(self) -> int:
        """Epochs of the run; without a trainer there is one."""
        return 1 if self._trainer is None else self.trainer.max_epochs or 1

    def watch(self, z: Tensor, losses: Tensor, signals: Signals | None = None) -> SampleLosses:
        """Add what the memory records of (V, B, D) z: losses, another loss of z, signals."""
        detached = losses.detach()
        found: dict[str, Tensor] = {"loss": detached}
        with torch.no_grad():
            if self.memory.contrasts:
                if signals is None:
                    first, second = z.detach()
                    signals = contrastive_signals(
                        first, second, self.memory.temperature,
                        num_neighbors=self.memory.num_neighbors,
                    )  # fmt: skip
                found = signals._asdict() | found
            if self.watched_loss is not None:
                found["loss"] = self.watched_loss(z.detach())  # (B,)
        # The trackers refuse values that are not finite and name their samples; so finite ones
        # must not hide a loss that trains and is not.
        finite = detached.isfinite()
        watched: dict[str, Tensor] = {
            n: torch.where(finite, found[n], detached) for n in self.memory.of_steps
        }
        return SampleLosses(losses, watched)

    # --- training -------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Build the tracker for the datamodule's training set."""
        if stage != "fit":
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        samples: int | None = getattr(data, "num_samples", None)
        if self.tracker is None:
            if samples is None:
                raise InputError(
                    "the size of the training set is unknown; set num_samples=N, or train with a "
                    "datamodule that has num_samples."
                )
            self._build_trackers(samples)
        elif samples not in (None, self.tracker.num_samples):
            raise InputError(
                f"the method tracks {self.tracker.num_samples} samples but the datamodule has "
                f"{samples}; train on the data it was built for, or build a new method."
            )

    def view_scores(self, ids: Tensor) -> Tensor:
        """(B,) sample ids to the (B,) scores that steer their views; see `MemorySettings`.

        External images, of id -1, have the mean of all scores.
        """
        scores = self.tracker.scores
        if self.memory.scores == "mean":
            return scores.mean().expand(len(ids))
        if self.memory.scores == "shuffled":
            seed, epoch, device = self.views.seed, self.current_epoch, scores.device
            order = permutation(len(scores), seed, epoch, _SHUFFLE_STREAM, device=device)
            return torch.where(ids < 0, scores.mean(), scores[order[ids]])
        return torch.where(ids < 0, scores.mean(), scores[ids])

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Take one step: scores, views, losses, memory."""
        images, ids = batch["image"], batch["id"]  # (B, 3, H, W), (B,)
        scores = self.view_scores(ids) if self.views.boost is not None else None
        keys, external = ids, batch.get("external")
        if external is not None:  # images of id -1, whose place keys their views
            keys = torch.where(ids < 0, -1 - external, ids)
        views = self.views(images, scores=scores, ids=keys, epoch=self.current_epoch)
        losses, watched = self.sample_losses(views, ids)  # (B,), (B,) by signal
        sharpness, now = self.optimizer.sharpness, self.current_pass
        if sharpness is not None and not now.trains:
            losses = losses * sharpness.weights(self.trackers, ids)  # before the memory has these
        if watched and now.records:
            trackers, values = [self.trackers[n] for n in watched], torch.stack([*watched.values()])
            if external is not None:  # the memory has none of these
                ids, values = ids[ids >= 0], values[:, ids >= 0]
            with self._naming_the_step():
                update_together(trackers, ids, values, wait=False)
        loss: Tensor = losses.mean()
        if now.trains:
            shown, size = loss.detach(), len(images)
            self.log("loss", shown, on_step=False, on_epoch=True, prog_bar=True, batch_size=size)
        return loss

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Step; a sharpness-aware step passes its batch twice (see `SharpnessSettings`)."""
        closure, sharpness = optimizer_closure, self.optimizer.sharpness
        if sharpness is not None:
            closure = functools.partial(pass_twice, self, sharpness, optimizer_closure)
        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def on_before_optimizer_step(self, _: torch.optim.Optimizer) -> None:
        """Stop before the step if the tracker refused its losses."""
        # Not in `training_step`: until here a GPU runs the backward pass without waiting.
        with self._naming_the_step():
            for tracker in self.trackers.values():
                tracker.flush()

    @contextlib.contextmanager
    def _naming_the_step(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise InputError(f"step {self.global_step}: {error}") from None

    def on_train_epoch_end(self) -> None:
        """Refresh the scores once per epoch, before checkpoints are written."""
        for tracker in self.trackers.values():
            tracker.refresh()
        for name, value in figures(self.loss, self.current_epoch, self._epochs()).items():
            self.log(name, value)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule, which moves every step."""
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise InputError(
                f"the schedule needs the last epoch; set max_epochs to at least 1, not {epochs!r}."
            )

        def factor(step: int) -> float:
            # Lightning asks for step 0 now. If it had to count the steps, it would build the
            # loaders before it restores their position; `on_train_start` sets the rate.
            return self._rate_factor(step) if step else 1.0

        optimizer = self.optimizer.build(self)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _rate_factor(self, step: int) -> float:
        total, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs
        base = self.optimizer.learning_rate
        return self.schedule.factor(step, total=total, epochs=epochs, base=base)  # type: ignore[arg-type]

    def on_train_start(self) -> None:
        """See that signals of features are measured; set the optimizer's numbers as configured."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        measured = any(hasattr(each, "measures_signals") for each in callbacks)
        data: Any = getattr(self.trainer, "datamodule", None)
        selected = any(hasattr(each, "selects_images") for each in callbacks)
        if getattr(data, "selection", None) is not None and not selected:
            raise InputError(
                "the datamodule's selection is made between epochs; train with `bcl fit`, or give "
                "the trainer the callback bcl.training.Selection()."
            )
        if self.memory.of_features and not measured:
            raise InputError(
                f"{', '.join(self.memory.of_features)} are measured between epochs; train with "
                "`bcl fit`, or give the trainer the callback bcl.training.FeatureSignals()."
            )
        if self.optimizer.sharpness is not None and self.trainer.accumulate_grad_batches != 1:
            raise InputError(
                "a sharpness-aware step passes its batch twice, which accumulated batches cannot; "
                "leave out --trainer.accumulate_grad_batches, or optimizer.sharpness."
            )
        (optimizer,), (schedule,) = self.trainer.optimizers, self.trainer.lr_scheduler_configs
        # A resume restored those of the checkpoint.
        configured = self.optimizer.build(self).param_groups
        for group, own in zip(optimizer.param_groups, configured, strict=True):
            group |= {key: value for key, value in own.items() if key != "params"}
            group["initial_lr"] = own["lr"]
            group["lr"] = own["lr"] * self._rate_factor(self.global_step)
        schedule.scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load weights and trackers; a method without trackers takes the saved size."""
        saved = state_dict.get("tracker.momentum_loss")
        if self.tracker is None and saved is not None:
            self._build_trackers(saved.numel())
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def by_size(views: list[Tensor]) -> list[Tensor]:
    """Stack neighboring (B, 3, S, S) views of one size, which pass the encoder together."""
    groups = itertools.groupby(views, key=lambda view: view.shape)
    return [torch.stack(list(group)) for _, group in groups]
