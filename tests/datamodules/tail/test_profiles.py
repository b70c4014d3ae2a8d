"""Profiles and named subsets against the published totals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcl import InputError
from datamodules.tail import profiles, recipes


def test_counts_of_the_formulas() -> None:
    assert sum(profiles.pareto_counts(1280, 5, 1000)) == 115_897
    assert profiles.cacr_linear_counts(5000, 10)[:3] == [500, 1000, 1500]
    found = profiles.cacr_exponential_counts(5000, 10)
    assert found == [0, 1, 4, 12, 33, 91, 248, 676, 1839, 5000]


def test_empty_classes_are_reported_and_repaired() -> None:
    assert profiles.empty_classes(list(recipes.recipe("cifar10/cacr-exponential").counts)) == [0]
    empty = profiles.empty_classes(list(recipes.recipe("cifar100/cacr-exponential").counts))
    assert empty == list(range(30))
    for data in ("cifar10", "cifar100"):
        repaired = recipes.recipe(f"{data}/cacr-exponential-repaired")
        assert min(repaired.counts) == 1
    assert sum(repaired.counts) == 7900


def test_step_halves() -> None:
    assert recipes.recipe("cifar10/step-100").counts == (5000,) * 5 + (50,) * 5


@pytest.mark.slow
@settings(deadline=None)  # a busy machine is no error
@given(st.integers(1, 5000), st.floats(1, 1000), st.integers(1, 200))
def test_profiles_fall_and_stay_in_range(n_max: int, factor: float, classes: int) -> None:
    for counts in (
        profiles.exponential_counts(n_max, factor, classes),
        profiles.step_counts(n_max, factor, classes),
        profiles.pareto_counts(n_max, int(n_max / factor), classes),
    ):
        assert len(counts) == classes
        assert counts == sorted(counts, reverse=True)
        assert max(counts) <= n_max
        assert min(counts) >= int(n_max / factor)


@settings(deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20), st.integers(2, 200))
def test_rounding_takes_no_image(smallest: int, factor: int, classes: int) -> None:
    """Where n_max / IF is a whole number, the smallest class has it, and one for n_max = IF."""
    n_max = smallest * factor
    for profile in (profiles.exponential_counts, profiles.step_counts):
        assert min(profile(n_max, factor, classes)) == smallest
        assert min(profile(n_max, n_max, classes)) == 1


def test_factors_whose_inverse_is_rounded_down() -> None:
    assert 49 * (1 / 49) < 1
    assert profiles.exponential_counts(49, 49, 3) == [49, 7, 1]
    assert profiles.step_counts(49, 49, 2) == [49, 1]
    assert 0.7 * 90 < 63
    assert profiles.cacr_linear_counts(90, 10)[6] == 63


@pytest.mark.parametrize(
    "call",
    [
        lambda: profiles.exponential_counts(0, 10, 10),
        lambda: profiles.exponential_counts(10, 0.5, 10),
        lambda: profiles.exponential_counts(10, float("inf"), 10),
        lambda: profiles.step_counts(10, float("nan"), 10),
        lambda: profiles.exponential_counts(10, 10, 0),
        lambda: profiles.cacr_linear_counts(10, 15),
        lambda: profiles.pareto_counts(10, 11, 10),
        lambda: profiles.pareto_counts(10, 1, 10, alpha=0),
        lambda: recipes.recipe("cifar100/sdlcr"),
    ],
)
def test_bad_arguments(call) -> None:
    with pytest.raises(InputError):
        call()
