import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from bcl import InputError, SimCLR
from bcl.methods.optimizers import OPTIMIZERS, OptimizerSettings, parameter_groups


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_descends(name):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x, y = torch.randn(64, 4), torch.randn(64, 1)
    rate = 0.5 if name == "lars" else 0.05
    optimizer = OptimizerSettings(name, rate, weight_decay=1e-4).build(model)
    losses = []
    for _ in range(50):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_sgd_step_by_hand():
    model = nn.Linear(1, 1, bias=False)
    weight = model.weight
    nn.init.constant_(weight, 2.0)
    optimizer = OptimizerSettings("sgd", 0.5, momentum=0.9, weight_decay=0.1).build(model)
    weight.grad = torch.tensor([[1.0]])
    optimizer.step()
    first = 1.0 + 0.1 * 2.0
    assert float(weight) == pytest.approx(2.0 - 0.5 * first)
    value = float(weight)
    weight.grad = torch.tensor([[1.0]])
    optimizer.step()
    assert float(weight) == pytest.approx(value - 0.5 * (0.9 * first + 1.0 + 0.1 * value))


def test_groups_hold_every_parameter_once():
    method = SimCLR("resnet8", views=16)
    for both in (True, False):
        groups = parameter_groups(nn.ModuleList([method, method.encoder]), 1e-4, both)
        ids = [id(p) for group in groups for p in group["params"]]
        assert len(ids) == len(set(ids)) == len(list(method.parameters()))
    decayed, free = (group["params"] for group in groups)
    assert {p.ndim for p in free} == {1}
    assert min(p.ndim for p in decayed) > 1
    assert groups[1]["weight_decay"] == 0


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert len(parameter_groups(model, 0.1, True)[0]["params"]) == 1


def test_bad_input():
    with pytest.raises(InputError, match="did you mean 'lars'"):
        OptimizerSettings("larz")
    for wrong in (
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"momentum": 1.0},
        {"sharpness": {"rho": 7.0}},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            OptimizerSettings(**wrong)


def test_lars_step_by_hand():
    """Trust ratio 0.001 |w| / |g + d w|, and none for parameters without weight decay."""
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    weight, bias = model.weight, model.bias
    settings = OptimizerSettings("lars", 2.0, 0.9, weight_decay=0.1, decay_norm_and_bias=False)
    optimizer = settings.build(model)
    expected = [weight.detach().clone(), bias.detach().clone()]
    speed = [torch.zeros(3, 2), torch.zeros(3)]
    for _ in range(3):
        weight.grad, bias.grad = torch.randn(3, 2), torch.randn(3)
        move = weight.grad + 0.1 * expected[0]
        norms = expected[0].norm(), weight.grad.norm()
        move = move * 0.001 * norms[0] / (norms[1] + 0.1 * norms[0])
        speed = [0.9 * speed[0] + move, 0.9 * speed[1] + bias.grad]
        expected = [value - 2.0 * v for value, v in zip(expected, speed, strict=True)]
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected[0])
        torch.testing.assert_close(bias.detach(), expected[1])


def test_adamw_decays_apart_from_the_gradient():
    module = nn.Linear(1, 1)
    weight, bias = module.weight, module.bias
    for parameter in (weight, bias):
        nn.init.constant_(parameter, 2.0)
    settings = OptimizerSettings("adamw", 0.01, weight_decay=0.1, decay_norm_and_bias=False)
    optimizer = settings.build(module)
    weight.grad, bias.grad = torch.tensor([[3.0]]), torch.tensor([3.0])
    optimizer.step()  # a first step of Adam is the learning rate along the sign
    assert float(weight) == pytest.approx(2.0 - 0.01 * 0.1 * 2.0 - 0.01)
    assert float(bias) == pytest.approx(2.0 - 0.01)


def test_a_method_exempts_norms_and_biases_as_it_is_told():
    for both, kinds in ((True, [1e-4]), (False, [1e-4, 0.0])):
        optimizer = OptimizerSettings(weight_decay=1e-4, decay_norm_and_bias=both)
        method = SimCLR("resnet8", views=16, optimizer=optimizer)
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, barebones=True)
        method.trainer = trainer
        groups = method.configure_optimizers()["optimizer"].param_groups
        assert [group["weight_decay"] for group in groups] == kinds
        names = {id(p): name for name, p in method.named_parameters()}
        decayed = {names[id(p)] for p in groups[0]["params"]}
        assert ("encoder.bn1.weight" in decayed) is both
        assert ("projector.0.bias" in decayed) is both
        assert "encoder.conv1.weight" in decayed
