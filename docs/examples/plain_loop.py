"""Boosted contrastive learning in a plain PyTorch loop, on random images."""

# --8<-- [start:loop]
import torch
from torch import nn

from bcl import BoostedRandAugment, ContrastiveViews, MemorizationTracker, NTXentLoss

torch.manual_seed(0)
images = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8)  # your images, on the device
encoder = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
projector = nn.Linear(16 * 4 * 4, 64)
network = nn.Sequential(encoder, projector)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

views = ContrastiveViews(32, boost=BoostedRandAugment())
loss_of = NTXentLoss(temperature=0.2, reduction="none")
tracker = MemorizationTracker(num_samples=len(images))

for epoch in range(3):
    for ids in torch.randperm(len(images)).split(64):
        x = views(images[ids], scores=tracker.scores[ids], ids=ids, epoch=epoch)
        z = network(x.flatten(0, 1)).view(2, len(ids), -1)  # (2, B, D)
        losses = loss_of(z)  # (B,)
        losses.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        tracker.update(ids, losses)
    tracker.refresh()
# --8<-- [end:loop]

assert tracker.seen.all()
assert 0 < tracker.scores.mean() < 1

# --8<-- [start:cacr]
from bcl.augment import ChainSettings
from cacr import CACRLoss

views = ContrastiveViews(32, 5, ChainSettings(scale=(0.2, 1.0)), boost=BoostedRandAugment())
loss_of = CACRLoss.paper("cifar10", reduction="none")

ids = torch.arange(64)
x = views(images[ids], scores=tracker.scores[ids], ids=ids, epoch=3)  # (5, B, 3, 32, 32)
losses = loss_of(network(x.flatten(0, 1)).view(5, len(ids), -1))  # (B,)
# --8<-- [end:cacr]

assert losses.shape == (64,)
losses.mean().backward()
