"""The queue of keys."""

import pytest
import torch
from tensors import features

from cacr import CACRLoss, MomentumQueue


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def test_the_queue_replaces_the_oldest_keys_and_wraps():
    queue = MomentumQueue(5, 2)
    first = queue.keys.clone()
    torch.testing.assert_close(first.norm(dim=1), torch.ones(5))
    assert first.equal(MomentumQueue(5, 2).keys)
    assert not first.equal(MomentumQueue(5, 2, seed=1).keys)
    new = unit(torch.randn(3, 2))
    queue.enqueue(3 * new)
    torch.testing.assert_close(queue.keys, torch.cat([new, first[3:]]))
    again = unit(torch.randn(4, 2))
    queue.enqueue(again)
    torch.testing.assert_close(queue.keys, torch.cat([again[2:], new[2:], again[:2]]))
    many = unit(torch.randn(12, 2))
    queue.enqueue(many)
    torch.testing.assert_close(queue.keys.sort(0).values, many[-5:].sort(0).values)
    assert int(queue.position) == (3 + 4 + 12) % 5
    assert sorted(queue.state_dict()) == ["keys", "position"]
    copy = MomentumQueue(5, 2)
    copy.load_state_dict(queue.state_dict())
    assert copy.keys.equal(queue.keys)
    assert "size=5" in repr(queue)


@pytest.mark.parametrize("chunk_size", [0, 3, None])
def test_enqueueing_before_the_backward_pass_does_not_change_the_gradient(chunk_size):
    grads = []
    for early in (False, True):
        queue = MomentumQueue(5, 4)
        z = features().float().requires_grad_()
        loss = CACRLoss(normalize=False, chunk_size=chunk_size)(z, queue.keys)
        if early:
            queue.enqueue(torch.randn(2, 4))
        loss.backward()
        grads.append(z.grad)
    assert grads[0].equal(grads[1])
