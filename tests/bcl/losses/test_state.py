"""Numbers per sample: written by id, the same on every rank, saved."""

import pytest
import torch
from ranks import pool

from bcl import InputError
from bcl.losses.state import SampleState


def test_of_a_repeated_sample_the_first_row_counts():
    state = SampleState(4, first=[9.0])
    state.write(torch.tensor([2, 0, 2, 2]), torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    assert state.values.flatten().tolist() == [2.0, 9.0, 1.0, 9.0]
    assert state.seen.tolist() == [True, False, True, False]


def test_a_row_that_is_not_finite_is_left_out():
    state = SampleState(3, first=[0.0, 0.0])
    state.write(torch.tensor([0, 1]), torch.tensor([[1.0, torch.nan], [1.0, 2.0]]))
    assert state.values.tolist() == [[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]]
    assert state.seen.tolist() == [False, True, False]


@pytest.mark.parametrize("ids", [[-1, 2, -1, 0], [-1, -1], [0, -1], []])
def test_external_images_have_no_place_and_the_first_numbers(ids):
    state = SampleState(3, first=[9.0, 8.0])
    state.write(torch.tensor([2, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    ids = state.check(torch.tensor(ids, dtype=torch.int64), len(ids))
    values, seen = state.read(ids)
    held = {-1: [9.0, 8.0], 0: [3.0, 4.0], 2: [1.0, 2.0]}
    assert values.tolist() == [held[int(i)] for i in ids]
    assert seen.tolist() == [int(i) >= 0 for i in ids]
    state.write(ids, torch.arange(10.0, 10 + 2 * len(ids)).view(-1, 2))
    expected = [[3.0, 4.0], [9.0, 8.0], [1.0, 2.0]]
    for place, i in enumerate(ids.tolist()):
        if i >= 0:
            expected[i] = [10.0 + 2 * place, 11.0 + 2 * place]
    assert state.values.tolist() == expected
    assert state.seen.tolist() == [True, False, True]


def test_it_is_saved_and_a_state_of_unknown_size_takes_the_saved_one():
    state = SampleState(3, first=[0.0])
    state.write(torch.tensor([1]), torch.tensor([[5.0]]))
    again = SampleState(None, first=[0.0])
    again.load_state_dict(state.state_dict())
    assert again.values.equal(state.values)
    assert again.seen.equal(state.seen)
    with pytest.raises(InputError, match="4 samples"):
        SampleState(4, first=[0.0]).load_state_dict(SampleState(3, [0.0]).state_dict())
    assert again.half().values.dtype == torch.float32


def write(rank, ids, rows):
    state = SampleState(5, first=[0.0, 0.0])
    state.write(state.check(torch.tensor(ids[rank]), len(ids[rank])), torch.tensor(rows[rank]))
    return state.values, state.seen


def test_every_rank_has_the_rows_of_all():
    ids = [[4, 1, 0], [1, 2]]  # batches of unequal size, one sample on both
    rows = [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0], [9.0, 10.0]]]
    results = pool(2).run(write, ids, rows)
    whole = write(0, [ids[0] + ids[1]], [rows[0] + rows[1]])
    for found in results:
        assert found[0].equal(whole[0])
        assert found[1].equal(whole[1])


@pytest.mark.parametrize(
    ("ids", "word"),
    [
        (None, "ids"),
        (torch.tensor([0, 3]), "id 3"),
        (torch.tensor([-2, 0]), "id -2"),
        (torch.tensor([0]), "shape"),
        (torch.tensor([0.0, 1.0]), "integers"),
    ],
)
def test_ids_that_do_not_fit_are_refused(ids, word):
    with pytest.raises(InputError, match=word):
        SampleState(3, first=[0.0]).check(ids, 2)


def test_ids_may_be_of_any_integer_type():
    ids = SampleState(3, first=[0.0]).check(torch.tensor([2, 0], dtype=torch.uint8), 2)
    assert (ids.tolist(), ids.dtype) == ([2, 0], torch.int64)


def test_without_a_size_it_says_so():
    with pytest.raises(InputError, match="num_samples"):
        SampleState(None, first=[0.0]).check(torch.tensor([0]), 1)
