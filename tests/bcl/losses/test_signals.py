"""The signals of the tail: check values, explicit loops, laws, ranks and bad input."""

import pytest
import torch
from ranks import pool
from tensors import check_features, largest_allocation, pair, unit

from bcl import InputError, NTXentLoss, contrastive_signals, nt_xent
from bcl.losses import blocks, signals
from bcl.losses.signals import expected_loss, nt_xent_with_signals


def worked_example():
    i = torch.arange(12, dtype=torch.float64).view(4, 3)
    z1 = (1 + i).sin()
    return z1, z1 + 0.5 * (2 * i).cos()


def test_worked_example():
    """Computed independently from the formulas."""
    found = contrastive_signals(*worked_example(), num_neighbors=2)
    expected = {
        "loss": [1.157557, 1.270401, 1.181482, 1.231636],
        "misalignment": [-4.575678, -4.357293, -4.543966, -4.405545],
        "isolation": [-5.348207, -5.292611, -5.353065, -5.283427],
        "tailness": [-0.681391, -0.716112, -0.690083, -0.703046],
    }
    for name, values in expected.items():
        values = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(getattr(found, name), values, rtol=0, atol=6e-7)


def by_loops(z1, z2, temperature, k):
    """The signals straight from the formula, a sample at a time."""
    views = [torch.nn.functional.normalize(z, dim=1) for z in (z1, z2)]
    found = []
    for i in range(len(z1)):
        others = [j for j in range(len(z1)) if j != i]
        losses, isolations, shares = [], [], []
        positive = (views[0][i] @ views[1][i] / temperature).exp()
        for v in (0, 1):
            near = [views[v][i] @ views[w][j] / temperature for w in (0, 1) for j in others]
            negatives = torch.stack(near).exp()  # (2 (N - 1),)
            losses.append(-(positive / (positive + negatives.sum())).log())
            isolations.append(-negatives.sum().log())
            shares.append(negatives / (positive + negatives.sum()))
        largest = ((shares[0] + shares[1]) / 2).sort(descending=True).values[:k]
        found.append([sum(losses) / 2, -positive.log(), sum(isolations) / 2, -largest.sum()])
    return torch.tensor(found, dtype=torch.float64).T


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize(("temperature", "k"), [(0.2, 10), (0.05, 1), (1.0, 16)])
def test_equal_to_explicit_loops(monkeypatch, rows, temperature, k):
    monkeypatch.setattr("bcl.losses.signals.rows_per_block", lambda *_: 2 * rows)
    z = pair(9, 4)
    found = torch.stack(contrastive_signals(*z, temperature, num_neighbors=k))
    torch.testing.assert_close(found, by_loops(*z, temperature, k), rtol=1e-10, atol=1e-12)


def test_laws():
    z1, z2 = pair(8, 6)
    found = contrastive_signals(z1, z2, num_neighbors=14)
    torch.testing.assert_close(found.loss, nt_xent(z1, z2, reduction="none"))
    # With all negatives, tailness is the loss upside down: a row's sum is 1 - exp(-loss).
    u = torch.nn.functional.normalize(torch.stack([z1, z2]), dim=-1)
    rows = torch.cat([u[0], u[1]])
    logits = (rows @ rows.T / 0.2).fill_diagonal_(-torch.inf)
    p = logits.softmax(1)[range(16), [*range(8, 16), *range(8)]].view(2, 8)
    torch.testing.assert_close(found.tailness, (p - 1).mean(0))
    unit = contrastive_signals(*u, num_neighbors=14, normalize=False)
    torch.testing.assert_close(unit, found)


def test_a_row_is_the_loss_of_its_parts_on_distinct_views():
    """loss = logaddexp(s⁺ / τ, -isolation) - s⁺ / τ in each row, of which a sample has two."""
    temperature = 0.3
    u = torch.nn.functional.normalize(torch.stack(pair(8, 6)), dim=-1)
    rows = (u.flatten(0, 1) @ u.flatten(0, 1).T / temperature).view(2, 8, 2, 8)
    itself = torch.eye(8, dtype=torch.bool)[None, :, None]
    isolation = -rows.masked_fill(itself, -torch.inf).flatten(2).logsumexp(2)  # (2, 8)
    positive = (u[0] * u[1]).sum(1) / temperature  # (8,)
    loss = torch.logaddexp(positive, -isolation) - positive
    found = contrastive_signals(*u, temperature)
    assert not torch.allclose(*isolation)  # the rows of a sample differ
    torch.testing.assert_close(found.isolation, isolation.mean(0))
    torch.testing.assert_close(found.misalignment, -positive)
    torch.testing.assert_close(found.loss, loss.mean(0))


def test_nothing_has_a_gradient_and_half_precision_becomes_float32():
    z = [x.to(torch.bfloat16).requires_grad_() for x in pair()]
    for signal in contrastive_signals(*z):
        assert signal.dtype == torch.float32
        assert not signal.requires_grad


def test_a_value_that_is_not_finite_shows():
    z1, z2 = pair()
    z1[2, 1] = torch.nan
    assert bool(contrastive_signals(z1, z2).loss.isnan().any())


def test_low_temperatures_stay_finite():
    z = pair(40, 16, torch.float32)
    for signal in contrastive_signals(*z, temperature=1e-3):
        assert bool(signal.isfinite().all())


def test_without_blocks_of_the_loss_the_signals_have_one(monkeypatch):
    monkeypatch.setattr(blocks, "plain_only", lambda: True)  # as under torch.func
    sizes = []
    block = signals._block_signals
    monkeypatch.setattr(
        signals, "_block_signals", lambda x, *more: (sizes.append(x.shape[1]), block(x, *more))[1]
    )
    contrastive_signals(*pair(12))
    assert sizes == [12]


def test_memory_is_linear():
    z = pair(2048, 16, torch.float32)
    assert largest_allocation(lambda: contrastive_signals(*z)) <= 4 * (2 * 2048) ** 2 / 16


@pytest.mark.parametrize("options", [{}, {"focal": 2.0}, {"chunk_size": 4}, {"normalize": False}])
@pytest.mark.parametrize("temperature", [None, 0.5, torch.tensor(0.2)])
def test_one_pass_gives_the_loss_its_gradient_and_the_signals(options, temperature):
    loss = NTXentLoss(0.2, reduction="none", **options)
    views = torch.stack(pair(40, 8)).requires_grad_()
    losses, signals = nt_xent_with_signals(loss, views, temperature)
    expected = loss(views, temperature)
    torch.testing.assert_close(losses, expected)
    weights = torch.linspace(0.5, 2, 40, dtype=torch.float64)
    grads = [torch.autograd.grad((x * weights).sum(), views) for x in (losses, expected)]
    torch.testing.assert_close(*grads)
    normalize = options.get("normalize", True)
    assert all(map(torch.equal, signals, contrastive_signals(*views, normalize=normalize)))


def test_the_loss_takes_its_sums_from_the_signals(monkeypatch):
    calls = []
    monkeypatch.setattr("bcl.losses.blocks._triangle", lambda *_: calls.append(0) or [])
    views = torch.stack(pair(40, 8))
    nt_xent_with_signals(NTXentLoss(0.2), views)
    assert not calls
    nt_xent_with_signals(NTXentLoss(0.3), views)
    assert calls


def shares(rank, sizes):
    z1, z2 = pair(sum(sizes))
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    return [signal.tolist() for signal in contrastive_signals(z1[rows], z2[rows])]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(6, 6), (3, 8), (0, 11)])
def test_ranks_agree_with_one_process(sizes):
    whole = torch.stack(contrastive_signals(*pair(sum(sizes))))
    parts = [torch.tensor(part, dtype=torch.float64) for part in pool(2).run(shares, sizes)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def signals_of(z, **options):
    return nt_xent_with_signals(NTXentLoss(), torch.stack([z, z]), **options)


BAD = [
    (lambda z: contrastive_signals(z[:1], z[:1]), "at least 2"),
    (lambda z: contrastive_signals(z, z, num_neighbors=7), "6 negatives"),
    (lambda z: contrastive_signals(z, z, num_neighbors=0), "num_neighbors"),
    (lambda z: contrastive_signals(z, z, temperature=0.0), "temperature"),
    (lambda z: contrastive_signals(z, z, temperature=torch.tensor(0.2)), "one number"),
    (lambda z: contrastive_signals(z, z, temperature=torch.full((4,), 0.2)), "one number"),
    (lambda z: signals_of(z, signal_temperature=torch.tensor(0.2)), "one number"),
    (lambda z: signals_of(z[:1]), "at least 2"),
    (lambda z: signals_of(z), "6 negatives"),
    (lambda z: contrastive_signals(z, z[:3]), "same order"),
    (lambda z: contrastive_signals(z.long(), z), "floating point"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(torch.eye(4) + 0.1)


def test_check_values_of_the_expected_loss():
    z1, z2 = check_features()
    i = torch.arange(12, dtype=torch.float64).reshape(4, 3)
    z3 = unit((1 + i).sin() - 0.4 * i.cos())
    found = expected_loss(torch.stack([z1, z2, z3]), 0.2)
    expected = found.new_tensor([1.264864, 1.123738, 1.294650, 1.114213])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        expected_loss(torch.stack([z1, z2])), nt_xent(z1, z2, reduction="none")
    )
    with pytest.raises(InputError, match="two or more"):
        expected_loss(z1[None])
