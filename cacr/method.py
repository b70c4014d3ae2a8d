"""CACR as a method, in the three forms of its paper."""

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bcl.augment import ChainSettings, ContrastiveViews
from bcl.core.checks import check_choice, check_count
from bcl.core.errors import InputError
from bcl.memorization.tracker import MemorizationTracker
from bcl.methods.optimizers import OptimizerSettings
from bcl.methods.schedule import ScheduleSettings
from bcl.methods.settings import EncoderSettings, MemorySettings, ProjectorSettings
from bcl.methods.simclr import SampleLosses, SimCLR, by_size
from bcl.models import Projector
from cacr.loss import CACRLoss
from cacr.queue import MomentumQueue, momentum_update

Form = Literal["batch", "moco", "moco-v3"]
_PAPER_LOSS: dict[Form, str] = {
    "batch": "cifar10",
    "moco": "imagenet-moco",
    "moco-v3": "imagenet-mocov3",
}


@dataclass(frozen=True)
class TeacherSettings:
    """Settings of the momentum encoder, the queue and the predictor.

    Args:
        momentum: m in [0, 1]; with ``"moco-v3"`` the start of its cosine (0.996 in the paper).
        queue_size: Q, number of keys in the queue of ``"moco"``.
        predictor_features: width inside the predictor of ``"moco-v3"``.
    """

    momentum: float = 0.999
    queue_size: int = 65_536
    predictor_features: int = 4096

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise InputError(f"teacher.momentum must lie in [0, 1], got {self.momentum!r}.")
        check_count("teacher.queue_size", self.queue_size)
        check_count("teacher.predictor_features", self.predictor_features)


class CACR(SimCLR):
    r"""Contrastive attraction and repulsion, in the batch, with a queue, or with a teacher.

    - ``"batch"``: V = K + 1 views of each sample, all pairs (the paper's small-scale form).
    - ``"moco"``: positives and queue come from a momentum encoder.
    - ``"moco-v3"``: queries pass through a predictor; the momentum encoder is the teacher, and its
      momentum rises to 1 by a cosine; local views of a multi-crop are queries only.

    The momentum encoder follows :math:`k \leftarrow m k + (1 - m) q` after every optimizer step.
    Under DDP give it batch statistics of the whole batch, or the keys leak their batch: train with
    ``--trainer.sync_batchnorm true``, which replaces MoCo's shuffling.

    With boosted views this is BCL with CACR, a combination that is in no paper.

    The other arguments are those of `bcl.SimCLR`. The default is five views (K = 4) with the
    augmentation of the paper's small-scale experiments; the loss is `cacr.CACRLoss` with the
    settings of the form; the predictor has batch norms where the projector's settings have.

    Args:
        form: ``"batch"``, ``"moco"`` or ``"moco-v3"``.
        teacher: settings of the momentum encoder of ``"moco"`` and ``"moco-v3"``.

    Raises:
        InputError: an unknown form, or local views without ``"moco-v3"``.

    Source: CACR (arXiv 2105.03746), sections 4 and 5; MoCo (arXiv 1911.05722); MoCo v3
    (arXiv 2104.02057).

    Example:
        >>> method = CACR("resnet8", views=16, form="moco", teacher=TeacherSettings(queue_size=32))
        >>> method.sample_losses(torch.rand(5, 4, 3, 16, 16)).losses.shape
        torch.Size([4])
    """

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
        form: Form = "batch",
        teacher: TeacherSettings = TeacherSettings(),
    ) -> None:
        check_choice("form", form, tuple(_PAPER_LOSS))
        loss = CACRLoss.paper(_PAPER_LOSS[form], reduction="none") if loss is None else loss
        if form != "batch" and isinstance(memory, MemorySettings) and memory.contrasts:
            named = ", ".join(name for name in memory.of_steps if name != "loss")
            raise InputError(
                f"form='{form}' compares with a momentum encoder's keys, so the memory cannot "
                f"record {named}; record the loss or signals of features."
            )
        super().__init__(
            encoder, projector, views, loss, memory, optimizer, schedule,
            num_samples, channels_last, seed,
        )  # fmt: skip
        if self.views.num_local and form != "moco-v3":
            raise InputError(f"local views need form='moco-v3', not '{form}'; set num_local=0.")
        self.form: Form = form
        self.teacher_settings = teacher
        self.teacher: nn.Module | None = None
        self.queue: MomentumQueue | None = None
        self.predictor: nn.Module = nn.Identity()
        if form == "batch":
            return
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        width: Any = self.projector.out_features
        if form == "moco":
            self.queue = MomentumQueue(teacher.queue_size, width)
        else:
            norm = projector.batch_norm if isinstance(projector, ProjectorSettings) else True
            self.predictor = Projector(width, width, teacher.predictor_features, batch_norm=norm)

    @property
    def student(self) -> nn.ModuleList:
        """Encoder and projector, which the momentum encoder follows."""
        return nn.ModuleList([self.encoder, self.projector])

    def build_views(self, views: ContrastiveViews | int) -> ContrastiveViews:
        """Return the views, or build the paper's for an image size."""
        if not isinstance(views, int):
            return views
        chain = ChainSettings(
            scale=(0.2, 1.0), color_jitter=(0.4, 0.4, 0.4, 0.4), color_jitter_probability=1.0
        )
        return ContrastiveViews(views, num_views=5, chain=chain)

    def sample_losses(
        self, views: Tensor | list[Tensor], ids: Tensor | None = None
    ) -> SampleLosses:
        """(V, B, 3, S, S) views to (B,) losses; in training mode the queue takes the keys."""
        z = self.project(views)  # (V, B, D)
        count, batch = z.shape[:2]
        z = self.predictor(z.flatten(0, 1)).view(count, batch, -1)
        if self.teacher is None:
            return self.watch(z, self.loss_of(z, ids=ids))
        keys = self.keys(by_size(views)[0] if isinstance(views, list) else views)  # (G, B, D)
        if self.queue is None:
            return self.watch(z, self.loss_of(z, ids=ids, keys=keys))
        # Autograd keeps the negatives of this step, which the queue then overwrites.
        losses = self.loss_of(z, self.queue.keys.clone(), keys, ids=ids)
        if self.training and self.current_pass.trains:
            self.queue.enqueue(keys[-1])  # those of the last view, as released
        return self.watch(z, losses)

    @torch.no_grad()
    def keys(self, views: Tensor) -> Tensor:
        """(G, B, 3, S, S) global views to (G, B, D) projections of the momentum encoder."""
        encoder, projector = self.teacher  # type: ignore[misc]
        features = encoder(self.normalize(views.flatten(0, 1)))
        return projector(features).view(*views.shape[:2], -1)  # type: ignore[no-any-return]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Step, then update the momentum encoder: once per step, not per batch."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.teacher is None:
            return
        momentum = self.teacher_settings.momentum
        if self.form == "moco-v3":
            done = (self.global_step + 1) / int(self.trainer.estimated_stepping_batches)
            momentum = 1 - (1 - momentum) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        momentum_update(self.teacher, self.student, momentum)
