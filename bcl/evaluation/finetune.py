"""Fine-tuning of the whole encoder, starting from the fitted linear probe."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.errors import InputError
from bcl.core.random import permutation
from bcl.evaluation.crops import crop_and_flip
from bcl.evaluation.features import ImageDataset, Progress

SETTINGS = (
    "SGD 0.01 cosine, momentum 0.9, batch 128, {} epochs, crops and flips, head from the linear "
    "probe, last epoch"
)
LEARNING_RATE, BATCH_SIZE = 0.01, 128


def fine_tune(
    method: nn.Module,
    dataset: ImageDataset,
    indices: Tensor,
    test: ImageDataset,
    head: tuple[Tensor, Tensor],
    *,
    epochs: int,
    seed: int,
    device: str | torch.device,
    progress: Progress | None,
) -> Tensor:
    """Train a copy of ``method`` and its probe on (n,) indices; returns (M, C) test logits.

    The fitted probe, weight (D, C) and bias (C,), is the start, since a random head would first
    damage the features.
    """
    encoder: Any = copy.deepcopy(method).to(device).train().requires_grad_(True)
    weight, bias = head
    absent = bias.isinf()
    linear = nn.Linear(*weight.shape).to(device)
    with torch.no_grad():
        linear.weight.copy_(weight.T)
        linear.bias.copy_(bias.masked_fill(absent, 0.0))
    mask = torch.where(absent, -torch.inf, 0.0).to(device)  # classes without training images
    parameters = [*encoder.parameters(), *linear.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    steps = epochs * math.ceil(len(indices) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    labels, step = dataset.labels.cpu(), 0
    for epoch in range(epochs):
        order = indices.cpu()[permutation(len(indices), seed, epoch, 0xF17E)]
        for rows in torch.split(order, BATCH_SIZE):
            step += 1
            if len(rows) > 1 or len(indices) == 1:  # batch norm needs two images
                images = crop_and_flip(dataset.images(rows).to(device), rows, seed, epoch)
                logits = linear(encoder(images)) + mask
                loss = nn.functional.cross_entropy(logits, labels[rows].to(device))
                if not loss.requires_grad or not bool(loss.isfinite()):
                    raise InputError(
                        f"fine-tuning failed in epoch {epoch + 1}: the loss is {float(loss)}; the "
                        "encoder gives no gradient or has diverged."
                    )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
            schedule.step()
            if progress is not None:
                progress("fine-tuning", step, steps)
    encoder.eval()
    logits = torch.empty(len(test), weight.shape[1])
    with torch.inference_mode():
        for batch in test.batches(512, torch.device(device)):
            logits[batch["id"].cpu()] = (linear(encoder(batch["image"])) + mask).cpu()
    return logits
