"""Linear probes by Adam or SGD: all draws and learning rates in one batch of matrix products."""

import torch
from torch import Tensor

from bcl.core.random import permutation, uniform
from bcl.evaluation.probe.presets import GradientRule


def train_heads(
    x: Tensor,
    y: Tensor,
    num_classes: int,
    rule: GradientRule,
    *,
    seed: int = 0,
    test: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Train P x L heads, every draw at every learning rate, on the same order of positions.

    Args:
        x: (P, n, D) features of the draws, or anything that broadcasts from P = 1.
        y: (P, n) labels.
        num_classes: C.
        rule: optimizer, schedule, epochs.
        seed: of the initial weights and the order.
        test: features (M, D) and labels (M,) for ``selection="best_test"`` only.

    Returns:
        Weights (P, L, D, C), biases (P, L, C), and the epoch (from 1) each head stems from (P, L).
    """
    P, n, D = x.shape
    L, C = len(rule.learning_rates), num_classes
    # nn.Linear's start; the same for every head, so that rates are compared on equal terms.
    keys = torch.arange((D + 1) * C, device=x.device)
    start = (uniform(seed, 0x11EAD, keys) * 2 - 1) / D**0.5
    w = start[: D * C].view(1, D, 1, C).expand(P, D, L, C).reshape(P, D, L * C).clone()
    b = start[D * C :].view(1, 1, 1, C).expand(P, 1, L, C).reshape(P, 1, L * C).clone()
    state = [torch.zeros_like(w), torch.zeros_like(b), torch.zeros_like(w), torch.zeros_like(b)]
    best_accuracy = torch.full((P, L), -1.0, device=x.device)
    best_w, best_b = w.clone(), b.clone()
    best_epoch = torch.full((P, L), rule.epochs, dtype=torch.int64)
    step = 0
    for epoch in range(rule.epochs):
        rates = torch.tensor([rule.rate(base, epoch) for base in rule.learning_rates])
        rate = rates.repeat_interleave(C).to(x)  # (L * C,)
        order = permutation(n, seed, epoch, 0x0BDE5, device=x.device)
        for rows in [order[at : at + rule.batch_size] for at in range(0, n, rule.batch_size)]:
            step += 1
            batch, m = x[:, rows], rows.numel()
            z = torch.baddbmm(b, batch, w).view(P, m, L, C)
            p = z.softmax(-1)
            label = y[:, rows, None, None].expand(P, m, L, 1)
            p.scatter_add_(-1, label, torch.full_like(p[..., :1], -1.0))
            p = p.view(P, m, L * C).div_(m)
            gw = torch.bmm(batch.transpose(1, 2), p)
            gb = p.sum(1, keepdim=True)
            for index, (parameter, gradient) in enumerate(((w, gw), (b, gb))):
                if rule.weight_decay:
                    gradient = gradient.add_(parameter, alpha=rule.weight_decay)
                _update(parameter, gradient, state[index], state[index + 2], rate, rule, step)
        if rule.selection == "best_test" and test is not None:
            accuracy = _accuracy(w, b, test, (P, L, C))
            better = accuracy > best_accuracy
            best_accuracy = torch.where(better, accuracy, best_accuracy)
            wide = better.repeat_interleave(C, 1)[:, None, :]  # (P, 1, L * C)
            best_w, best_b = torch.where(wide, w, best_w), torch.where(wide, b, best_b)
            best_epoch[better.cpu()] = epoch + 1
    if rule.selection == "best_test" and test is not None:
        w, b = best_w, best_b
    return w.view(P, D, L, C).transpose(1, 2), b.view(P, L, C), best_epoch


def _update(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    rate: Tensor,
    rule: GradientRule,
    step: int,
) -> None:
    """One step of Adam or of SGD with momentum, with a rate for every column."""
    if rule.optimizer == "sgd":
        first.mul_(rule.momentum).add_(gradient)
        parameter.sub_(first * rate)
        return
    beta1, beta2 = rule.betas
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    root = second.sqrt().div_((1 - beta2**step) ** 0.5).add_(1e-8)
    parameter.sub_(first.div(root).mul_(rate / (1 - beta1**step)))


def _accuracy(
    w: Tensor, b: Tensor, test: tuple[Tensor, Tensor], shape: tuple[int, int, int]
) -> Tensor:
    P, L, C = shape
    x, y = test
    right = torch.zeros(P, L, device=x.device)
    for at in range(0, x.shape[0], 4096):
        rows = x[at : at + 4096].expand(P, -1, -1)
        z = torch.baddbmm(b, rows, w).view(P, -1, L, C)
        right += (z.argmax(-1) == y[None, at : at + 4096, None]).sum(1)
    return right / x.shape[0]
