"""Training through a mask: what the forward pass sees, and which weights move."""

import pytest
import torch
from small_runs import SIZE, TINY, train

from bcl import SDCLR, InputError, SimCLR
from bcl.methods import OptimizerSettings, Pruned
from bcl.models.pruning import convolution_weights, magnitude_masks


def pruned(fraction=0.5, cls=Pruned, **arguments):
    torch.manual_seed(1)
    return cls(TINY, views=SIZE, prune_fraction=fraction, **arguments)


def test_check_values_of_the_mask():
    weights = torch.tensor([0.5, -0.1, 0.3, -0.05, 0.2, 0.9, -0.4, 0.02, 0.6, -0.7])
    mask = magnitude_masks({"w": weights}, 0.3)["w"]
    assert mask.int().tolist() == [1, 0, 1, 0, 1, 1, 1, 0, 1, 1]


def test_the_gradient_is_that_at_the_masked_weights_and_reaches_all():
    method = pruned().double()
    views = torch.rand(2, 8, 3, SIZE, SIZE).double()
    plain = SimCLR(TINY, views=SIZE).double()
    plain.load_state_dict(method.state_dict(), strict=False)
    plain.encoder.load_state_dict(method.trained_encoder().state_dict())
    for each in (method, plain):
        each.sample_losses(views).losses.mean().backward()
    masked = plain.encoder.get_parameter
    for name, weight in convolution_weights(method.encoder).items():
        torch.testing.assert_close(weight.grad, masked(name).grad, msg=name)
        assert weight.grad[~method.masks.get(name)].any(), name


def test_features_are_those_of_the_masked_encoder():
    method = pruned(0.9)
    images = torch.rand(4, 3, SIZE, SIZE)
    encoder = method.trained_encoder().eval()
    torch.testing.assert_close(method.encode(images), encoder(method.normalize(images)))
    assert not torch.allclose(method.encode(images), SimCLR.forward(method.eval(), images))
    assert SimCLR(TINY, views=SIZE).trained_encoder() is not None


def test_masked_weights_move_and_the_mask_follows_each_epoch():
    method = pruned(optimizer=OptimizerSettings(learning_rate=0.5))
    first = {name: mask.clone() for name, mask in method.masks.named_buffers()}
    before = {k: w.detach().clone() for k, w in convolution_weights(method.encoder).items()}
    train(method)
    now = convolution_weights(method.encoder)
    assert all((now[k] != before[k])[~first[k.replace(".", "/")]].any() for k in before)
    assert any(not mask.equal(first[name]) for name, mask in method.masks.named_buffers())


@pytest.mark.parametrize("straight_through", [False, True])
def test_sdclr_can_let_the_gradient_of_the_pruned_branch_through(straight_through):
    method = pruned(cls=SDCLR, straight_through=straight_through)
    _, damaged = method.project(torch.rand(2, 8, 3, SIZE, SIZE))
    damaged.square().sum().backward()
    reached = [
        bool(weight.grad[~method.masks.get(name)].any())
        for name, weight in convolution_weights(method.encoder).items()
    ]
    assert set(reached) == {straight_through}


def test_bad_input_is_refused():
    with pytest.raises(InputError, match=r"1\.0"):
        pruned(1.0)
    with pytest.raises(InputError, match="convolution"):
        Pruned(NoConvolutions(), views=SIZE)


class NoConvolutions(torch.nn.Module):
    num_features = 4

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))
