import pytest
import torch
from fakes import FakeData, FakeMethod

import bcl
from bcl.evaluation import EvaluationOptions


def tiny_method():
    """Features that tell the classes apart only after training."""
    torch.manual_seed(0)
    return FakeMethod(
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 2, 1),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, 4),
        )
    )


@pytest.mark.slow
def test_fine_tuning_learns_and_leaves_the_encoder_alone():
    method = tiny_method()
    for _ in range(60):  # as after pretraining, the norms know their inputs
        method.train()(FakeData().probe_set().pixels)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    report = bcl.evaluate(
        method, FakeData(), "full,finetune,finetune-20%", EvaluationOptions(finetune_epochs=30)
    )
    probe, full, share = (
        report.protocol(name).accuracy.mean for name in ("full", "finetune", "finetune-20%")
    )
    assert full >= probe
    assert share > 0.5
    assert all(value.equal(before[name]) for name, value in method.state_dict().items())
    again = bcl.evaluate(
        method.encode, FakeData(), "finetune", EvaluationOptions(finetune_epochs=30)
    )
    assert again.predictions["finetune"].equal(report.predictions["finetune"])
