"""What the pages say goes together, built and stepped."""

import itertools

import pytest
import torch

from bcl import (
    BCL,
    SDCLR,
    BoostedRandAugment,
    ContrastiveViews,
    CosineSchedule,
    DomainLoss,
    GeometricHarmonization,
    MACLLoss,
    NTXentLoss,
    SimCLR,
    SimilarityTemperature,
    SogCLRLoss,
    sam_ascent,
)
from bcl.methods import EncoderSettings, MemorySettings, OptimizerSettings, Pruned
from bcl.methods.sharpness import SharpnessSettings
from cacr import CACR, CACRLoss

N, SIZE = 12, 16
SCHEDULE = CosineSchedule(0.1, 1.0, 2)
# Losses of two views that any method takes.
LOSSES = {
    "NT-Xent": lambda: NTXentLoss(reduction="none"),
    "focal": lambda: NTXentLoss(focal=2.0, reduction="none"),
    "TS": lambda: NTXentLoss(SCHEDULE, reduction="none"),
    "focal, TS": lambda: NTXentLoss(SCHEDULE, focal=2.0, reduction="none"),
    "DySTreSS": lambda: NTXentLoss(SimilarityTemperature(0.07, 0.2), reduction="none"),
    "MACL": lambda: MACLLoss(reduction="none"),
    "SogCLR": lambda: SogCLRLoss(N, learn_temperature=False, reduction="none"),
    "iSogCLR": lambda: SogCLRLoss(N, reduction="none"),
    "CACR": lambda: CACRLoss(reduction="none"),
    "CACR, TS": lambda: CACRLoss(temperature=SCHEDULE, reduction="none"),
}
# What goes on top of a loss.
TOPS = {
    "": lambda loss: loss,
    "GH": lambda loss: GeometricHarmonization(loss, N, 4, 128, start=0, ramp=0),
    "P2OT": lambda loss: GeometricHarmonization(loss, N, 4, 128, start=0, ramp=0, relax=1.0),
    "domain": lambda loss: DomainLoss(loss),
    "domain, GH": lambda loss: DomainLoss(GeometricHarmonization(loss, N, 4, 128, start=0, ramp=0)),
}
METHODS = {
    "SimCLR": (SimCLR, None),
    "BCL-I": (BCL, "bcl-i"),
    "SDCLR": (SDCLR, None),
    "BCL-D": (SDCLR, "bcl-d"),
    "Pruned": (Pruned, None),
    "boosted Pruned": (Pruned, "bcl-i"),
    "CACR": (CACR, None),
    "BCL-I with CACR": (CACR, "bcl-i"),
}


def build(method, loss, top, **options):
    """A method of these parts for N samples."""
    cls, scheme = METHODS[method]
    boost = None if scheme is None else BoostedRandAugment(scheme=scheme)
    return cls(
        EncoderSettings("resnet8", {"width": 4}),
        views=ContrastiveViews(SIZE, boost=boost),
        loss=TOPS[top](LOSSES[loss]()),
        num_samples=N,
        **options,
    )


def step(method, external):
    """One optimizer step as a training step takes it; returns the losses and what is recorded."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (N, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    ids = torch.arange(N)
    known = torch.where(ids % 3 == 2, -1, ids) if external else ids
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
    before = [each.clone() for each in method.encoder.parameters()]
    scores = None if method.views.boost is None else torch.linspace(0, 1, N)
    views = method.views(images, scores=scores, ids=ids, epoch=0)
    losses, watched = method.sample_losses(views, known)
    losses.mean().backward()
    if sharpness := method.optimizer.sharpness:
        with sam_ascent(method.parameters(), sharpness.rho, sharpness.adaptive):
            method.sample_losses(views, known).losses.mean().backward()
    optimizer.step()
    moved = zip(before, method.encoder.parameters(), strict=True)
    assert any(not old.equal(new) for old, new in moved)
    return losses, watched


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("loss", "top"), list(itertools.product(LOSSES, TOPS)))
def test_a_method_with_a_loss_and_what_goes_on_top(method, loss, top):
    torch.manual_seed(0)
    losses, _ = step(build(method, loss, top), external="domain" in top)
    assert losses.shape == (N,)
    assert losses.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", ["NT-Xent", "iSogCLR", "CACR"])
def test_sharpness_and_every_signal_go_with_it(method, loss):
    memory = MemorySettings(watch=("loss", "misalignment", "isolation", "tailness"))
    optimizer = OptimizerSettings(sharpness=SharpnessSettings(rho=0.5, signal="tailness"))
    built = build(method, loss, "GH", memory=memory, optimizer=optimizer)
    losses, watched = step(built, external=False)
    assert set(watched) == set(memory.watch)
    assert all(each.isfinite().all() for each in (losses, *watched.values()))
