"""The loss as a module."""

import copy

import pytest
import torch
from ranks import pool
from tensors import features

from bcl import CosineSchedule, InputError
from cacr import CACRLoss, CACRSettings, cacr_terms


def test_presets_and_module():
    views = features()
    terms = cacr_terms(views)
    loss = CACRLoss(attraction_weight=2.0, repulsion_weight=0.5)(views)
    torch.testing.assert_close(loss, 2 * terms.attraction + 0.5 * terms.repulsion)
    cifar = sum(cacr_terms(views, repulsion_temperature=0.9))
    torch.testing.assert_close(CACRLoss.paper("cifar10")(views), cifar)
    for name in ("cifar100", "stl10", "imagenet-moco"):
        assert CACRLoss.paper(name).repulsion_temperature == 2.0
    assert CACRLoss.paper("cifar10", reduction="none")(views).shape == (6,)
    settings = CACRSettings(repulsion_temperature=0.9)
    assert sum(cacr_terms(views, settings=settings)).equal(cifar)
    assert CACRLoss().state_dict() == {}
    assert "cost='euclidean'" in repr(CACRLoss())
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        CACRLoss.paper("cifar-10")


def test_a_schedule_of_the_temperature():
    views, schedule = features(), CosineSchedule(0.1, 1.0, 0.5)
    loss = CACRLoss(temperature=schedule)
    for epoch in (0, 3, 5, 7):
        expected = CACRLoss(repulsion_temperature=0.5 / schedule(epoch, 20))(views)
        torch.testing.assert_close(loss(views, epoch=epoch, epochs=20), expected)
        assert loss.figures(epoch, 20) == {"temperature": schedule(epoch, 20)}
    assert copy.deepcopy(loss)(views, epoch=3, epochs=20).equal(loss(views, epoch=3, epochs=20))
    assert loss.state_dict() == {}
    assert "temperature=CosineSchedule" in repr(loss)
    # A call's own temperature, and one number per sample.
    own = torch.linspace(0.1, 1.0, 6, dtype=torch.float64)
    per_sample = CACRLoss(repulsion_temperature=0.5 / own)(views)
    torch.testing.assert_close(loss(views, temperature=own), per_sample)
    torch.testing.assert_close(CACRLoss(temperature=own)(views), per_sample)
    assert CACRLoss().figures(0, 20) == {}
    # Repulsion weighs as NT-Xent at this temperature does: softmax(cosine / temperature).
    u = torch.nn.functional.normalize(views[:2], dim=-1)
    cosine = (u[0] @ u[1].T).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    weighed = ((cosine / 0.3).softmax(1) * (2 - 2 * cosine).nan_to_num(posinf=0)).sum(1)
    found = CACRLoss(temperature=0.3, attraction_weight=0, reduction="none")(views[:2])
    torch.testing.assert_close(found, -weighed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: CACRLoss(temperature=0.0), "temperature must be a finite number above 0"),
        (lambda z: CACRLoss(temperature=CosineSchedule(0.1, 1, 4))(z), "needs to know the epoch"),
        (lambda z: CACRLoss()(z, temperature=-1.0), "above 0"),
        (lambda z: cacr_terms(z, repulsion_temperature=CosineSchedule(0.1, 1, 4)), "schedule"),
        (
            lambda z: cacr_terms(z, repulsion_temperature=torch.ones(5)),
            r"\(B,\) = \(6,\), got \(5,\)",
        ),
        (lambda z: cacr_terms(z, repulsion_temperature=torch.ones(6, 1)), r"got \(6, 1\)"),
        (lambda z: cacr_terms(z, repulsion_temperature=-torch.ones(6)), "at least 0"),
    ],
)
def test_temperatures_that_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(features())


@pytest.mark.parametrize("split", [(3, 3), (4, 2)])
def test_temperatures_per_sample_on_ranks_are_those_of_one_process(split):
    results = pool(2).run(shared, split)
    z = features().requires_grad_()
    whole = CACRLoss(temperature=OWN, reduction="none")(z)
    whole.mean().backward()
    torch.testing.assert_close(torch.cat([losses for losses, _ in results]), whole.detach())
    # Each rank's mean has the gradient of its share; together, averaged, that of the whole.
    torch.testing.assert_close(sum(grad for _, grad in results) / 2, z.grad)


OWN = torch.linspace(0.1, 1.0, 6, dtype=torch.float64)


def shared(rank, split):
    """This rank's losses, and its gradient of the mean by all features."""
    z = features().requires_grad_()
    start = sum(split[:rank])
    rows = slice(start, start + split[rank])
    losses = CACRLoss(temperature=OWN[rows], reduction="none")(z[:, rows])
    CACRLoss(temperature=OWN[rows])(z[:, rows]).backward()
    return losses.detach(), z.grad


def test_settings_and_single_ones_are_refused_together():
    views = torch.randn(2, 4, 8)
    with pytest.raises(InputError, match="debias"):
        cacr_terms(views, settings=CACRSettings(), debias=0.1)
