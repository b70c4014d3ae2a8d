"""On real gloo ranks: value and gradient equal those of one process on the whole batch."""

import copy

import pytest
import torch
from ranks import pool
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bcl import (
    InputError,
    MemorizationTracker,
    NTXentLoss,
    SimilarityTemperature,
    macl_loss,
    nt_xent,
)
from bcl.core import distributed
from bcl.core.distributed import gather_rows, row_counts, sum_over_ranks, world_size
from cacr import CACRLoss, MomentumQueue, cacr_terms

# World size and the samples of each rank; together 12.
SPLITS = [(2, (6, 6)), (4, (3, 3, 3, 3)), (2, (7, 5)), (4, (1, 5, 2, 4))]


def features(views: int) -> torch.Tensor:
    return torch.randn(views, 12, 5, generator=torch.Generator().manual_seed(0)).double()


def share(x: torch.Tensor, split: tuple[int, ...], rank: int, dim: int = 1) -> torch.Tensor:
    return x.split(split, dim)[rank]


def queue() -> torch.Tensor:
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).double()


def momentum_keys(z: torch.Tensor) -> torch.Tensor:
    return z.detach().flip(-1) + 0.1


def xent(**form):
    return lambda z, ids, **options: nt_xent(z[0], z[1], 0.3, **form, **options)


def xent_per_sample(z, ids, **options):
    return nt_xent(z[0], z[1], 0.2 + 0.05 * ids, **options)


def xent_by_similarity(z, ids, **options):
    return nt_xent(z[0], z[1], SimilarityTemperature(0.1, 0.4), **options)


def macl_xent(z, ids, **options):
    return macl_loss(z[0], z[1], 0.3, **options)


def cacr(**form):
    return lambda z, ids, **options: sum(cacr_terms(z, **form, **options))


def cacr_queue(z, ids, **options):
    return sum(cacr_terms(z, queue(), keys=momentum_keys(z), **options))


def cacr_queue_rbf(z, ids, **options):
    return sum(cacr_terms(z, queue(), cost="rbf", **options))


def cacr_teacher(z, ids, **options):
    return sum(cacr_terms(z, keys=momentum_keys(z)[:2], **options))


def cacr_learning_keys(z, ids, **options):
    return sum(cacr_terms(z, keys=z.flip(-1), cost="rbf", **options))


LOSSES = {
    "nt_xent": xent(),
    "nt_xent focal": xent(focal=2.0),
    "nt_xent blocks": xent(chunk_size=2),
    "nt_xent temperatures": xent_per_sample,
    "nt_xent by similarity": xent_by_similarity,
    "macl xent": macl_xent,
    "cacr": cacr(),
    "cacr debiased": cacr(debias=0.1),
    "cacr rbf": cacr(cost="rbf"),
    "cacr blocks": cacr(chunk_size=2),
    "cacr rbf blocks": cacr(cost="rbf", chunk_size=2),
    "cacr queue": cacr_queue,
    "cacr queue rbf": cacr_queue_rbf,
    "cacr teacher": cacr_teacher,
    "cacr learning keys": cacr_learning_keys,
}


def value_and_gradient(rank, name, split, reduction):
    """Share of the loss, and the gradient as DDP leaves it on a parameter: averaged."""
    torch.manual_seed(0)
    encoder = nn.Linear(5, 4).double()
    z = encoder(share(features(2 if "xent" in name else 3), split, rank))
    z = torch.cat([z, z[..., :1].square()], -1)
    ids = torch.arange(12).double().split(split)[rank]
    loss = LOSSES[name](z, ids, reduction=reduction)
    weights = torch.linspace(0.5, 2, 12).double().split(split)[rank]
    ((loss * weights).sum() if reduction == "none" else loss).backward()
    return loss.detach(), sum_over_ranks(encoder.weight.grad) / len(split)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "split"), SPLITS)
@pytest.mark.parametrize("name", LOSSES)
def test_ranks_together_are_one_process(world, split, name):
    for reduction in ("mean", "sum", "none"):
        results = pool(world).run(value_and_gradient, name, split, reduction)
        whole, gradient = value_and_gradient(0, name, (12,), reduction)
        values = [value for value, _ in results]
        if reduction == "none":
            together = torch.cat(values)  # each rank has its own samples
        elif reduction == "sum":
            together = sum(values)
        else:
            together = sum(values) / world
        # DDP averages; of a sum over samples that is the whole over the number of ranks.
        gradient = gradient if reduction == "mean" else gradient / world
        torch.testing.assert_close(together, whole, rtol=1e-11, atol=1e-12)
        for _, averaged in results:
            torch.testing.assert_close(averaged, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("world", [2, 4])
def test_with_equal_batches_the_value_is_the_mean_over_ones_own_samples(world):
    split = (12 // world,) * world
    for name in ("nt_xent", "cacr", "cacr rbf"):
        means = pool(world).run(value_and_gradient, name, split, "mean")
        samples = pool(world).run(value_and_gradient, name, split, "none")
        for (mean, _), (own, _) in zip(means, samples, strict=True):
            torch.testing.assert_close(mean, own.mean())


def second_derivative(rank, split):
    z = share(features(2), split, rank).clone().requires_grad_()
    (grad,) = torch.autograd.grad(nt_xent(z[0], z[1], 0.3, chunk_size=2), z, create_graph=True)
    grad.square().sum().backward()
    return z.grad


def test_second_derivatives_cross_the_ranks():
    parts = pool(2).run(second_derivative, (6, 6))
    together = torch.cat(parts, 1)
    # Rank r's loss is the mean over its half, so its gradients are twice those of the whole.
    torch.testing.assert_close(together, 4 * second_derivative(0, (12,)))


def compiled_value_and_gradient(rank, split):
    z = share(features(2), split, rank).clone().requires_grad_()
    loss = torch.compile(lambda z: nt_xent(z[0], z[1], 0.3, chunk_size=2), backend="aot_eager")(z)
    loss.backward()
    return loss.detach(), z.grad


@pytest.mark.slow
def test_compiled_across_ranks():
    results = pool(2).run(compiled_value_and_gradient, (7, 5))
    z = features(2).requires_grad_()
    loss = nt_xent(z[0], z[1], 0.3)
    loss.backward()
    torch.testing.assert_close(sum(value for value, _ in results) / 2, loss.detach())
    torch.testing.assert_close(torch.cat([grad for _, grad in results], 1), 2 * z.grad)


def train(rank, split, kind):
    """Three steps of SGD on this rank's share, under DDP where there are ranks."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    model = DistributedDataParallel(encoder) if len(split) > 1 else encoder
    loss_of = NTXentLoss(0.3) if kind == "nt_xent" else CACRLoss(reduction="none")
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.5, momentum=0.9)
    for step in range(3):
        views = share(features(2) + step, split, rank)
        z = model(views.flatten(0, 1)).view(2, -1, 4)
        loss = loss_of(z)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    return [p.detach() for p in encoder.parameters()]


@pytest.mark.parametrize("kind", ["nt_xent", "cacr"])
@pytest.mark.parametrize("world", [2, 4])
def test_training_under_ddp_takes_the_steps_of_one_process(world, kind):
    expected = train(0, (12,), kind)
    for parameters in pool(world).run(train, (12 // world,) * world, kind):
        torch.testing.assert_close(parameters, expected, rtol=1e-10, atol=1e-12)


def local_loss(rank, split):
    z = share(features(2), split, rank)
    assert rank == distributed.rank()
    assert world_size() == len(split)
    return nt_xent(z[0], z[1], gather=False), CACRLoss(gather=False)(z)


def test_without_gather_a_rank_is_by_itself():
    for r, (xent_value, cacr_value) in enumerate(pool(2).run(local_loss, (7, 5))):
        z = share(features(2), (7, 5), r)
        torch.testing.assert_close(xent_value, nt_xent(z[0], z[1]))
        torch.testing.assert_close(cacr_value, CACRLoss()(z))


@pytest.mark.parametrize("name", ["nt_xent", "cacr rbf", "cacr queue"])
def test_a_rank_without_samples_changes_nothing(name):
    whole, gradient = value_and_gradient(0, name, (12,), "mean")
    results = pool(2).run(value_and_gradient, name, (12, 0), "mean")
    torch.testing.assert_close(sum(value for value, _ in results) / 2, whole)
    for _, averaged in results:
        torch.testing.assert_close(averaged, gradient)


def refused(rank):
    """Text of the error on this rank; rank 1 alone has a sample."""
    z = features(2)[:, :rank]
    try:
        loss = nt_xent(z[0], z[1])
    except InputError as error:
        return str(error)
    return f"no error: {loss}"


def test_a_batch_of_one_sample_is_refused_on_all_ranks():
    for text in pool(2).run(refused):
        assert "no negatives" in text


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


def fill_queue(rank, split):
    store = MomentumQueue(9, 5)
    for step in range(2):
        store.enqueue(share(features(1)[0].float() + step, split, rank, 0))
    return store.keys, store.position


@pytest.mark.parametrize(("world", "split"), SPLITS)
def test_the_queue_is_the_same_on_every_rank_as_in_one_process(world, split):
    keys, position = fill_queue(0, (12,))
    for other_keys, other_position in pool(world).run(fill_queue, split):
        assert other_keys.equal(keys)
        assert other_position.equal(position)


def track(rank, split):
    tracker = MemorizationTracker(12)
    for step in range(2):
        ids = torch.arange(12).roll(step)
        tracker.update(share(ids, split, rank, 0), share(ids.float() * (step + 1), split, rank, 0))
        tracker.refresh()
    return copy.deepcopy(tracker.state_dict())


@pytest.mark.parametrize(("world", "split"), [*SPLITS, (2, (12, 0))])
def test_the_tracker_is_the_same_on_every_rank_as_in_one_process(world, split):
    expected = track(0, (12,))
    for state in pool(world).run(track, split):
        assert all(state[name].equal(value) for name, value in expected.items())


def track_repeats(rank):
    tracker = MemorizationTracker(4)
    ids = torch.tensor([[0, 1, 1], [1, 2, 0]])[rank]
    tracker.update(ids, torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[rank])
    return tracker.momentum_loss


def test_a_sample_on_two_ranks_counts_once_with_the_loss_of_the_first():
    for losses in pool(2).run(track_repeats):
        assert losses.tolist() == [1.0, 2.0, 5.0, 0.0]


def track_divergence(rank):
    tracker = MemorizationTracker(4)
    loss = torch.tensor([1.0, torch.nan])[rank]
    try:
        tracker.update(torch.tensor([rank]), loss.view(1))
    except InputError as error:
        return str(error), tracker.seen
    return "", tracker.seen


def test_a_loss_that_is_not_finite_on_one_rank_is_refused_on_all():
    for told, seen in pool(2).run(track_divergence):
        assert "not finite for sample ids [1]" in told
        assert not seen.any()


def raise_on_rank_1(rank):
    if rank == 1:
        raise KeyError("only here")


def test_the_pool_reports_a_ranks_error_and_goes_on():
    with pytest.raises(RuntimeError, match=r"rank 1: [\s\S]*only here"):
        pool(2).run(raise_on_rank_1)
    assert pool(2).run(abs) == [0, 1]
