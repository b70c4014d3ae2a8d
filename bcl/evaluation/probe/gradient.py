"""Linear probes by Adam or SGD: all draws in one batch of matrix products."""

from collections.abc import Callable

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.random import permutation, uniform
from bcl.evaluation.probe.draws import Draws, balanced_weights
from bcl.evaluation.probe.options import (
    Choice,
    FittedHeads,
    GradientSettings,
    ProbeOptions,
    gradient_settings,
)

EpochFeatures = Callable[[int], Tensor]  # of an epoch, counted from 0, (P, n, D)


def fit_gradient(
    draws: Draws,
    options: ProbeOptions,
    test: tuple[Tensor, Tensor],
    fresh: EpochFeatures | None = None,
) -> FittedHeads:
    """Choose the learning rate where several are given, then train on all rows.

    Only ``selection="best_test"`` uses ``test``, features (M, D) and labels (M,). ``fresh`` gives
    the training features of each epoch, in place of one set for all.
    """
    settings = gradient_settings(options, images=draws.x.shape[1])
    choice = _choose(draws, settings, options.seed, options.balanced, fresh)
    rate, C = choice.value, draws.num_classes
    chosen_on = test if settings.selection == "best_test" else None
    w, b, epochs = train_heads(
        draws.x, draws.y, C, settings, rate, options.seed, chosen_on, options.balanced, fresh
    )
    if not bool(w.isfinite().all() and b.isfinite().all()):
        raise InputError(
            f"the probe diverged at learning rate {rate:g}; give a smaller learning_rate or "
            "several, or use solver='lbfgs', which has none."
        )
    more = {"selection": settings.selection, "settings": settings.description}
    heads = choice.per_head("learning_rate", len(w), **more)
    chosen = [{**head, "epoch": epoch} for head, epoch in zip(heads, epochs.tolist(), strict=True)]
    return FittedHeads(w, b, chosen)


def _choose(
    draws: Draws,
    settings: GradientSettings,
    seed: int,
    balanced: bool,
    fresh: EpochFeatures | None,
) -> Choice:
    rates = settings.learning_rates
    if len(rates) == 1:
        return Choice(rates[0], "given")
    if draws.num_held == 0:
        raise InputError(
            f"{len(rates)} learning rates to choose from, but too few images for a validation "
            "part; give one."
        )
    x, y = draws.x[:, : draws.num_fit], draws.y[:, : draws.num_fit]
    tried = {}
    for rate in rates:
        w, b, _ = train_heads(
            x, y, draws.num_classes, settings, rate, seed, balanced=balanced, fresh=fresh
        )
        logits = torch.baddbmm(b[:, None], draws.held_x, w)
        tried[rate] = draws.accuracies(logits.nan_to_num(-torch.inf))  # diverged: class 0
    return Choice(max(tried, key=lambda rate: sum(tried[rate])), "validation part", tried)


def train_heads(
    x: Tensor,
    y: Tensor,
    num_classes: int,
    settings: GradientSettings,
    rate: float,
    seed: int = 0,
    test: tuple[Tensor, Tensor] | None = None,
    balanced: bool = False,
    fresh: EpochFeatures | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Train one head per draw, (P, n, D) and (P, n), all on the same order of positions.

    With ``fresh`` the features of an epoch are the first n of its own.

    Returns weights (P, D, C), biases (P, C), and the epoch (from 1) of each head (P,): the last, or
    with ``test`` the one with the highest accuracy there.
    """
    P, n, D = x.shape
    weights = balanced_weights(y, num_classes)[..., None].to(x) if balanced else None  # (P, n, 1)
    # nn.Linear's start, the same for every head.
    keys = torch.arange((D + 1) * num_classes, device=x.device)
    start = (uniform(seed, 0x11EAD, keys) * 2 - 1) / D**0.5
    w, b = start.view(D + 1, num_classes).expand(P, -1, -1).split([D, 1], 1)
    w, b = w.clone(), b.clone()  # (P, D, C), (P, 1, C)
    optimizer = settings.build([w, b], rate)
    best = torch.full((P,), -1.0, device=x.device)
    best_w, best_b, best_epoch = w.clone(), b.clone(), torch.full((P,), settings.epochs)
    for epoch in range(settings.epochs):
        optimizer.param_groups[0]["lr"] = settings.rate(rate, epoch)
        if fresh is not None:
            x = fresh(epoch)[:, :n].to(x)
        order = permutation(n, seed, epoch, 0x0BDE5, device=x.device)
        for rows in torch.split(order, settings.batch_size):
            batch = x[:, rows]
            p = torch.baddbmm(b, batch, w).softmax(-1)  # (P, m, C)
            label = y[:, rows, None]
            p.scatter_add_(-1, label, torch.full_like(p[..., :1], -1.0)).div_(rows.numel())
            if weights is not None:
                p *= weights[:, rows]
            w.grad, b.grad = torch.bmm(batch.mT, p), p.sum(1, keepdim=True)  # of the mean loss
            optimizer.step()
        if test is not None:
            accuracy = _accuracy(w, b, test)
            better = accuracy > best
            best = torch.where(better, accuracy, best)
            best_w[better], best_b[better] = w[better], b[better]
            best_epoch[better.cpu()] = epoch + 1
    if test is not None:
        w, b = best_w, best_b
    return w, b[:, 0], best_epoch


def _accuracy(w: Tensor, b: Tensor, test: tuple[Tensor, Tensor]) -> Tensor:
    """(P,) share of correct test predictions."""
    right = torch.zeros(len(w), device=w.device)
    for x, y in zip(*(torch.split(part, 4096) for part in test), strict=True):
        right += (torch.baddbmm(b, x.expand(len(w), -1, -1), w).argmax(-1) == y).sum(1)
    return right / len(test[0])
