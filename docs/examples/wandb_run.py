"""Logging the loss memory to Weights & Biases, offline."""

# --8<-- [start:log]
import torch
import wandb

from bcl import MemorizationTracker

run = wandb.init(project="long-tail", mode="offline")
tracker = MemorizationTracker(num_samples=100)
for epoch in range(3):
    losses = torch.rand(100)  # from your loss, reduction="none"
    tracker.update(torch.arange(100), losses)
    tracker.refresh()
    run.log(
        {
            "loss": losses.mean().item(),
            "scores": wandb.Histogram(tracker.scores.numpy()),
            "boosted share": (tracker.scores > 0.5).float().mean().item(),
        },
        step=epoch,
    )
run.finish()
# --8<-- [end:log]

from pathlib import Path

assert list(Path("wandb").glob("offline-run-*/*.wandb"))
