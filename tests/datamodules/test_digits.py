"""Digits: the smallest data set."""

import pytest
import torch

from bcl import InputError
from datamodules import DigitsLT


@pytest.fixture(scope="module")
def digits() -> DigitsLT:
    data = DigitsLT(batch_size=64)
    data.setup()
    return data


def test_digits_sets(digits: DigitsLT) -> None:
    counts = digits.class_counts
    assert int(counts.sum()) == digits.num_samples == len(digits.train_set())
    assert sorted(counts.tolist(), reverse=True)[0] == 124
    assert int(counts.min()) == 6
    assert torch.bincount(digits.probe_set().labels).tolist() == [124] * 10
    assert torch.bincount(digits.test_set().labels).tolist() == [50] * 10
    train, probe, test = (
        set(s.rows.tolist()) for s in (digits.train_set(), digits.probe_set(), digits.test_set())
    )
    assert train <= probe
    assert not probe & test
    assert str(digits.num_samples) in digits.recipe
    assert DigitsLT(split_seed=1).content_hash != digits.content_hash
    assert DigitsLT(seed=1).content_hash == digits.content_hash


def test_digits_say_what_is_held_out_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    DigitsLT().setup()
    said = capsys.readouterr().err
    assert said.startswith("scikit-learn's digits: 1,797 images in 10 classes; 500 test images")
    assert "training on 417 of the other 1,297 (Digits-LT, exponential" in said


def test_digits_leave_no_class_empty() -> None:
    assert min(DigitsLT(imbalance_factor=124).class_counts.tolist()) == 1
    with pytest.raises(InputError, match=r"leaves 1 of 10 classes .* use at most 124"):
        DigitsLT(imbalance_factor=200).setup()
    for factor in (float("nan"), float("inf"), 0.5):
        with pytest.raises(InputError, match="finite number of at least 1"):
            DigitsLT(imbalance_factor=factor)
