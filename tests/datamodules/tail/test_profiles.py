"""Profiles and named subsets against the published totals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcl import InputError
from datamodules.tail import profiles, recipes

PUBLISHED = {
    "cifar10/exponential-100": 12406,
    "cifar10/exponential-50": 13996,
    "cifar10/exponential-10": 20431,
    "cifar100/exponential-100": 10847,
    "cifar100/exponential-50": 12608,
    "cifar100/exponential-10": 19573,
    "cifar10/sdclr": 11165,
    "cifar100/sdclr": 9754,
    "cifar10/cacr-linear": 27500,
    "cifar100/cacr-linear": 27500,
    "cifar10/cacr-exponential": 7904,
    "cifar100/cacr-exponential": 7870,
    "imagenet100/sdclr": 12205,
    "places365/oltr": 62500,
}


@pytest.mark.parametrize(("name", "total"), PUBLISHED.items())
def test_totals_are_the_published_ones(name: str, total: int) -> None:
    found = recipes.recipe(name)
    assert found.total == found.published == total


@pytest.mark.parametrize(
    ("name", "largest", "smallest"),
    [
        ("cifar100/exponential-100", 500, 5),
        ("cifar10/exponential-100", 5000, 50),
        ("cifar100/sdclr", 450, 4),
        ("cifar10/sdclr", 4500, 45),
        ("imagenet100/sdclr", 1280, 6),
        ("places365/oltr", 4980, 5),
        ("imagenet/pareto", 1280, 5),
    ],
)
def test_largest_and_smallest_class(name: str, largest: int, smallest: int) -> None:
    counts = recipes.recipe(name).counts
    assert (max(counts), min(counts)) == (largest, smallest)


def test_counts_of_the_formulas() -> None:
    assert sum(profiles.pareto_counts(1280, 5, 1000)) == 115_897
    assert profiles.cacr_linear_counts(5000, 10)[:3] == [500, 1000, 1500]
    found = profiles.cacr_exponential_counts(5000, 10)
    assert found == [0, 1, 4, 12, 33, 91, 248, 676, 1839, 5000]


def test_published_groups() -> None:
    """Many (> 100) / Medium / Few (< 20), as the papers count them."""
    sizes = {}
    for name in ("imagenet100/sdclr", "places365/oltr"):
        counts = torch.tensor(recipes.recipe(name).counts)
        many, few = int((counts > 100).sum()), int((counts < 20).sum())
        sizes[name] = (many, len(counts) - many - few, few)
    assert sizes == {"imagenet100/sdclr": (39, 48, 13), "places365/oltr": (131, 163, 71)}


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


def fifty_thousand(classes: int) -> torch.Tensor:
    return torch.arange(50_000) % classes


def test_ldam_selection_follows_the_released_generator() -> None:
    """The generator in plain NumPy, as released, against ours."""
    labels = fifty_thousand(100)
    found = recipes.apply(recipes.recipe("cifar100/exponential-100"), labels)
    np.random.seed(0)  # noqa: NPY002 - what the released code does
    kept = []
    for index in range(100):
        count = int(500.0 * 0.01 ** (index / 99.0))
        positions = np.where(labels.numpy() == index)[0]
        np.random.shuffle(positions)  # noqa: NPY002
        kept.append(positions[:count])
    assert found.tolist() == np.concatenate(kept).tolist()
    assert len(found) == 10847


def test_shuffled_recipes_deal_the_same_counts() -> None:
    labels = fifty_thousand(10)
    found = recipes.recipe("cifar10/sdclr")
    counts = [
        torch.bincount(labels[recipes.apply(found, labels, seed)]).tolist() for seed in range(3)
    ]
    assert counts[0] != counts[1] != counts[2]
    assert {tuple(sorted(c, reverse=True)) for c in counts} == {found.counts}
    assert recipes.apply(found, labels, 1).equal(recipes.apply(found, labels, 1))


def test_recipe_of_another_data_set() -> None:
    with pytest.raises(InputError, match="is for 100 classes, the data set has 10"):
        recipes.apply(recipes.recipe("cifar100/sdclr"), fifty_thousand(10))
    counts = torch.tensor(recipes.recipe("cifar10/sdclr").counts)
    with pytest.raises(InputError, match="class 0 has 40 images, the profile wants 4500"):
        recipes.select(torch.arange(400) % 10, counts, 0)


def test_choose_contains_the_smaller_choice() -> None:
    labels = torch.arange(100) % 4
    small = recipes.choose(labels, torch.tensor([1, 2, 3, 4]), 5)
    large = recipes.choose(labels, torch.tensor([10, 20, 3, 25]), 5)
    assert set(small.tolist()) <= set(large.tolist())
    assert torch.bincount(labels[large]).tolist() == [10, 20, 3, 25]
