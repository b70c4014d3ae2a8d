"""SDCLR: the pruned branch, its norms and its gradient."""

import copy

import pytest
import torch
from small_runs import SIZE, TINY
from torch import nn

from bcl import (
    SDCLR,
    InputError,
    NTXentLoss,
    SimCLR,
)
from bcl.models.pruning import convolution_weights


class TestSDCLR:
    def method(self):
        torch.manual_seed(1)
        return SDCLR(TINY, views=SIZE, prune_fraction=0.5)

    def test_one_backward_equals_the_released_two_step_gradient(self):
        method = self.method().double()
        views = torch.rand(2, 8, 3, SIZE, SIZE, dtype=torch.float64)
        loss = NTXentLoss(0.2)
        loss(method.project(views)).backward()
        ours = {name: p.grad.clone() for name, p in method.named_parameters()}
        method.zero_grad()
        dense, damaged = method.project(views)
        loss(torch.stack([dense, damaged.detach()])).backward()
        dense, damaged = method.project(views)
        loss(torch.stack([dense.detach(), damaged])).backward()
        for name, parameter in method.named_parameters():
            torch.testing.assert_close(ours[name], parameter.grad, msg=name)

    def test_pruned_weights_get_their_gradient_from_the_dense_branch_alone(self):
        method = self.method()
        views = torch.rand(2, 8, 3, SIZE, SIZE)
        _, damaged = method.project(views)
        damaged.square().sum().backward()
        for name, weight in convolution_weights(method.encoder).items():
            assert not weight.grad[~method.masks.get(name)].any()

    def test_branches_have_norms_of_their_own(self):
        method = self.method()
        views = torch.rand(2, 8, 3, SIZE, SIZE)
        method.project(views)
        own = method.encoder_norms.get("bn1.running_mean")
        assert not torch.equal(own, method.encoder.bn1.running_mean)
        assert int(method.encoder.bn1.num_batches_tracked) == 1
        assert int(method.encoder_norms.get("bn1.num_batches_tracked")) == 1
        assert method.encoder_norms.get("bn1.weight").requires_grad

    def test_fraction_zero_and_equal_views_give_equal_branches(self):
        method = SDCLR(TINY, views=SIZE, prune_fraction=0.0)
        view = torch.rand(8, 3, SIZE, SIZE)
        dense, damaged = method.project(torch.stack([view, view]))
        torch.testing.assert_close(dense, damaged)

    def test_pruning_again_follows_the_weights(self):
        method = self.method()
        first = method.masks.get("conv1.weight").clone()
        with torch.no_grad():
            method.encoder.conv1.weight.mul_(1e-6)
        method.prune()
        assert not method.masks.get("conv1.weight").any()
        assert first.any()

    def test_encoder_keeps_the_names_of_its_tensors(self):
        plain = SimCLR(TINY, views=SIZE).encoder.state_dict()
        assert list(self.method().encoder.state_dict()) == list(plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regnetx_002", "mobilenetv3_small_050", "test_convnext"])
def test_sdclr_keeps_statistics_for_both_branches_of_any_batch_norm(name):
    if name == "test_convnext":  # layer norms
        with pytest.raises(InputError, match="batch norm"):
            SDCLR(name)
        return
    torch.manual_seed(0)
    method = SDCLR(name, prune_fraction=0.5)
    norms = [m for m in method.encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(dict(method.encoder_norms.named_buffers())) == 3 * len(norms)
    dense = copy.deepcopy(method.encoder)
    views = torch.rand(2, 8, 3, 32, 32)
    method.project(views).square().sum().backward()
    # The dense statistics are those of the dense view alone.
    dense(method.normalize(views[0]))
    state = method.encoder.state_dict()
    for key, value in dense.state_dict().items():
        torch.testing.assert_close(state[key], value, msg=key)
    for key, value in method.encoder_norms.named_buffers():
        if key.endswith("running_var"):
            assert not torch.equal(value, state[key.replace("/", ".")])
    assert [key for key, value in method.named_parameters() if value.grad is None] == []
