"""SDCLR: the second branch is the encoder itself, damaged by pruning."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from bcl.augment import ContrastiveViews
from bcl.core.errors import InputError
from bcl.memorization.tracker import MemorizationTracker
from bcl.methods.optimizers import OptimizerSettings
from bcl.methods.schedule import ScheduleSettings
from bcl.methods.settings import EncoderSettings, MemorySettings, ProjectorSettings
from bcl.methods.simclr import SimCLR
from bcl.models.pruning import DOT, Masks


class SDCLR(SimCLR):
    r"""Self-damaging contrastive learning: view 2 goes through the pruned network.

    .. math:: z_1 = g(f_\theta(x_1)), \qquad z_2 = \tilde g(f_{\theta \odot m}(x_2))

    The mask m is the global magnitude mask of all convolution weights at the start of the epoch
    (`bcl.models.pruning.magnitude_masks`). The branches share the weights; gradients of the pruned
    branch reach those it keeps, or, ``straight_through``, all weights. Batch norms have separate
    statistics and affine weights for the pruned branch. Features come from the dense branch. With
    boosted views this is BCL-D.

    The released code takes two backward passes per step, with one branch detached in each. Their
    sum is the gradient of the one loss of both branches, so one backward pass is enough. The batch
    norms of the pruned branch then update their running statistics once per step, not twice.

    Args:
        prune_fraction: share of the convolution weights that the second branch lacks, in [0, 1).
            The other arguments are those of `bcl.SimCLR`; the papers use a weight decay of 1e-4.
        straight_through: whether the gradient of a masked weight's value moves the weight, so that
            it may grow and return, as in `bcl.methods.Pruned`.

    Raises:
        InputError: an encoder without batch norm or convolutions, or more than two views.

    Source: SDCLR (arXiv 2106.02990), section 3; BCL-D of BCL (arXiv 2205.12693).

    Example:
        >>> method = SDCLR("resnet8", views=16, prune_fraction=0.5)
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
        prune_fraction: float = 0.9,
        straight_through: bool = False,
    ) -> None:
        super().__init__(
            encoder, projector, views, loss, memory, optimizer, schedule,
            num_samples, channels_last, seed,
        )  # fmt: skip
        if not any(isinstance(layer, _BatchNorm) for layer in self.encoder.modules()):
            raise InputError(
                f"{type(self.encoder).__name__} has no batch norm, but SDCLR keeps batch-norm "
                "statistics per branch; use an encoder with batch norm, such as resnet18."
            )
        self.straight_through = straight_through
        # A resume within an epoch needs the masks of its start: they are buffers.
        self.masks = Masks(self.encoder, prune_fraction)
        self.encoder_norms = _Store(_norm_state(self.encoder))
        self.projector_norms = _Store(_norm_state(self.projector))

    def prune(self) -> None:
        """Compute the masks from the current weights."""
        self.masks.update(self.encoder)

    def on_train_batch_start(self, _: Any, batch_idx: int) -> None:
        """Prune at the start of an epoch, not where a resume continues within one."""
        if batch_idx == 0:
            self.prune()

    def project(self, views: Tensor | list[Tensor]) -> Tensor:
        """(2, B, 3, S, S) views to (2, B, D): the first dense, the second pruned."""
        if isinstance(views, list) or views.shape[0] != 2:
            raise InputError(
                "SDCLR has two branches and takes two views; set num_views=2 and no local views."
            )
        dense = self.projector(self(views[0]))  # (B, D)
        pruned = self.masks.apply_to(self.encoder, self.straight_through)
        images = self.normalize(views[1])
        features = functional_call(self.encoder, {**pruned, **self.encoder_norms.all()}, (images,))
        damaged = functional_call(self.projector, self.projector_norms.all(), (features,))
        return torch.stack([dense, damaged])  # (2, B, D)


class _Store(nn.Module):
    """Tensors under dotted names: parameters, and buffers that are saved."""

    def __init__(self, tensors: dict[str, tuple[Tensor, bool]]) -> None:
        super().__init__()
        for name, (tensor, trained) in tensors.items():
            flat = name.replace(".", DOT)
            if trained:
                self.register_parameter(flat, nn.Parameter(tensor.detach().clone()))
            else:
                self.register_buffer(flat, tensor.detach().clone())

    def get(self, name: str) -> Tensor:
        found: Tensor = getattr(self, name.replace(".", DOT))
        return found

    def all(self) -> dict[str, Tensor]:
        named = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {name.replace(DOT, "."): tensor for name, tensor in named.items()}


def _norm_state(module: nn.Module) -> dict[str, tuple[Tensor, bool]]:
    """Weights (trained) and statistics (not) of every batch norm, by full name."""
    found: dict[str, tuple[Tensor, bool]] = {}
    for path, layer in module.named_modules():
        if not isinstance(layer, _BatchNorm):
            continue
        start = f"{path}." if path else ""
        found |= {start + name: (value, True) for name, value in layer.named_parameters()}
        found |= {start + name: (value, False) for name, value in layer.named_buffers()}
    return found
