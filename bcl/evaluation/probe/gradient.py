"""Linear probes by Adam or SGD: all draws and learning rates in one batch of matrix products."""

from dataclasses import replace

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.random import permutation, uniform
from bcl.evaluation.probe.draws import Draws
from bcl.evaluation.probe.options import (
    Choice,
    FittedHeads,
    GradientSettings,
    ProbeOptions,
    gradient_settings,
)


def fit_gradient(draws: Draws, options: ProbeOptions, test: tuple[Tensor, Tensor]) -> FittedHeads:
    """Choose the learning rate where several are given, then train on all rows.

    Of ``test``, features (M, D) and labels (M,), only ``selection="best_test"`` makes use.
    """
    settings = gradient_settings(options, images=draws.x.shape[1])
    choice = _choose(draws, settings, options.seed)
    settings = replace(settings, learning_rates=(choice.value,))
    w, b, epoch = train_heads(draws.x, draws.y, draws.num_classes, settings, options.seed, test)
    if not bool(w.isfinite().all() and b.isfinite().all()):
        raise InputError(
            f"the probe diverged at learning rate {choice.value:g}; give a smaller learning_rate "
            "or several, or use solver='lbfgs', which has none."
        )
    more = {"selection": settings.selection, "settings": settings.description}
    heads = choice.per_head("learning_rate", len(w), **more)
    for head, chosen in enumerate(heads):
        chosen["epoch"] = int(epoch[head, 0])
    return FittedHeads(w[:, 0], b[:, 0], heads)


def _choose(draws: Draws, settings: GradientSettings, seed: int) -> Choice:
    rates = settings.learning_rates
    if len(rates) == 1:
        return Choice(rates[0], "given")
    if draws.num_held == 0:
        raise InputError(
            f"{len(rates)} learning rates to choose from, but too few images for a validation "
            "part; give one."
        )
    fit, trial = slice(draws.num_fit), replace(settings, selection="last")
    w, b, _ = train_heads(draws.x[:, fit], draws.y[:, fit], draws.num_classes, trial, seed)
    tried = {}
    for index, rate in enumerate(rates):
        logits = torch.baddbmm(b[:, index, None], draws.held_x, w[:, index])
        tried[rate] = draws.accuracies(logits.nan_to_num(-torch.inf))  # diverged: class 0
    return Choice(max(tried, key=lambda rate: sum(tried[rate])), "validation part", tried)


def train_heads(
    x: Tensor,
    y: Tensor,
    num_classes: int,
    settings: GradientSettings,
    seed: int = 0,
    test: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Train P x L heads, every draw at every learning rate, on the same order of positions.

    Returns weights (P, L, D, C), biases (P, L, C), and the epoch (from 1) of each head (P, L).
    """
    P, n, D = x.shape  # y is (P, n)
    L, C = len(settings.learning_rates), num_classes
    # nn.Linear's start; the same for every head, so that rates are compared on equal terms.
    keys = torch.arange((D + 1) * C, device=x.device)
    start = (uniform(seed, 0x11EAD, keys) * 2 - 1) / D**0.5
    w = start[: D * C].view(1, D, 1, C).expand(P, D, L, C).reshape(P, D, L * C).clone()
    b = start[D * C :].view(1, 1, 1, C).expand(P, 1, L, C).reshape(P, 1, L * C).clone()
    state = [torch.zeros_like(w), torch.zeros_like(b), torch.zeros_like(w), torch.zeros_like(b)]
    best = torch.full((P, L), -1.0, device=x.device)
    best_w, best_b = w.clone(), b.clone()
    best_epoch = torch.full((P, L), settings.epochs, dtype=torch.int64)
    select = settings.selection == "best_test" and test is not None
    step = 0
    for epoch in range(settings.epochs):
        rates = torch.tensor([settings.rate(base, epoch) for base in settings.learning_rates])
        rate = rates.repeat_interleave(C).to(x)  # (L * C,)
        order = permutation(n, seed, epoch, 0x0BDE5, device=x.device)
        for rows in torch.split(order, settings.batch_size):
            step += 1
            batch, m = x[:, rows], rows.numel()
            p = torch.baddbmm(b, batch, w).view(P, m, L, C).softmax(-1)
            label = y[:, rows, None, None].expand(P, m, L, 1)
            p.scatter_add_(-1, label, torch.full_like(p[..., :1], -1.0))
            p = p.view(P, m, L * C).div_(m)  # gradient of the logits
            gradients = torch.bmm(batch.transpose(1, 2), p), p.sum(1, keepdim=True)
            for index, (parameter, gradient) in enumerate(zip((w, b), gradients, strict=True)):
                if settings.weight_decay:
                    gradient.add_(parameter, alpha=settings.weight_decay)
                _update(parameter, gradient, state[index], state[index + 2], rate, settings, step)
        if select:
            accuracy = _accuracy(w, b, test, L)  # type: ignore[arg-type]
            better = accuracy > best
            best = torch.where(better, accuracy, best)
            wide = better.repeat_interleave(C, 1)[:, None, :]  # (P, 1, L * C)
            best_w, best_b = torch.where(wide, w, best_w), torch.where(wide, b, best_b)
            best_epoch[better.cpu()] = epoch + 1
    if select:
        w, b = best_w, best_b
    return w.view(P, D, L, C).transpose(1, 2), b.view(P, L, C), best_epoch


def _update(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    rate: Tensor,
    settings: GradientSettings,
    step: int,
) -> None:
    """One step of Adam or of SGD with momentum, with a rate per column."""
    if settings.optimizer == "sgd":
        first.mul_(settings.momentum).add_(gradient)
        parameter.sub_(first * rate)
        return
    beta1, beta2 = settings.betas
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    root = second.sqrt().div_((1 - beta2**step) ** 0.5).add_(1e-8)
    parameter.sub_(first.div(root).mul_(rate / (1 - beta1**step)))


def _accuracy(w: Tensor, b: Tensor, test: tuple[Tensor, Tensor], rates: int) -> Tensor:
    """(P, L) share of correct test predictions."""
    P, _, width = w.shape
    right = torch.zeros(P, rates, device=w.device)
    for x, y in zip(*(torch.split(part, 4096) for part in test), strict=True):
        z = torch.baddbmm(b, x.expand(P, -1, -1), w).view(P, -1, rates, width // rates)
        right += (z.argmax(-1) == y[None, :, None]).sum(1)
    return right / len(test[0])
