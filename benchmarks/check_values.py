"""Formulas against values that were computed independently, and the largest deviation of each.

    python benchmarks/check_values.py

Most values are given to six decimals: half a unit of the last is the least that can be told, and
one unit where the library computes in float32. They are of two views of four samples, with
i = arange(12).reshape(4, 3): z1 = unit(sin(1 + i)), z2 = unit(sin(1 + i) + cos(2i) / 2).
"""

import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bcl import (
    CosineSchedule,
    GeometricHarmonization,
    MemorizationTracker,
    NTXentLoss,
    SimilarityTemperature,
    SogCLRLoss,
    contrastive_signals,
    macl_loss,
    nt_xent,
    sam_ascent,
    signal_weights,
    simplex_etf,
    sinkhorn,
    tail_discovery,
)
from bcl.discovery import mak_scores, tail_budget
from bcl.evaluation import feature_signals
from bcl.evaluation.measures import uniformity
from bcl.losses import expected_loss
from bcl.models.pruning import magnitude_masks

Check = tuple[str, Tensor | float, list[float] | float, float]  # with the last digit's unit


def unit(x: Tensor) -> Tensor:
    """Rows of length one."""
    return x / x.norm(dim=1, keepdim=True)


def grid() -> Tensor:
    """(4, 3) numbers from 0."""
    return torch.arange(12, dtype=torch.float64).reshape(4, 3)


def views() -> tuple[Tensor, Tensor]:
    """The two views of four samples."""
    i = grid()
    return unit((1 + i).sin()), unit((1 + i).sin() + 0.5 * (2 * i).cos())


def losses() -> Iterator[Check]:
    """NT-Xent, its temperatures, MACL, focal."""
    z = views()

    def loss(temperature: object = 0.2, **options: float) -> Tensor:
        return nt_xent(*z, temperature, reduction="none", **options)

    yield "NT-Xent, 0.2", loss(), [1.157557, 1.270401, 1.181482, 1.231636], 1e-6
    yield "NT-Xent, 0.2, mean", loss().mean(), 1.210269, 1e-6
    yield "NT-Xent, 1", loss(1.0), [1.340741, 1.335970, 1.317413, 1.356972], 1e-6
    several = torch.tensor([0.1, 0.2, 0.5, 1.0]).double()
    yield "NT-Xent, per sample", loss(several), [1.275024, 1.270401, 1.162706, 1.356972], 1e-6
    yield "focal, 2", loss(focal=2.0), [0.551174, 0.662323, 0.572945, 0.625520], 1e-6
    pairs = SimilarityTemperature(0.07, 0.2)
    yield "DySTreSS, loss", loss(pairs), [1.158819, 1.236727, 1.176783, 1.211226], 1e-6
    yield "DySTreSS, mean", loss(pairs).mean(), 1.195889, 1e-6
    cosines = torch.tensor([-1, -0.5, 0, 0.5, 1]).double()
    yield "DySTreSS, temperature", pairs(cosines), [0.2, 0.135, 0.07, 0.135, 0.2], 1e-6
    wide = SimilarityTemperature(0.1, 0.2)(cosines)
    yield "DySTreSS, temperature from 0.1", wide, [0.2, 0.15, 0.1, 0.15, 0.2], 1e-6
    plateau = SimilarityTemperature(0.1, 0.2, offset=0.4, width=0.7)
    at = torch.tensor([-1, -0.3, 0, 0.4, 1]).double()
    yield "DySTreSS, plateau", plateau(at), [0.2, 0.1, 0.138874, 0.2, 0.2], 1e-6
    epochs = (0, 1, 50, 100, 150, 200, 300, 400, 1999)
    swing = torch.tensor([CosineSchedule(0.1, 1, 400)(epoch) for epoch in epochs]).double()
    known = [1, 0.999944, 0.868198, 0.55, 0.231802, 0.1, 0.55, 1, 0.999944]
    yield "TS, temperature", swing, known, 1e-6
    macl = macl_loss(*z, reduction="none")
    yield "MACL", macl, [1.717392, 1.835658, 1.741302, 1.795599], 1e-6
    yield "MACL, mean", macl.mean(), 1.772488, 1e-6


def signals() -> Iterator[Check]:
    """What the loss knows of the tail, and what is measured of it."""
    z1, z2 = views()
    found = contrastive_signals(z1, z2, 0.2, num_neighbors=2)
    yield "alignment", found.misalignment, [-4.575678, -4.357293, -4.543966, -4.405545], 1e-6
    yield "density", -found.isolation, [5.348207, 5.292611, 5.353065, 5.283427], 1e-6
    decoupled = found.misalignment - found.isolation  # DCL, without the positive below
    yield "decoupled loss", decoupled, [0.772529, 0.935318, 0.809099, 0.877883], 1e-6
    yield "COLT, k = 2", -found.tailness, [0.681391, 0.716112, 0.690083, 0.703046], 1e-6
    tracker = MemorizationTracker(4, momentum=0.97)
    for values in (-found.tailness, torch.tensor([0.70, 0.70, 0.60, 0.75])):
        tracker.epoch += 1
        tracker.update(torch.arange(4), values.float())
    yield "COLT, moving mean", tracker.momentum_loss, [0.681950, 0.715629, 0.687381, 0.704454], 1e-6
    means = torch.tensor([0.30, 0.12, 0.25, 0.05])
    yield "COLT, budget", tail_budget(-means, 10_000), [621, 2967, 960, 5452], 1
    z3 = unit((1 + grid()).sin() - 0.4 * grid().cos())
    three = expected_loss(torch.stack([z1, z2, z3]), 0.2)
    yield "ECLE, three views", three, [1.264864, 1.123738, 1.294650, 1.114213], 1e-6
    loss, far = torch.tensor([2.0, 1, 3, 2]).double(), torch.tensor([0.1, 0.2, 0.4, 0.3]).double()
    for alpha, known in (
        (0.3, [0.939149, -0.111215, -0.514884, -0.313050]),
        (0.5, [0.670820, -0.483500, 0.036286, -0.223607]),
    ):
        yield f"MAK, alpha {alpha}", mak_scores(loss, far, alpha), known, 1e-6
    tail = torch.zeros(10, dtype=torch.int64).index_fill(0, torch.tensor([0, 2, 9]), 1)
    phi = tail_discovery(torch.linspace(0.9, 0, 10), tail, top=0.3, resamples=1).phi.value
    yield "MAK, phi", phi, 2.222222, 1e-6
    rows = torch.tensor([[1, 0], [0.95, 0.1], [0.9, -0.2], [-1, 0.3]]).double()
    sparse = feature_signals(rows, ("sparseness",))["sparseness"]
    density = (3 * (-sparse).exp() + 1) / 4  # the sample itself included
    yield "rwSAM, density", density, [0.721951, 0.697824, 0.680515, 0.250298], 1e-6
    nearest = feature_signals(z1, ("neighbors_1",))["neighbors_1"]
    copied = feature_signals(z1.repeat(5, 1), ("neighbors",))["neighbors"][:4]
    two = 5 * copied - 2 * nearest  # of 10: four copies, the nearest five times, the second once
    yield "neighbor distance, k = 2", two, [0.977849, 1.013328, 1.013626, 0.977625], 1e-6


def states() -> Iterator[Check]:
    """SogCLR, geometric harmonization, sharpness, pruning."""
    pair, ids = torch.stack(views()), torch.arange(4)
    loss = SogCLRLoss(4, reduction="none")
    steps = (
        (
            [0.074489, 0.160841, 0.093735, 0.131753],
            [4250.6700, 3865.5339, 4250.6665, 3865.5373],
            [-0.836291, -0.897159, -0.849566, -0.880458],
            [0.112544, 0.113457, 0.112743, 0.113207],
        ),
        (
            [-0.488837, -0.426815, -0.472031, -0.455879],
            [2016.7523, 1771.6187, 1999.3271, 1790.3353],
            [2.031074, 2.068772, 2.019844, 2.101341],
            [0.088350, 0.089155, 0.088818, 0.088290],
        ),
    )
    momenta = torch.zeros(4)
    for number, (values, denominators, slopes, temperatures) in enumerate(steps, 1):
        before = loss.momenta.clone()
        yield f"iSogCLR, loss, step {number}", loss(pair, ids), values, 1e-6
        yield f"iSogCLR, denominators, step {number}", loss.denominators, denominators, 1e-3
        yield f"iSogCLR, G, step {number}", 2 * loss.momenta - before, slopes, 1e-6
        momenta = (momenta + torch.tensor(slopes).double()) / 2
        yield f"iSogCLR, u, step {number}", loss.momenta, momenta, 1e-6
        yield f"iSogCLR, temperatures, step {number}", loss.temperatures, temperatures, 1e-6
    etf = simplex_etf(3, 3).double()
    gram = etf @ etf.T
    yield (
        "simplex, Gram matrix",
        gram.flatten(),
        [1, -0.5, -0.5, -0.5, 1, -0.5, -0.5, -0.5, 1],
        1e-6,
    )
    sizes = torch.tensor([0.5, 0.3, 0.2]).double()
    assigned = sinkhorn(unit(pair[0] @ etf.T), sizes)
    known = [0.799998, 0.200002, 0, 0.199999, 0.000001, 0.8, 0.000003, 0.999997, 0, 1, 0, 0]
    yield "GH, assignment", assigned.flatten(), known, 1e-6
    yield "GH, sizes", assigned.mean(0), [0.5, 0.3, 0.2], 1e-6
    base = nt_xent(*pair, reduction="none")
    inner = NTXentLoss(reduction="none")
    gh = GeometricHarmonization(inner, 4, 3, 3, start=0, ramp=0, seed=None).eval()
    uniform = (gh(pair, ids=ids, epoch=0) - base).mean()
    yield "GH, loss of uniform sizes, mean", uniform, 4.534440, 1e-6
    gh.marginal.copy_(sizes)
    own = gh(pair, ids=ids, epoch=0) - base
    yield "GH, loss", own, [2.366304, 8.248573, 0.814641, 0.798765], 1e-6
    rows = [[0.9, 0.1, -1], [0.2, 0.1, -0.3], [-0.5, 0.8, -0.3], [0.6, 0.2, -0.8]]
    gh.state.write(ids, torch.tensor(rows))
    yield "GH, sizes by moving means", gh.shares(), [0.75, 0.25, 0], 1e-6
    ramp = GeometricHarmonization(inner, 4, 3, 3, start=500, ramp=10)
    weights = torch.tensor([ramp.weight(epoch) for epoch in (500, 501, 505, 510, 511)])
    yield "GH, ramp", weights, [0, 0.1, 0.5, 1, 1], 1e-6
    for adaptive, known in ((False, [0.089443, 0.044721]), (True, [0.070711, 0.141421])):
        w = nn.Parameter(torch.tensor([1.0, -2.0]).double())
        w.grad = torch.tensor([0.5, 0.25]).double()
        with sam_ascent([w], rho=0.1, adaptive=adaptive):
            moved = w.detach() - torch.tensor([1.0, -2.0])
        yield f"SAM, {'adaptive' if adaptive else 'plain'}", moved, known, 1e-6
    density = torch.tensor([0.721951, 0.697824, 0.680515, 0.250298]).double()
    for power, known in (
        (0.5, [0.842908, 0.857356, 0.868191, 1.431545]),
        (1.0, [0.668916, 0.692043, 0.709645, 1.929395]),
    ):
        weights = signal_weights(-density.log(), power)
        yield f"rwSAM, weights, a = {power:g}", weights, known, 3e-6  # of rounded densities
    weight = torch.tensor([0.5, -0.1, 0.3, -0.05, 0.2, 0.9, -0.4, 0.02, 0.6, -0.7])
    mask = magnitude_masks({"w": weight}, 0.3)["w"].float()
    yield "pruning, 30 %", mask, [1, 0, 1, 0, 1, 1, 1, 0, 1, 1], 1e-6
    yield "uniformity", uniformity(views()[0]), -1.242020, 1e-6


def deviations() -> list[tuple[str, float, float]]:
    """Name, largest deviation, and half a unit of the last digit given, of every check value."""
    rows = []
    for part in (losses, signals, states):
        for name, found, known, digit in part():
            found = torch.as_tensor(found).double()
            difference = (found - torch.as_tensor(known).double()).abs().max()
            rows.append((name, float(difference), digit / 2))
    return rows


def main() -> int:
    rows = deviations()
    print("| check value | largest deviation | half a unit of the last digit |")
    print("|---|---:|---:|")
    for name, difference, half in rows:
        print(f"| {name} | {difference:.1e} | {half:.0e} |")
    beyond = [name for name, difference, half in rows if not difference <= 2 * half]
    print(f"\n{len(rows)} values; beyond one unit: {', '.join(beyond) or 'none'}")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
