import pytest
import torch
from torch import nn

from bcl import InputError, SimCLR
from bcl.learners.optimizers import OPTIMIZERS, build_optimizer, parameter_groups


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_descends(name):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x, y = torch.randn(64, 4), torch.randn(64, 1)
    groups = parameter_groups([model], 1e-4, False)
    optimizer = build_optimizer(name, groups, 0.5 if name == "lars" else 0.05)
    losses = []
    for _ in range(50):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_sgd_step_by_hand():
    weight = nn.Parameter(torch.tensor([[2.0]]))
    groups = [{"params": [weight], "weight_decay": 0.1}]
    optimizer = build_optimizer("sgd", groups, 0.5, momentum=0.9)
    weight.grad = torch.tensor([[1.0]])
    optimizer.step()
    first = 1.0 + 0.1 * 2.0
    assert float(weight) == pytest.approx(2.0 - 0.5 * first)
    value = float(weight)
    weight.grad = torch.tensor([[1.0]])
    optimizer.step()
    assert float(weight) == pytest.approx(value - 0.5 * (0.9 * first + 1.0 + 0.1 * value))


def test_groups_hold_every_parameter_once():
    learner = SimCLR("resnet8", 16, num_samples=4)
    for both in (True, False):
        groups = parameter_groups([learner, learner.encoder], 1e-4, both)
        ids = [id(p) for group in groups for p in group["params"]]
        assert len(ids) == len(set(ids)) == len(list(learner.parameters()))
    free = groups[1]["params"]
    assert all(p.ndim == 1 for p in free)
    assert groups[1]["weight_decay"] == 0


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert len(parameter_groups([model], 0.1, True)[0]["params"]) == 1


def test_bad_input():
    with pytest.raises(InputError, match="did you mean 'lars'"):
        build_optimizer("larz", [], 0.1)
    with pytest.raises(InputError, match="learning_rate"):
        build_optimizer("sgd", [], 0.0)
