"""CACR as a method, in the three forms of its paper."""

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bcl.augment import ContrastiveViews
from bcl.core.errors import InputError, unknown_name
from bcl.methods.simclr import SimCLR, by_size
from bcl.models import Projector
from cacr.loss import CACRLoss
from cacr.queue import MomentumQueue, momentum_update

Form = Literal["batch", "moco", "moco-v3"]
FORMS: tuple[Form, ...] = ("batch", "moco", "moco-v3")
_DEFAULT_LOSS = {"batch": "cifar10", "moco": "imagenet-moco", "moco-v3": "imagenet-mocov3"}


class CACR(SimCLR):
    r"""Contrastive attraction and repulsion, in the batch, with a queue, or with a teacher.

    - ``"batch"``: V = K + 1 views of each sample, all pairs (the paper's small-scale form).
    - ``"moco"``: positives and queue come from a momentum encoder.
    - ``"moco-v3"``: queries pass a predictor; the momentum encoder is the teacher, its momentum
      rises to 1 by a cosine; local views of a multi-crop are queries only.

    The momentum encoder follows :math:`k \leftarrow m k + (1 - m) q` once an optimizer step. Under
    DDP give it batch statistics of the whole batch, or the keys leak their batch: train with
    ``--trainer.sync_batchnorm true``, which takes the place of MoCo's shuffling.

    With boosted views this is BCL with CACR, a combination that no paper has.

    Args:
        form: which of the three.
        queue_size: Q of ``"moco"``.
        teacher_momentum: m, or where its cosine starts (0.996 in the paper's ``"moco-v3"``).
        predictor_features: width inside the predictor of ``"moco-v3"``, which has batch norms
            where the projector has them.
        kwargs: those of `bcl.SimCLR`. ``views`` has five views by default (K = 4) with the paper's
            augmentation, ``loss`` is `cacr.CACRLoss` with the form's settings.

    Raises:
        InputError: unknown form, local views without ``"moco-v3"``, or a number out of range.

    Source: CACR (arXiv 2105.03746), sections 4 and 5; MoCo (arXiv 1911.05722); MoCo v3
    (arXiv 2104.02057).

    Example:
        >>> method = CACR("resnet8", image_size=16, form="moco", queue_size=32)
        >>> method.sample_losses(torch.rand(5, 4, 3, 16, 16)).shape
        torch.Size([4])
    """

    def __init__(
        self,
        *args: Any,
        form: Form = "batch",
        queue_size: int = 65_536,
        teacher_momentum: float = 0.999,
        predictor_features: int = 4096,
        loss: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if form not in FORMS:
            raise unknown_name("form", form, FORMS)
        kwargs["loss"] = loss or CACRLoss.paper(_DEFAULT_LOSS[form], reduction="none")
        super().__init__(*args, **kwargs)
        if not 0 <= teacher_momentum <= 1:
            raise InputError(f"teacher_momentum must lie in [0, 1], got {teacher_momentum!r}.")
        if getattr(self.views, "num_local", 0) and form != "moco-v3":
            raise InputError(f"local views need form='moco-v3', not '{form}'; set num_local=0.")
        self.form: Form = form
        self.teacher_momentum = teacher_momentum
        self.teacher: nn.Module | None = None
        self.queue: MomentumQueue | None = None
        self.predictor: nn.Module = nn.Identity()
        # Global step of the teacher's last move: it moves once an optimizer step, however many
        # batches are accumulated.
        self._moved_at = 0
        self._new_keys: Tensor | None = None
        if form == "batch":
            return
        self.teacher = nn.ModuleList(
            [copy.deepcopy(self.encoder), copy.deepcopy(self.projector)]
        ).requires_grad_(False)
        width = self.projector.out_features
        if form == "moco":
            self.queue = MomentumQueue(queue_size, width)
        else:
            norm = bool(kwargs.get("projector_batch_norm", True))
            self.predictor = Projector(
                width, width, predictor_features, num_layers=2, batch_norm=norm
            )

    def default_views(self, image_size: int) -> ContrastiveViews:
        """Five views with the augmentation of the paper's small-scale experiments."""
        return ContrastiveViews(
            image_size,
            num_views=5,
            scale=(0.2, 1.0),
            jitter=(0.4, 0.4, 0.4, 0.4),
            jitter_probability=1.0,
        )

    def sample_losses(self, views: Tensor | list[Tensor]) -> Tensor:
        """Views to (B,) losses."""
        z = self.project(views)  # (V, B, D)
        count, batch = z.shape[:2]
        z = self.predictor(z.flatten(0, 1)).view(count, batch, -1)
        if self.teacher is None:
            return self.loss(z)  # type: ignore[no-any-return]
        self._move_teacher()
        keys = self._keys(by_size(views)[0] if isinstance(views, list) else views)  # (G, B, D)
        if self.queue is None:
            return self.loss(z, keys=keys)  # type: ignore[no-any-return]
        self._new_keys = keys[-1]  # as released: those of the last view
        return self.loss(z, self.queue.keys, keys)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _keys(self, views: Tensor) -> Tensor:
        """(G, B, 3, S, S) global views to (G, B, D) momentum features."""
        encoder, projector = self.teacher  # type: ignore[misc]
        features = encoder(self._normalize(views.flatten(0, 1)))
        return projector(features).view(*views.shape[:2], -1)  # type: ignore[no-any-return]

    def _move_teacher(self) -> None:
        trainer = self._trainer
        if trainer is None or self.teacher is None or trainer.global_step == self._moved_at:
            return
        self._moved_at = trainer.global_step
        momentum = self.teacher_momentum
        if self.form == "moco-v3":
            progress = trainer.global_step / max(int(trainer.estimated_stepping_batches), 1)
            momentum = 1 - (1 - momentum) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        momentum_update(self.teacher, nn.ModuleList([self.encoder, self.projector]), momentum)

    def on_after_backward(self) -> None:
        """Enqueue the step's keys, when autograd no longer needs the queue as it was."""
        if self.queue is not None and self._new_keys is not None:
            self.queue.enqueue(self._new_keys)
            self._new_keys = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save when the teacher moved last."""
        checkpoint["teacher_moved_at"] = self._moved_at

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there."""
        self._moved_at = checkpoint.get("teacher_moved_at", 0)
