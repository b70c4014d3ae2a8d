import numpy as np
import pytest
import torch

from bcl import InputError
from bcl.core.checks import (
    as_features,
    as_labels,
    as_tensor,
    check_choice,
    check_count,
    check_positive,
)


@pytest.mark.parametrize("value", [True, 1.0, 0, -1, "1", None])
def test_counts_are_integers_of_at_least_one(value):
    check_count("size", 1)
    check_count("size", 0, at_least=0)
    with pytest.raises(InputError, match="size"):
        check_count("size", value)


@pytest.mark.parametrize("value", [0, -0.1, float("nan"), float("inf"), "1"])
def test_positive_numbers_are_finite_and_above_zero(value):
    check_positive("temperature", 0.1)
    check_positive("temperature", torch.tensor([0.1, 2.0]), several=True)
    check_positive("focal", 0.0, zero=True)
    with pytest.raises(InputError, match="temperature"):
        check_positive("temperature", value)
    if not isinstance(value, str):
        with pytest.raises(InputError, match="temperature"):
            check_positive("temperature", torch.tensor([1.0, value]), several=True)


def test_several_numbers_are_refused_where_one_is_meant():
    check_positive("rho", torch.tensor([0.1]))
    with pytest.raises(InputError, match=r"^rho must be one number, got a tensor \(2,\)\.$"):
        check_positive("rho", torch.tensor([0.1, 0.2]))
    with pytest.raises(InputError, match=r"number above 0, got \[0.1, 0.2\]\.$"):
        check_positive("rho", [0.1, 0.2])


def test_choices_suggest_the_nearest():
    check_choice("policy", "monotone", ("reference", "monotone"))
    with pytest.raises(InputError, match="mean 'monotone'"):
        check_choice("policy", "monoton", ("reference", "monotone"))


def test_a_tensor_stays_what_it_is():
    x = torch.ones(2, requires_grad=True)
    assert as_tensor("x", x) is x


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1, 2], torch.int64), ([1.0, 2.0], torch.float32), (np.array([1.0, 2.0]), torch.float64),
     (np.array([1, 2], dtype="int32"), torch.int32), ([np.float32(1), 2], torch.float64),
     (np.array([2.0, 1.0])[::-1], torch.float64), (np.array([1, 2], dtype=">f8"), torch.float64),
     ([torch.tensor(1.0), torch.tensor(2.0)], torch.float32), (range(1, 3), torch.int64)],
)  # fmt: skip
def test_lists_and_arrays_become_tensors_of_their_type(values, dtype):
    found = as_tensor("x", values)
    assert found.tolist() == [1, 2]
    assert found.dtype == dtype


def test_a_list_of_tensors_keeps_its_gradient():
    x = torch.ones(3, requires_grad=True)
    as_features("views", [x, 2 * x], "(B, D)").sum().backward()
    assert x.grad.tolist() == [3, 3, 3]


def test_an_array_is_copied():
    given = np.zeros(2)
    given.flags.writeable = False
    as_tensor("x", given).add_(1)
    assert given.tolist() == [0, 0]


@pytest.mark.parametrize(
    "values", [[[1], [1, 2]], "abc", None, ["a"], {"a": 1}, [torch.ones(1), 2.0, None]]
)
def test_what_is_no_number_is_refused_by_name(values):
    with pytest.raises(InputError, match="losses must be a tensor, an array or a list of numbers"):
        as_tensor("losses", values)


def test_names_are_numbered_in_their_order_over_all_sets():
    train, test = as_labels(["fox", "cat", "fox"], np.array(["ant"], dtype=object))
    assert (train.tolist(), test.tolist()) == ([2, 1, 2], [0])
    assert as_labels([3, 1])[0].tolist() == [3, 1]
    with pytest.raises(InputError, match="names in one set and numbers in another"):
        as_labels(["fox"], [1])
