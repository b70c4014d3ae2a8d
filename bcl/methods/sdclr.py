"""SDCLR: the second branch is the encoder itself, damaged by pruning."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from bcl.core.errors import InputError
from bcl.methods.simclr import SimCLR
from bcl.models.pruning import convolution_weights, magnitude_masks

# torch's names hold no dots; this sign stands for one.
_DOT = "/"


class SDCLR(SimCLR):
    r"""Self-damaging contrastive learning: view 2 goes through the pruned network.

    .. math:: z_1 = g(f_\theta(x_1)), \qquad z_2 = \tilde g(f_{\theta \odot m}(x_2))

    The mask m is the global magnitude mask of all convolution weights at the start of the epoch
    (`bcl.models.pruning.magnitude_masks`); weights are shared, and gradients reach the kept ones.
    Every batch norm of encoder and projector has statistics and affine weights of its own for the
    pruned branch. Features are those of the dense branch.

    With boosted views this is BCL-D.

    The released code takes two backward passes a step, with one branch detached in each. Their sum
    is the gradient of the one loss of both branches, so this takes one backward pass after two
    forward passes instead of three. The batch norms of the pruned branch therefore move their
    running statistics once a step instead of twice.

    Args:
        prune_fraction: share of the convolution weights that the second branch lacks.
        kwargs: those of `bcl.SimCLR`; ``weight_decay`` is 1e-4 in the papers.

    Raises:
        InputError: an encoder without batch norm or without convolutions, a fraction outside
            [0, 1), or other than two views.

    Source: SDCLR (arXiv 2106.02990), section 3; BCL-D of BCL (arXiv 2205.12693).

    Example:
        >>> method = SDCLR("resnet8", image_size=16, prune_fraction=0.5, num_samples=8)
        >>> method.project(torch.rand(2, 4, 3, 16, 16)).shape
        torch.Size([2, 4, 128])
    """

    def __init__(self, *args: Any, prune_fraction: float = 0.9, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prune_fraction = prune_fraction
        masks = magnitude_masks(convolution_weights(self.encoder), prune_fraction)
        # The masks hold for an epoch, so a resume within it needs them: they are buffers.
        self.masks = _Store({name: (mask, False) for name, mask in masks.items()})
        self.encoder_norms = _Store(_norm_state(self.encoder))
        self.projector_norms = _Store(_norm_state(self.projector))
        if not any(isinstance(layer, _BatchNorm) for layer in self.encoder.modules()):
            raise InputError(
                f"{type(self.encoder).__name__} has no batch norm, but SDCLR keeps batch-norm "
                "statistics per branch; take an encoder with batch norm such as resnet18."
            )

    @torch.no_grad()
    def prune(self) -> None:
        """Renew the mask from the weights as they are now."""
        weights = convolution_weights(self.encoder)
        for name, mask in magnitude_masks(weights, self.prune_fraction).items():
            self.masks.get(name).copy_(mask)

    def on_train_epoch_start(self) -> None:
        """Prune anew, but not when a resume continues within an epoch."""
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            self.prune()

    def project(self, views: Tensor | list[Tensor]) -> Tensor:
        """(2, B, 3, S, S) views to (2, B, D): the first dense, the second pruned."""
        if isinstance(views, list) or views.shape[0] != 2:
            raise InputError(
                "SDCLR has two branches and takes two views; set num_views=2 and no local views."
            )
        dense = self.projector(self(views[0]))  # (B, D)
        weights = convolution_weights(self.encoder)
        pruned = {name: weight * self.masks.get(name) for name, weight in weights.items()}
        images = self._normalize(views[1])
        features = functional_call(self.encoder, {**pruned, **self.encoder_norms.all()}, (images,))
        damaged = functional_call(self.projector, self.projector_norms.all(), (features,))
        return torch.stack([dense, damaged])  # (2, B, D)


class _Store(nn.Module):
    """Tensors under dotted names: parameters, and buffers that are saved."""

    def __init__(self, tensors: dict[str, tuple[Tensor, bool]]) -> None:
        super().__init__()
        for name, (tensor, trained) in tensors.items():
            flat = name.replace(".", _DOT)
            if trained:
                self.register_parameter(flat, nn.Parameter(tensor.detach().clone()))
            else:
                self.register_buffer(flat, tensor.detach().clone())

    def get(self, name: str) -> Tensor:
        found: Tensor = getattr(self, name.replace(".", _DOT))
        return found

    def all(self) -> dict[str, Tensor]:
        named = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {name.replace(_DOT, "."): tensor for name, tensor in named.items()}


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
