import pytest
import torch

from bcl import InputError
from bcl.core.checks import check_choice, check_count, check_positive


@pytest.mark.parametrize("value", [True, 1.0, 0, -1, "1", None])
def test_counts_are_integers_of_at_least_one(value):
    check_count("size", 1)
    check_count("size", 0, at_least=0)
    with pytest.raises(InputError, match="size"):
        check_count("size", value)


@pytest.mark.parametrize("value", [0, -0.1, float("nan"), float("inf"), "1"])
def test_positive_numbers_are_finite_and_above_zero(value):
    check_positive("temperature", 0.1)
    check_positive("temperature", torch.tensor([0.1, 2.0]))
    check_positive("focal", 0.0, zero=True)
    with pytest.raises(InputError, match="temperature"):
        check_positive("temperature", value)
    if not isinstance(value, str):
        with pytest.raises(InputError, match="temperature"):
            check_positive("temperature", torch.tensor([1.0, value]))


def test_choices_suggest_the_nearest():
    check_choice("policy", "monotone", ("reference", "monotone"))
    with pytest.raises(InputError, match="mean 'monotone'"):
        check_choice("policy", "monoton", ("reference", "monotone"))
