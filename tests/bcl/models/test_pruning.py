import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import GOLDEN
from torch import nn

from bcl import InputError, create_encoder
from bcl.models.pruning import convolution_weights, magnitude_masks


def test_golden_mask():
    values = np.load(GOLDEN / "sdclr_mask.npz")
    weights = {f"{i}": torch.from_numpy(values[f"weight{i}"]) for i in range(3)}
    masks = magnitude_masks(weights, float(values["prune_fraction"]))
    for i in range(3):
        np.testing.assert_array_equal(masks[f"{i}"].numpy(), values[f"mask{i}"])


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 99),
)
def test_share_and_order(sizes, fraction, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {str(i): torch.randn(n, generator=generator) for i, n in enumerate(sizes)}
    masks = magnitude_masks(weights, fraction)
    kept = torch.cat(list(masks.values()))
    magnitude = torch.cat(list(weights.values())).abs()
    assert int((~kept).sum()) == min(round(fraction * kept.numel()), kept.numel() - 1)
    if kept.any() and not kept.all():
        assert magnitude[kept].min() > magnitude[~kept].max()


def test_convolutions_alone_are_pruned():
    names = convolution_weights(create_encoder("resnet18", 32))
    assert "conv1.weight" in names
    assert "layer2.0.downsample.0.weight" in names
    assert not any("bn" in name or "fc" in name for name in names)
    assert len(names) == 20


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan"), "a", None])
def test_wrong_fraction(fraction):
    with pytest.raises(InputError, match="fraction"):
        magnitude_masks({"w": torch.ones(3)}, fraction)


def test_nothing_to_prune():
    with pytest.raises(InputError, match="use an encoder with convolutions"):
        magnitude_masks(convolution_weights(nn.Linear(2, 2)), 0.5)
