"""A loss of your own: one number per sample."""

# --8<-- [start:loss]
import torch
from torch import Tensor, nn


class AlignUniformLoss(nn.Module):
    """Alignment and uniformity (Wang and Isola 2020), one number per sample."""

    def __init__(self, weight: float = 1.0, t: float = 2.0) -> None:
        super().__init__()
        self.weight, self.t = weight, t

    def forward(self, views: Tensor) -> Tensor:
        """Two views (2, B, D), not normalized, to (B,) losses."""
        z = nn.functional.normalize(views.float(), dim=-1)
        align = (z[0] - z[1]).square().sum(-1)  # (B,)
        squared = (2 - 2 * z @ z.transpose(1, 2)).clamp_min(0)  # (2, B, B)
        own = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
        near = (-self.t * squared).masked_fill(own, float("-inf"))
        uniform = near.logsumexp(-1) - torch.tensor(z.shape[1] - 1.0).log()  # (2, B)
        return align + self.weight * uniform.mean(0)


# --8<-- [end:loss]

# --8<-- [start:use]
from bcl import BCL

method = BCL("resnet8", views=16, loss=AlignUniformLoss())
losses, watched = method.sample_losses(torch.rand(2, 8, 3, 16, 16))  # (8,), (8,)
# --8<-- [end:use]

# --8<-- [start:test]
loss_of = AlignUniformLoss()
z = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
torch.manual_seed(0)
swapped = z[:, torch.randperm(6)]
assert loss_of(z).shape == (6,)  # one per sample
torch.testing.assert_close(loss_of(z).mean(), loss_of(swapped).mean())  # no order among samples
torch.testing.assert_close(loss_of(3 * z), loss_of(z))  # lengths do not matter
assert loss_of(z.expand(2, 6, 4)).isfinite().all()
# --8<-- [end:test]

losses.mean().backward()
