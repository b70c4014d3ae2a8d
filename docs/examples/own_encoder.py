"""An encoder of your own: a module with ``num_features``."""

# --8<-- [start:encoder]
import torch
from torch import Tensor, nn


class PatchMixer(nn.Module):
    """Patches of 4 pixels, two layers, mean over the patches."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.num_features = width  # read by probes and projector
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.norm = nn.BatchNorm2d(width)
        self.mix = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalized images to (B, num_features)."""
        x = torch.relu(self.norm(self.patches(x)))
        return torch.relu(self.mix(x)).mean((2, 3))


# --8<-- [end:encoder]

# --8<-- [start:use]
from bcl import BCL, SDCLR

method = BCL(PatchMixer(), views=16)
features = method.encode(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8))  # (8, 64)

pruned = SDCLR(PatchMixer(), views=16)  # needs convolutions, batch norm
z = pruned.project(torch.rand(2, 8, 3, 16, 16))  # (2, 8, 128)
# --8<-- [end:use]

assert features.shape == (8, 64)
assert z.shape == (2, 8, 128)
