"""Global magnitude pruning: the damaged branch of SDCLR, and training through a mask."""

from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor, nn

from bcl.core.errors import InputError

DOT = "/"  # replaces the dots of names, which torch does not allow


def convolution_weights(module: nn.Module) -> dict[str, Tensor]:
    """Collect the weights of all convolutions: stem, blocks and shortcuts, not norms or heads."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {
        f"{name}.weight" if name else "weight": layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, kinds)
    }


@torch.no_grad()
def magnitude_masks(weights: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    r"""Mask the smallest weights of all layers together.

    .. math:: m_j = [\,|w_j| \ge \theta\,], \qquad \theta = |w|_{(\mathrm{round}(p\,n))}

    with :math:`|w|_{(k)}` the k-th smallest magnitude, counted from 0, over all n weights.

    Args:
        weights: name to weight, of any shapes, on one device.
        fraction: p in [0, 1), the share to prune.

    Returns:
        Name to bool mask of the weight's shape; True is kept. Everything stays on the device.

    Raises:
        InputError: no weights, or a fraction outside [0, 1).

    Source: SDCLR (arXiv 2106.02990), section 3.2; global magnitude pruning of Han et al. 2015.

    Example:
        >>> magnitude_masks({"w": torch.tensor([0.1, -3.0, 0.2, 1.0])}, 0.5)
        {'w': tensor([False,  True, False,  True])}
    """
    if not isinstance(fraction, Real) or not 0 <= fraction < 1:
        raise InputError(f"the pruned fraction must be a number in [0, 1), got {fraction!r}.")
    if not weights:
        raise InputError(
            "there is no convolution to prune; use an encoder with convolutions, such as resnet18."
        )
    magnitudes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])  # (n,)
    # kthvalue counts from 1; the host knows n and k, so nothing is copied to it. At least one
    # weight is kept, also of so few that rounding would prune them all.
    pruned = min(round(fraction * magnitudes.numel()), magnitudes.numel() - 1)
    threshold = magnitudes.kthvalue(pruned + 1).values  # ()
    return {name: weight.abs() >= threshold for name, weight in weights.items()}


class Masks(nn.Module):
    """Magnitude masks of an encoder's convolution weights, as buffers that are saved.

    Args:
        encoder: the module with the convolutions.
        fraction: p in [0, 1), the share to prune.

    Raises:
        InputError: no convolutions, or a fraction outside [0, 1).

    Example:
        >>> layer = nn.Conv1d(1, 1, 2, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[[0.1, -2.0]]]))
        >>> Masks(layer, 0.5).apply_to(layer)["weight"]
        tensor([[[ 0., -2.]]], grad_fn=<MulBackward0>)
    """

    def __init__(self, encoder: nn.Module, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction
        for name, mask in magnitude_masks(convolution_weights(encoder), fraction).items():
            self.register_buffer(name.replace(".", DOT), mask)

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """Compute the masks from the current weights."""
        for name, mask in magnitude_masks(convolution_weights(encoder), self.fraction).items():
            self.get(name).copy_(mask)

    def get(self, name: str) -> Tensor:
        """Return the mask of a weight."""
        found: Tensor = getattr(self, name.replace(".", DOT))
        return found

    def apply_to(self, encoder: nn.Module, straight_through: bool = False) -> dict[str, Tensor]:
        """Mask the encoder's weights, by name.

        The gradient reaches the weights that are kept, or ``straight_through`` all of them: each
        gets the gradient of its masked value.
        """
        weights = convolution_weights(encoder)
        masked = {name: weight * self.get(name) for name, weight in weights.items()}
        if not straight_through:
            return masked
        return {name: weight + (masked[name] - weight).detach() for name, weight in weights.items()}
