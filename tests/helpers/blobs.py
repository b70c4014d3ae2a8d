"""Made-up features: Gaussian clouds, one per class."""

import torch


def blobs(n, classes=5, dims=10, seed=0):
    centers = torch.randn(classes, dims, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed + 1)
    labels = torch.arange(n) % classes
    return centers[labels] + 0.7 * torch.randn(n, dims, generator=generator), labels
