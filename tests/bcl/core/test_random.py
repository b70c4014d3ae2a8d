import torch

from bcl.core.random import hash64, permutation, uniform


def test_recorded_values_do_not_change():
    """A change here changes every run: the numbers are part of what a seed means."""
    assert hash64(0, 1, 2).item() == 6768782832058643234
    found = uniform(7, torch.arange(3))
    assert [round(u, 6) for u in found.tolist()] == [
        0.721508,
        0.239284,
        0.275982,
    ]


def test_numbers_depend_on_the_keys_and_their_order_alone():
    ids = torch.arange(100)
    assert hash64(1, ids).equal(hash64(torch.tensor(1), ids))
    assert hash64(1, ids)[40:50].equal(hash64(1, ids[40:50]))
    assert not hash64(1, 2).equal(hash64(2, 1))
    assert hash64(2**64 + 5).equal(hash64(5))
    assert hash64(-1).equal(hash64(2**64 - 1))


def test_no_two_of_many_keys_collide():
    keys = hash64(torch.arange(4)[:, None], torch.arange(50000))
    assert keys.unique().numel() == 200000


def test_uniform_numbers_are_even_and_independent_of_neighbors():
    u = uniform(3, torch.arange(200000))
    assert (u.histc(20, 0, 1) - 10000).abs().max() < 500
    assert torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1].abs() < 0.01
    bits = hash64(torch.arange(20000))
    flipped = bits ^ hash64(torch.arange(20000) ^ 1)
    ones = sum(((flipped >> k) & 1).float().mean() for k in range(64)) / 64
    assert abs(ones - 0.5) < 0.01


def test_permutation_holds_every_position_once():
    order = permutation(1000, 5, 2)
    assert order.sort().values.equal(torch.arange(1000))
    assert not order.equal(permutation(1000, 5, 3))
    assert order.equal(permutation(1000, 5, 2))
    assert permutation(0, 1).numel() == 0
