"""Recipes: the published counts, and the choice of images."""

import numpy as np
import pytest
import torch

from bcl import InputError
from datamodules.tail import recipes

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


def test_published_groups() -> None:
    """Many (> 100) / Medium / Few (< 20), as the papers count them."""
    sizes = {}
    for name in ("imagenet100/sdclr", "places365/oltr"):
        counts = torch.tensor(recipes.recipe(name).counts)
        many, few = int((counts > 100).sum()), int((counts < 20).sum())
        sizes[name] = (many, len(counts) - many - few, few)
    assert sizes == {"imagenet100/sdclr": (39, 48, 13), "places365/oltr": (131, 163, 71)}


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
