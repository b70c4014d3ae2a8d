"""Drawing without applying."""

import pytest
import torch

from bcl.augment import BoostedRandAugment, ContrastiveViews
from bcl.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scores": None}, "scores .* got None"),
        ({"scores": torch.tensor([0.0, 0.5, 1.5, 0.0])}, "1.5 at position 2"),
        ({"scores": torch.full((4,), float("nan"))}, r"\[0, 1\]"),
        ({"scores": torch.zeros(3)}, r"\(3,\)"),
        ({"ids": None}, "ids .* got None"),
        ({"ids": torch.zeros(4)}, "got torch.float32"),
    ],
)
def test_drawing_alone_refuses_what_a_step_refuses(change, text):
    good = {"scores": torch.zeros(4), "ids": torch.arange(4)}
    boost = BoostedRandAugment()
    with pytest.raises(InputError, match=text):
        boost.sample(**{**good, **change})
    with pytest.raises(InputError, match=text):
        ContrastiveViews(8, boost=boost).sample(image_size=(8, 8), **{**good, **change})
