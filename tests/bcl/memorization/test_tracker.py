import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN
from ranks import pool
from torch import nn

from bcl import InputError, MemorizationTracker
from bcl.memorization import update_together


def run_epochs(tracker, indices, losses, batch_size):
    for order, epoch_losses in zip(indices, losses, strict=True):
        for start in range(0, len(order), batch_size):
            rows = slice(start, start + batch_size)
            tracker.update(torch.from_numpy(order[rows]), torch.from_numpy(epoch_losses[rows]))
        tracker.refresh()
        yield tracker.momentum_loss.clone(), tracker.scores.clone()


def test_golden_momentum_losses_and_scores():
    data = np.load(GOLDEN / "loss_memory.npz")
    tracker = MemorizationTracker(50, momentum=float(data["momentum"]))
    epochs = run_epochs(tracker, data["indices"], data["losses"], int(data["batch_size"]))
    for epoch, (momentum_loss, scores) in enumerate(epochs):
        np.testing.assert_allclose(momentum_loss, data["momentum_loss"][epoch], rtol=1e-6)
        np.testing.assert_allclose(scores, data["score"][epoch], rtol=1e-5, atol=1e-6)


def test_matches_an_explicit_loop():
    generator = torch.Generator().manual_seed(0)
    tracker = MemorizationTracker(20, momentum=0.9)
    expected: dict[int, float] = {}
    for _ in range(4):
        order = torch.randperm(20, generator=generator)[:15]
        for ids in order.split(4):
            losses = torch.rand(len(ids), generator=generator)
            tracker.update(ids, losses)
            for i, loss in zip(ids.tolist(), losses.tolist(), strict=True):
                expected[i] = 0.9 * expected[i] + 0.1 * loss if i in expected else loss
        tracker.refresh()
    values = list(expected.values())
    mean = sum(values) / len(values)
    largest = max(abs(v - mean) for v in values)
    for i in range(20):
        assert bool(tracker.seen[i]) == (i in expected)
        if i in expected:
            assert tracker.momentum_loss[i].item() == pytest.approx(expected[i], rel=1e-5)
            score = 0.5 * ((expected[i] - mean) / largest + 1)
            assert tracker.scores[i].item() == pytest.approx(score, abs=1e-5)
        else:
            assert tracker.scores[i] == 0


def test_a_repeated_sample_counts_once_an_epoch_with_its_first_loss():
    tracker = MemorizationTracker(3, momentum=0.5)
    tracker.update(torch.tensor([1, 0, 1]), torch.tensor([2.0, 4.0, 8.0]))
    tracker.update(torch.tensor([1]), torch.tensor([100.0]))
    assert tracker.momentum_loss.tolist() == [4.0, 2.0, 0.0]
    tracker.refresh()
    tracker.update(torch.tensor([1]), torch.tensor([4.0]))
    assert tracker.momentum_loss.tolist() == [4.0, 3.0, 0.0]


def test_before_any_update_all_scores_are_zero():
    tracker = MemorizationTracker(4)
    tracker.refresh()
    assert tracker.scores.tolist() == [0.0] * 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused_and_nothing_of_the_step_is_kept(bad):
    tracker = MemorizationTracker(5)
    with pytest.raises(InputError, match=r"not finite for sample ids \[3\]"):
        tracker.update(torch.tensor([0, 3]), torch.tensor([1.0, bad]))
    assert not tracker.seen.any()
    assert tracker.momentum_loss.eq(0).all()


def test_ids_of_another_data_set_are_refused():
    tracker = MemorizationTracker(5)
    for wrong in (5, -1):
        with pytest.raises(InputError, match=rf"sample id {wrong} lies outside \[0, 5\)"):
            tracker.update(torch.tensor([0, wrong]), torch.ones(2))
    assert not tracker.seen.any()


@pytest.mark.parametrize(
    ("ids", "losses", "message"),
    [
        (torch.zeros(2, dtype=torch.int64), torch.zeros(3), r"reduction='none'"),
        (torch.zeros(2), torch.zeros(2), "must be integers"),
    ],
)
def test_wrong_shapes_and_types_are_refused(ids, losses, message):
    with pytest.raises(InputError, match=message):
        MemorizationTracker(5).update(ids, losses)


def test_wrong_arguments_are_refused():
    with pytest.raises(InputError, match="num_samples"):
        MemorizationTracker(0)
    with pytest.raises(InputError, match="momentum"):
        MemorizationTracker(2, momentum=1.0)
    with pytest.raises(InputError, match="did you mean 'rank'"):
        MemorizationTracker(2, normalization="ranks")


def test_the_memory_is_saved_and_another_training_set_is_refused():
    tracker = MemorizationTracker(3)
    tracker.update(torch.arange(3), torch.tensor([1.0, 2.0, 3.0]))
    tracker.refresh()
    state = tracker.state_dict()
    same = MemorizationTracker(3)
    same.load_state_dict(state)
    assert same.momentum_loss.equal(tracker.momentum_loss)
    assert same.scores.equal(tracker.scores)
    with pytest.raises(InputError, match="3 samples"):
        MemorizationTracker(4).load_state_dict(state)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 5), st.floats(0, 10, width=32)), max_size=8),
        min_size=1,
        max_size=6,
    )
)
def test_any_repeats_within_and_between_steps_match_a_loop(steps):
    tracker = MemorizationTracker(6, momentum=0.5)
    expected: dict[int, float] = {}
    for epoch in range(2):
        counted = set()
        for step in steps:
            tracker.update(
                torch.tensor([i for i, _ in step], dtype=torch.int64),
                torch.tensor([loss for _, loss in step], dtype=torch.float32),
            )
            for i, loss in step:
                if i not in counted:
                    expected[i] = 0.5 * expected[i] + 0.5 * loss if epoch else loss
                    counted.add(i)
        tracker.refresh()
    for i in range(6):
        assert bool(tracker.seen[i]) == (i in expected)
        assert tracker.momentum_loss[i].item() == pytest.approx(expected.get(i, 0.0), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_memory_stays_float32_in_a_model_of_another_precision(dtype):
    model = nn.ModuleDict({"tracker": MemorizationTracker(4), "head": nn.Linear(2, 2)})
    losses = torch.tensor([1.0001, 2.0002, 3.0003, 4.0004])
    model["tracker"].update(torch.arange(4), losses)
    model.to(dtype)
    assert model["head"].weight.dtype == dtype
    assert torch.equal(model["tracker"].momentum_loss, losses)
    model["tracker"].update(torch.arange(4), losses.to(dtype))
    assert model["tracker"].momentum_loss.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_of_any_precision_are_taken_as_float32(dtype):
    tracker = MemorizationTracker(2)
    tracker.update(torch.tensor([1]), torch.tensor([1.5], dtype=dtype, requires_grad=True))
    assert tracker.momentum_loss.tolist() == [0.0, 1.5]
    assert tracker.momentum_loss.dtype == torch.float32
    assert not tracker.momentum_loss.requires_grad


def test_large_finite_losses_are_no_divergence():
    tracker = MemorizationTracker(3)
    large = torch.full((3,), torch.finfo(torch.float32).max)
    tracker.update(torch.arange(3), large)  # their sum exceeds float32
    assert torch.equal(tracker.momentum_loss, large)


def test_infinities_that_cancel_are_refused():
    with pytest.raises(InputError, match=r"ids \[0, 1\]"):
        MemorizationTracker(3).update(torch.arange(3), torch.tensor([torch.inf, -torch.inf, 1.0]))


def test_state_is_buffers_of_twelve_bytes_a_sample():
    tracker = MemorizationTracker(1000)
    assert not list(tracker.parameters())
    state = tracker.state_dict()
    assert sum(value.nbytes for value in state.values() if value.ndim) == 12 * 1000
    assert set(state) == {"momentum_loss", "scores", "updated_in", "epoch"}


def steps(sizes=(5, 3, 5), samples=12, signals=3):
    """Ids, with repeats, and a row of values per signal for each step."""
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        ids = torch.randint(samples, (size,), generator=generator)
        yield ids, torch.rand(signals, size, generator=generator)


def test_trackers_together_hold_what_each_alone_would():
    together, alone = ([MemorizationTracker(12, 0.5) for _ in range(3)] for _ in range(2))
    for _ in range(2):
        for ids, values in steps():
            update_together(together, ids, values)
            for tracker, row in zip(alone, values, strict=True):
                tracker.update(ids, row)
        for tracker in (*together, *alone):
            tracker.refresh()
    for first, second in zip(together, alone, strict=True):
        for name, buffer in first.named_buffers():
            assert torch.equal(buffer, getattr(second, name)), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_value_keeps_the_step_out_of_all_trackers(bad):
    trackers = [MemorizationTracker(12) for _ in range(3)]
    ids, values = next(steps())
    values[2, 1] = bad
    with pytest.raises(InputError, match=rf"not finite for sample ids \[{int(ids[1])}\]"):
        update_together(trackers, ids, values)
    assert not any(tracker.seen.any() for tracker in trackers)


def share_of(rank, sizes):
    trackers = [MemorizationTracker(12, 0.5) for _ in range(3)]
    for ids, values in steps((sum(sizes),) * 2):
        rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        update_together(trackers, ids[rows], values[:, rows])
        for tracker in trackers:
            tracker.refresh()
    return [[tracker.momentum_loss.tolist(), tracker.scores.tolist()] for tracker in trackers]


@pytest.mark.parametrize("sizes", [(4, 4), (2, 5)])
def test_several_trackers_are_the_same_on_every_rank(sizes):
    first, second = pool(2).run(share_of, sizes)
    assert first == second == share_of(0, (sum(sizes),))
