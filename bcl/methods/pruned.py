"""Training through a pruned encoder whose gradient reaches all weights."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bcl.augment import ContrastiveViews
from bcl.memorization.tracker import MemorizationTracker
from bcl.methods.optimizers import OptimizerSettings
from bcl.methods.schedule import ScheduleSettings
from bcl.methods.settings import EncoderSettings, MemorySettings, ProjectorSettings
from bcl.methods.simclr import SimCLR
from bcl.models.pruning import Masks


class Pruned(SimCLR):
    r"""SimCLR through a masked encoder: pruned in the forward pass, not in the backward pass.

    .. math:: z_v = g(f_{\theta \odot m}(x_v)), \qquad
        \theta \leftarrow \theta - \eta\, \nabla_{\theta \odot m}\, \text{loss}

    The mask m is the global magnitude mask of all convolution weights at the start of the epoch
    (`bcl.models.pruning.magnitude_masks`). The gradient is that at the masked network, but masked
    weights follow it too, so that they may grow and return; weight decay applies to all. Unlike
    `bcl.SDCLR` there is one branch with one set of batch norms. Features are those of the masked
    encoder, and so is what `trained_encoder` returns.

    Args:
        prune_fraction: share of the convolution weights masked, in [0, 1). The other arguments are
            those of `bcl.SimCLR`.

    Raises:
        InputError: an encoder without convolutions.

    Source: forward-masked pruning of "Theoretical Analysis of Contrastive Learning under Imbalanced
    Data" (ICLR 2026), as described there; no code is released, and how often its mask is computed
    and how much it prunes are not known to us.

    Example:
        >>> method = Pruned("resnet8", views=16, prune_fraction=0.5)
        >>> method.project(torch.rand(2, 4, 3, 16, 16)).shape
        torch.Size([2, 4, 128])
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
        prune_fraction: float = 0.3,
    ) -> None:
        super().__init__(
            encoder, projector, views, loss, memory, optimizer, schedule,
            num_samples, channels_last, seed,
        )  # fmt: skip
        self.masks = Masks(self.encoder, prune_fraction)

    def on_train_batch_start(self, _: Any, batch_idx: int) -> None:
        """Prune at the start of an epoch, not where a resume continues within one."""
        if batch_idx == 0:
            self.masks.update(self.encoder)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images, uint8 or in [0, 1], to (B, D) features of the masked encoder."""
        weights = self.masks.apply_to(self.encoder, straight_through=True)
        return functional_call(self.encoder, weights, (self.normalize(images),))  # type: ignore[no-any-return]

    @torch.no_grad()
    def trained_encoder(self) -> nn.Module:
        """Return a copy of the encoder with its masked weights at 0."""
        encoder = copy.deepcopy(self.encoder)
        encoder.load_state_dict(self.masks.apply_to(self.encoder), strict=False)
        return encoder  # type: ignore[no-any-return]
