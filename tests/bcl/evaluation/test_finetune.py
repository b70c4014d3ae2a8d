import pytest
import torch
from fakes import FakeData, FakeMethod, encode

import bcl
from bcl.core.errors import InputError
from bcl.evaluation import EvaluationOptions
from bcl.evaluation.crops import crop_and_flip


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


def test_crops_are_a_function_of_seed_epoch_and_id():
    images = torch.randint(1, 256, (6, 3, 16, 16), dtype=torch.uint8)
    ids = torch.arange(6)
    first = crop_and_flip(images, ids, 0, 1)
    assert first.shape == images.shape
    assert first[3:].equal(crop_and_flip(images[3:], ids[3:], 0, 1))
    assert not first.equal(crop_and_flip(images, ids, 0, 2))
    # Every row of a crop is a row of the padded image, perhaps mirrored.
    padded = torch.nn.functional.pad(images[:1], (2, 2, 2, 2))
    both = torch.stack([padded[0], padded[0].flip(-1)])
    windows = both.unfold(2, 16, 1).unfold(3, 16, 1)  # (2, 3, 5, 5, 16, 16)
    same = (windows == first[0][None, :, None, None]).all(-1).all(-1).all(1)
    assert bool(same.any())


def test_needs_the_method():
    with pytest.raises(InputError, match="pass the method"):
        bcl.evaluate(encode, FakeData(), protocols="finetune-1%")
