"""Fine-tuning of the whole encoder, from the fitted linear probe on."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.errors import InputError
from bcl.core.random import permutation
from bcl.evaluation.crops import crop_and_flip
from bcl.evaluation.features import ImageDataset, Progress

DEFAULT_EPOCHS = {"share": 60, "full": 20}


def fine_tune(
    method: nn.Module,
    dataset: ImageDataset,
    indices: Tensor,
    test: ImageDataset,
    head: tuple[Tensor, Tensor],
    *,
    epochs: int,
    learning_rate: float = 0.01,
    batch_size: int = 128,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """Train a copy of the encoder with its linear probe as head; the last epoch is tested.

    SGD with momentum 0.9 and a cosine from ``learning_rate`` to zero, weight decay 1e-4, gradients
    clipped to norm 1, random crops and flips. Starting from the fitted probe, the features do not
    first have to survive a random head.

    Args:
        method: maps images to features with gradient; not changed.
        dataset: the labeled set.
        indices: (n,) positions of the training images in it.
        test: the test set.
        head: weight (D, C) and bias (C,) of the fitted probe.
        epochs: passes over the training images.
        learning_rate: at the start.
        batch_size: images a step.
        seed: of the order and the augmentation.
        device: where to train.
        progress: called with steps done and in all.

    Returns:
        (M, C) logits of the test set.

    Raises:
        InputError: the encoder gives no gradient, or training diverges.
    """
    tuned: Any = copy.deepcopy(method).to(device).train()
    for parameter in tuned.parameters():
        parameter.requires_grad_(True)
    weight, bias = head
    absent = bias.isinf()
    linear = nn.Linear(weight.shape[0], weight.shape[1]).to(device)
    with torch.no_grad():
        linear.weight.copy_(weight.T)
        linear.bias.copy_(torch.where(absent, torch.zeros_like(bias), bias))
    labels = dataset.labels.cpu()
    parameters = [*tuned.parameters(), *linear.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=1e-4)
    n = indices.numel()
    steps = epochs * math.ceil(n / batch_size)
    step = 0
    mask = torch.where(absent, -torch.inf, 0.0).to(device)  # classes that nobody taught
    for epoch in range(epochs):
        order = indices.cpu()[permutation(n, seed, epoch, 0xF17E)]
        for rows in [order[at : at + batch_size] for at in range(0, n, batch_size)]:
            if rows.numel() < 2 and n > 1:  # batch norm needs two images
                step += 1
                continue
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            images = crop_and_flip(dataset.images(rows).to(device), rows, seed, epoch)
            loss = nn.functional.cross_entropy(
                linear(tuned(images)) + mask, labels[rows].to(device)
            )
            if not loss.requires_grad or not bool(loss.isfinite()):
                raise InputError(
                    f"fine-tuning failed in epoch {epoch + 1}: the loss is {float(loss)}; give a "
                    "smaller learning rate."
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
            if progress is not None:
                progress("fine-tuning", step, steps)
    tuned.eval()
    logits = torch.empty(len(test), weight.shape[1])
    with torch.inference_mode():
        for batch in test.batches(512, torch.device(device)):
            logits[batch["id"].cpu()] = (linear(tuned(batch["image"])) + mask).cpu()
    return logits
