"""Linear probes by scikit-learn's LinearSVC."""

import torch
from torch.nn.functional import normalize

from bcl.evaluation.probe.draws import Draws
from bcl.evaluation.probe.options import FittedHeads

SETTINGS = "scikit-learn LinearSVC, C = 1, L2-normalized features"


def fit_svc(draws: Draws, balanced: bool = False) -> FittedHeads:
    """One LinearSVC per draw, on L2-normalized features."""
    from sklearn.svm import LinearSVC

    weight_of = "balanced" if balanced else None
    P, _, D = draws.x.shape
    weight, bias = torch.zeros(P, D, draws.num_classes), torch.zeros(P, draws.num_classes)
    for head, (x, y) in enumerate(zip(normalize(draws.x, dim=2).cpu(), draws.y.cpu(), strict=True)):
        machine = LinearSVC(random_state=0, class_weight=weight_of).fit(x.numpy(), y.numpy())
        classes = torch.as_tensor(machine.classes_)
        w = torch.as_tensor(machine.coef_, dtype=torch.float32).T  # (D, C), or (D, 1) for two
        b = torch.as_tensor(machine.intercept_, dtype=torch.float32)
        if classes.numel() == 2:
            w, b = torch.cat([-w, w], 1), torch.cat([-b, b])
        weight[head][:, classes] = w
        bias[head][classes] = b
    chosen = {"choice": "given", "validation_accuracy": None, "settings": SETTINGS}
    return FittedHeads(weight.to(draws.x), bias.to(draws.x), [dict(chosen) for _ in range(P)])
