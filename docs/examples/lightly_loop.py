"""A lightly loop with our loss, loss memory and boosted views."""

# --8<-- [start:loop]
import torch
from lightly.models.modules import SimCLRProjectionHead
from torch import nn

from bcl import BoostedRandAugment, ContrastiveViews, MemorizationTracker, NTXentLoss

torch.manual_seed(0)
images = torch.randint(0, 256, (128, 3, 32, 32), dtype=torch.uint8)  # your images
backbone = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
head = SimCLRProjectionHead(input_dim=32, hidden_dim=32, output_dim=64)
optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.06)

# was: criterion = lightly.loss.NTXentLoss(temperature=0.2)
criterion = NTXentLoss(temperature=0.2, reduction="none")
# was: transform = lightly.transforms.SimCLRTransform(input_size=32)
views = ContrastiveViews(32, boost=BoostedRandAugment())
tracker = MemorizationTracker(num_samples=len(images))

for epoch in range(2):
    for ids in torch.randperm(len(images)).split(64):  # a loader that gives ids with its images
        x0, x1 = views(images[ids], scores=tracker.scores[ids], ids=ids, epoch=epoch)
        z0, z1 = head(backbone(x0)), head(backbone(x1))
        losses = criterion(z0, z1)  # was: loss = criterion(z0, z1)
        losses.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        tracker.update(ids, losses)
    tracker.refresh()
# --8<-- [end:loop]

# The mean of our losses is lightly's loss.
from lightly.loss import NTXentLoss as LightlyLoss

torch.testing.assert_close(losses.mean(), LightlyLoss(temperature=0.2)(z0, z1))
assert tracker.scores.any()
