"""COLT's second term against explicit loops, its gradient, ranks, and what it composes with."""

import pytest
import torch
from ranks import pool
from tensors import pair

from bcl import DomainLoss, GeometricHarmonization, InputError, NTXentLoss, SogCLRLoss, nt_xent

IDS = torch.tensor([5, -1, 3, -1, -1, 0, 1])


def by_loops(views, ids, temperature):
    """(B,) second terms, one row and one row of its domain at a time."""
    u = torch.nn.functional.normalize(views, dim=-1)
    count, terms = u.shape[1], []
    for i in range(count):
        rows = []
        for v in (0, 1):
            others = [(w, j) for j in range(count) for w in (0, 1) if (w, j) != (v, i)]
            logits = {place: u[v, i] @ u[place] / temperature for place in others}
            mass = torch.stack(list(logits.values())).logsumexp(0)
            same = [mass - logits[w, j] for w, j in others if (ids[j] < 0) == (ids[i] < 0)]
            rows.append(torch.stack(same).mean())
        terms.append(torch.stack(rows).mean())
    return torch.stack(terms)


@pytest.mark.parametrize("temperature", [0.2, 0.01])
def test_values_and_gradients_match_explicit_loops(temperature):
    views = torch.stack(pair()).requires_grad_()
    loss_of = DomainLoss(NTXentLoss(reduction="none"), weight=0.7, temperature=temperature)
    found = loss_of(views, ids=IDS)
    expected = nt_xent(*views, reduction="none") + 0.7 * by_loops(views, IDS, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    weights = torch.linspace(0.5, 2, 7).double()
    grads = [torch.autograd.grad((each * weights).sum(), views)[0] for each in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-11)


def test_gradcheck():
    views = torch.stack(pair(5, 3)).requires_grad_()
    loss_of = DomainLoss(NTXentLoss(), weight=0.5)
    assert torch.autograd.gradcheck(lambda z: loss_of(z, ids=IDS[:5]), (views,))


@pytest.mark.parametrize("ids", [None, torch.arange(7), torch.full((7,), -1)])
def test_one_domain_has_no_second_term(ids):
    views = torch.stack(pair())
    assert DomainLoss(NTXentLoss())(views, ids=ids).equal(nt_xent(*views))


def test_a_domain_of_one_image_has_its_other_view():
    views, ids = torch.stack(pair()), torch.arange(7).where(torch.arange(7) != 2, -1)
    found = DomainLoss(NTXentLoss(reduction="none"), weight=1.0)(views, ids=ids)
    plain = nt_xent(*views, reduction="none")
    torch.testing.assert_close(found[2], 2 * plain[2])


def shared(rank, split, ids):
    views = torch.stack(pair(7, 5)).split(split, 1)[rank].clone().requires_grad_()
    value = DomainLoss(NTXentLoss(), weight=0.5)(views, ids=ids.split(split)[rank])
    value.backward()
    return value.detach(), views.grad


@pytest.mark.parametrize("ids", [IDS, torch.tensor([0, 1, 2, 3, -1, -1, -1])])
def test_ranks_together_are_one_process(ids):
    """Also where each rank has one domain alone."""
    results = pool(2).run(shared, (4, 3), ids)
    value, grad = shared(0, (7,), ids)
    torch.testing.assert_close(sum(each[0] for each in results) / 2, value)
    torch.testing.assert_close(torch.cat([each[1] for each in results], 1), 2 * grad)


@pytest.mark.parametrize("outer", ["domain", "harmonization"])
def test_a_loss_that_does_not_gather_does_not_within_others(outer, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    loss, views = NTXentLoss(gather=False), torch.stack(pair(7, 5))
    settings = {"num_samples": 7, "num_clusters": 3, "features": 5, "start": 0, "ramp": 0}
    if outer == "domain":
        loss = DomainLoss(GeometricHarmonization(loss, **settings))
    else:
        loss = GeometricHarmonization(DomainLoss(loss), **settings)
    loss(views, ids=IDS, epoch=0)  # what gathers would find no process group


def test_it_goes_on_top_of_a_loss_with_state():
    """External images have no place in it."""
    inner = SogCLRLoss(8, reduction="none")
    loss_of = DomainLoss(inner)
    found = loss_of(torch.stack(pair()), ids=IDS)
    assert found.shape == (7,)
    assert inner.state.seen.nonzero().flatten().tolist() == [0, 1, 3, 5]
    # The last sample, to which -1 would point, is as it was.
    assert inner.state.values[7].tolist() == pytest.approx([0.0, 0.1, 0.0])
    first = SogCLRLoss(8, reduction="none")
    first(torch.stack(pair()), torch.arange(7))
    assert inner.state.values[5].equal(first.state.values[0])  # place 0 has id 5


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="weight"):
        DomainLoss(NTXentLoss(), weight=-1.0)
    with pytest.raises(InputError, match="temperature"):
        DomainLoss(NTXentLoss(), temperature=0.0)
    for ids in (IDS[:3], IDS[:1], IDS[:, None], IDS.double()):
        with pytest.raises(InputError, match=r"ids must be integers of shape \(B,\) = \(7,\)"):
            DomainLoss(NTXentLoss())(torch.stack(pair()), ids=ids)
