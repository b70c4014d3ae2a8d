"""What the pages say goes together, built and stepped."""

import itertools
from types import SimpleNamespace

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
)
from bcl.methods import EncoderSettings, MemorySettings, OptimizerSettings, Pruned
from bcl.methods.sharpness import SharpnessSettings
from cacr import CACR, CACRLoss
from cacr.method import TeacherSettings

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
    "SimCLR": (SimCLR, None, {}),
    "BCL-I": (BCL, "bcl-i", {}),
    "SDCLR": (SDCLR, None, {}),
    "straight-through SDCLR": (SDCLR, None, {"straight_through": True}),
    "BCL-D": (SDCLR, "bcl-d", {}),
    "Pruned": (Pruned, None, {}),
    "boosted Pruned": (Pruned, "bcl-i", {}),
    "CACR": (CACR, None, {}),
    "BCL-I with CACR": (CACR, "bcl-i", {}),
}
TEACHER = TeacherSettings(queue_size=2 * N, predictor_features=8)
# Those whose loss takes a momentum encoder's keys.
FORMS = {
    "moco": (CACR, None, {"form": "moco", "teacher": TEACHER}),
    "moco-v3": (CACR, None, {"form": "moco-v3", "teacher": TEACHER}),
    "BCL-I with moco": (CACR, "bcl-i", {"form": "moco", "teacher": TEACHER}),
    "BCL-I with moco-v3": (CACR, "bcl-i", {"form": "moco-v3", "teacher": TEACHER}),
}


def build(method, loss, top, **options):
    """A method of these parts for N samples."""
    cls, scheme, own = (METHODS | FORMS)[method]
    boost = None if scheme is None else BoostedRandAugment(scheme=scheme)
    return cls(
        EncoderSettings("resnet8", {"width": 4}),
        views=ContrastiveViews(SIZE, boost=boost),
        loss=TOPS[top](LOSSES[loss]()),
        num_samples=N,
        **own,
        **options,
    )


def step(method, external):
    """One step by the method's own code; returns each pass's losses and what it records."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (N, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    ids = torch.arange(N)
    batch = {"image": images, "id": ids}
    if external:
        batch |= {"id": torch.where(ids % 3 == 2, -1, ids), "external": ids // 3}
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
    before = [each.clone() for each in method.encoder.parameters()]
    found, of_views = [], method.sample_losses
    method.sample_losses = lambda *given: found.append(of_views(*given)) or found[-1]
    run = {"max_epochs": 1, "current_epoch": 0, "global_step": 0, "estimated_stepping_batches": 3}
    method.trainer, method.log = SimpleNamespace(**run), lambda *_, **__: None

    def closure():
        optimizer.zero_grad()
        method.training_step(batch, 0).backward()

    method.optimizer_step(0, 0, optimizer, closure)
    assert len(found) == (1 if method.optimizer.sharpness is None else 2)
    moved = zip(before, method.encoder.parameters(), strict=True)
    assert any(not old.equal(new) for old, new in moved)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("loss", "top"), list(itertools.product(LOSSES, TOPS)))
def test_a_method_with_a_loss_and_what_goes_on_top(method, loss, top):
    torch.manual_seed(0)
    ((losses, _),) = step(build(method, loss, top), external="domain" in top)
    assert losses.shape == (N,)
    assert losses.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", ["NT-Xent", "iSogCLR", "CACR"])
def test_sharpness_and_every_signal_go_with_it(method, loss):
    memory = MemorySettings(watch=("loss", "misalignment", "isolation", "tailness"))
    optimizer = OptimizerSettings(sharpness=SharpnessSettings(rho=0.5, signal="tailness"))
    built = build(method, loss, "GH", memory=memory, optimizer=optimizer)
    for losses, watched in step(built, external=False):
        assert set(watched) == set(memory.watch)
        assert all(each.isfinite().all() for each in (losses, *watched.values()))


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [None, SharpnessSettings(rho=0.5, signal="loss")])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("loss", "top"), list(itertools.product(["CACR", "CACR, TS"], TOPS)))
def test_a_momentum_encoder_with_what_goes_on_top(form, loss, top, sharpness):
    built = build(form, loss, top, optimizer=OptimizerSettings(sharpness=sharpness))
    teacher = [each.clone() for each in built.teacher.parameters()]
    for losses, _ in step(built, external="domain" in top):
        assert losses.shape == (N,)
        assert losses.isfinite().all()
    assert built.queue is None or int(built.queue.position) == N  # once, not in each pass
    follows = zip(teacher, built.teacher.parameters(), strict=True)
    assert any(not old.equal(new) for old, new in follows)
