"""Value and gradient on real gloo ranks equal those of one process on the whole batch."""

import pytest
import torch
from ranks import pool
from torch import nn

from bcl import nt_xent
from bcl.distributed import gather_rows, row_counts, sum_over_ranks
from cacr import cacr_terms

SPLITS = [(2, (6, 6)), (4, (3, 3, 3, 3)), (2, (7, 5)), (4, (1, 5, 2, 4))]


def features(views: int) -> torch.Tensor:
    return torch.randn(views, 12, 5, generator=torch.Generator().manual_seed(0)).double()


def share(x: torch.Tensor, split: tuple[int, ...], rank: int) -> torch.Tensor:
    return x.split(split, dim=1)[rank]


def nt_xent_loss(z: torch.Tensor, reduction: str) -> torch.Tensor:
    return nt_xent(z[0], z[1], 0.3, reduction=reduction)


def cacr_loss(z: torch.Tensor, reduction: str) -> torch.Tensor:
    return sum(cacr_terms(z, reduction=reduction))


def cacr_rbf_loss(z: torch.Tensor, reduction: str) -> torch.Tensor:
    return sum(cacr_terms(z, cost="rbf", reduction=reduction))


def cacr_queue_loss(z: torch.Tensor, reduction: str) -> torch.Tensor:
    queue = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).double()
    keys = z.detach().flip(-1) + 0.1
    return sum(cacr_terms(z, queue, keys=keys, reduction=reduction))


LOSSES = {
    "nt_xent": (nt_xent_loss, 2),
    "cacr": (cacr_loss, 3),
    "cacr_rbf": (cacr_rbf_loss, 3),
    "cacr_queue": (cacr_queue_loss, 3),
}


def value_and_gradient(rank, name, split, reduction):
    """Share of the loss, and the gradient as DDP leaves it on a parameter: averaged."""
    loss_of, views = LOSSES[name]
    torch.manual_seed(0)
    encoder = nn.Linear(5, 4).double()
    loss = loss_of_encoder(encoder, loss_of, share(features(views), split, rank), reduction)
    weights = torch.linspace(0.5, 2, 12).double().split(split)[rank]
    ((loss * weights).sum() if reduction == "none" else loss).backward()
    gradient = sum_over_ranks(encoder.weight.grad) / len(split)
    return loss.detach(), gradient


def loss_of_encoder(encoder, loss_of, x, reduction):
    z = encoder(x)
    return loss_of(torch.cat([z, z[..., :1]], -1), reduction)


@pytest.mark.parametrize(("world", "split"), SPLITS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_ranks_together_are_one_process(world, split, reduction, name):
    results = pool(world).run(value_and_gradient, name, split, reduction)
    whole, gradient = value_and_gradient(0, name, (12,), reduction)
    values = [value for value, _ in results]
    if reduction == "none":
        together = torch.cat(values)
        gradient = gradient / world
    elif reduction == "sum":
        together = sum(values)
        gradient = gradient / world
    else:
        together = sum(values) / world
    torch.testing.assert_close(together, whole, rtol=1e-12, atol=1e-12)
    for _, averaged in results:
        torch.testing.assert_close(averaged, gradient, rtol=1e-10, atol=1e-12)


def gather_unequal(rank):
    rows = torch.arange(3 * (rank + 1), dtype=torch.float64).reshape(rank + 1, 3) + 100 * rank
    rows.requires_grad_()
    gathered = gather_rows(rows)
    (gathered.square().sum() * (rank + 1)).backward()
    return row_counts(rows), gathered.detach(), rows.detach(), rows.grad


def test_unequal_rows_are_gathered_in_rank_order_and_gradients_added():
    results = pool(2).run(gather_unequal)
    expected = torch.cat([rows for _, _, rows, _ in results])
    for counts, gathered, rows, grad in results:
        assert counts == [1, 2]
        assert gathered.equal(expected)
        assert grad.equal(2 * rows * 3)  # ranks weigh their copies 1 and 2
