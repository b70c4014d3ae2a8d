"""Named subsets of the literature: which counts, in which order, chosen how."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bcl.core.errors import InputError, unknown_name
from bcl.core.random import hash64
from datamodules.tail import profiles
from datamodules.tail.counts import IMAGENET100_LT, PLACES_LT

_TRAIN_STREAM = 0x17A1

Selection = Literal["hash", "ldam"]


@dataclass(frozen=True)
class Recipe:
    """One published subset.

    Attributes:
        name: ``<data set>/<variant>``.
        counts: images by class id (before a shuffle of the classes).
        published: the total that the source states or whose released files hold; None for ours.
        shuffled: the counts are dealt to the classes at random, one way a split seed.
        selection: ``"hash"``: chosen by our hash of the split seed; ``"ldam"``: exactly as the
            released generator of LDAM chooses, from NumPy's legacy generator.
        grouping: the published grouping into Many / Medium / Few.
        source: the paper.
        note: what to know about it.
    """

    name: str
    counts: tuple[int, ...]
    published: int | None
    source: str
    shuffled: bool = False
    selection: Selection = "hash"
    grouping: str = "thirds"
    note: str = ""

    @property
    def total(self) -> int:
        """Images of all classes."""
        return sum(self.counts)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.counts)


def _recipes() -> dict[str, Recipe]:
    found: list[Recipe] = []
    published = {
        ("cifar10", 100): 12406,
        ("cifar10", 50): 13996,
        ("cifar10", 10): 20431,
        ("cifar100", 100): 10847,
        ("cifar100", 50): 12608,
        ("cifar100", 10): 19573,
    }
    for (data, factor), total in published.items():
        classes = 10 if data == "cifar10" else 100
        counts = profiles.exponential_counts(50_000 // classes, factor, classes)
        found.append(
            Recipe(
                f"{data}/exponential-{factor}",
                tuple(counts),
                total,
                "LDAM, arXiv 1906.07413; Cui et al., arXiv 1901.05555",
                selection="ldam",
                note="GH (NeurIPS 2023) trains on imbalance 100",
            )
        )
    for data, classes, total in (("cifar10", 10, 11165), ("cifar100", 100, 9754)):
        largest = 45_000 // classes
        found.append(
            Recipe(
                f"{data}/sdclr",
                tuple(profiles.exponential_counts(largest, 100, classes)),
                total,
                "SDCLR, arXiv 2106.02990; BCL, arXiv 2205.12693",
                shuffled=True,
                note=f"n_max {largest}; the published splits are index files (split_file)",
            )
        )
    for data, classes in (("cifar10", 10), ("cifar100", 100)):
        largest = 50_000 // classes
        source = "CACR, arXiv 2105.03746"
        rising = profiles.cacr_exponential_counts(largest, classes)
        empty = len(profiles.empty_classes(rising))
        found += [
            Recipe(
                f"{data}/cacr-linear",
                tuple(profiles.cacr_linear_counts(largest, classes)),
                27500,
                source,
            ),
            Recipe(
                f"{data}/cacr-exponential",
                tuple(rising),
                sum(rising),
                source,
                note=f"{empty} class(es) empty, as in the released code",
            ),
            Recipe(
                f"{data}/cacr-exponential-repaired",
                tuple(profiles.cacr_exponential_counts(largest, classes, repaired=True)),
                None,
                "ours, after CACR",
                note="one image at least in every class",
            ),
            Recipe(
                f"{data}/step-100",
                tuple(profiles.step_counts(largest, 100, classes)),
                None,
                "LDAM, arXiv 1906.07413",
                selection="ldam",
            ),
        ]
    found += [
        Recipe(
            "imagenet/pareto",
            tuple(profiles.pareto_counts(1280, 5, 1000)),
            115846,
            "after OLTR, arXiv 1904.05160",
            shuffled=True,
            grouping="thresholds",
            note="our deterministic quantiles; ImageNet-LT itself is a list file",
        ),
        Recipe(
            "imagenet100/sdclr",
            IMAGENET100_LT,
            12205,
            "SDCLR, arXiv 2106.02990",
            grouping="thresholds",
            note="published counts; the images themselves are a list file",
        ),
        Recipe(
            "places365/oltr",
            PLACES_LT,
            62500,
            "OLTR, arXiv 1904.05160",
            grouping="thresholds",
            note="published counts; the images themselves are a list file",
        ),
    ]
    return {recipe.name: recipe for recipe in found}


RECIPES: dict[str, Recipe] = _recipes()
"""The named subsets."""

# Published subsets whose images are given by list files and whose class counts follow no formula:
# totals of train, validation and test lists, against which a user's lists are checked.
LISTS: dict[str, dict[str, int]] = {
    "ImageNet-LT": {"train": 115_846, "val": 20_000, "test": 50_000, "classes": 1000},
    "ImageNet-100-LT": {"train": 12_205, "val": 2_000, "test": 5_000, "classes": 100},
    "Places-LT": {"train": 62_500, "val": 7_300, "test": 36_500, "classes": 365},
    "iNaturalist18": {"train": 437_513, "test": 24_426, "classes": 8142},
}


def recipe(name: str) -> Recipe:
    """Find a named subset.

    Args:
        name: one of `RECIPES`.

    Returns:
        The recipe.

    Raises:
        InputError: no such name.

    Example:
        >>> recipe("cifar100/sdclr").total
        9754
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]


def apply(chosen: Recipe, labels: Tensor, split_seed: int = 0) -> Tensor:
    """Choose a recipe's images from a data set.

    Args:
        chosen: the recipe.
        labels: (N,) int64 classes of the whole data set.
        split_seed: which of the random subsets (and orders of the classes, where the recipe
            shuffles them).

    Returns:
        (n,) int64 positions.

    Raises:
        InputError: the data set has other classes, or a class has too few images.
    """
    classes = int(labels.max()) + 1 if len(labels) else 0
    if classes != chosen.num_classes:
        raise InputError(
            f"recipe '{chosen.name}' is for {chosen.num_classes} classes, the data set has "
            f"{classes}."
        )
    if chosen.selection == "ldam":
        # GH shuffles the classes of CIFAR-10 but not those of CIFAR-100; LDAM neither.
        return select_ldam(labels, list(chosen.counts), split_seed)
    if chosen.shuffled:
        counts = profiles.shuffled_counts(list(chosen.counts), split_seed)
    else:
        counts = torch.tensor(chosen.counts)
    return select(labels, counts, split_seed)


def select(labels: Tensor, counts: Tensor, split_seed: int) -> Tensor:
    """Choose so many images of each class by a hash of the seed.

    Args:
        labels: (N,) int64 classes.
        counts: (C,) how many of each.
        split_seed: which random subset.

    Returns:
        (n,) int64 positions, ascending.

    Raises:
        InputError: a class has too few images.
    """
    check_available(labels, counts)
    return choose(labels, counts, _TRAIN_STREAM, split_seed)


def select_ldam(labels: Tensor, counts: list[int], seed: int = 0) -> Tensor:
    """Choose as LDAM's released generator does, image for image and in its order.

    It seeds NumPy's legacy generator, and for one class after the other shuffles the class's
    positions and keeps the first n.

    Args:
        labels: (N,) int64 classes.
        counts: C counts, by class id.
        seed: the generator's; the papers use 0.

    Returns:
        (n,) int64 positions, class by class.

    Raises:
        InputError: a class has too few images.
    """
    import numpy as np

    check_available(labels, torch.tensor(counts))
    if not 0 <= seed < 2**32:
        raise InputError(f"split_seed must lie in 0 to 2**32 - 1 for this recipe, got {seed!r}.")
    generator = np.random.RandomState(seed)  # the legacy stream is what was published
    kept = []
    for index, count in enumerate(counts):
        positions = (labels == index).nonzero()[:, 0].numpy().copy()
        generator.shuffle(positions)
        kept.append(torch.from_numpy(positions[:count]))
    return torch.cat(kept)


def check_available(labels: Tensor, counts: Tensor) -> None:
    """Refuse counts that a data set cannot give.

    Raises:
        InputError: names the first class that is too poor.
    """
    sizes = torch.bincount(labels, minlength=len(counts))  # (C,)
    if len(sizes) != len(counts):
        raise InputError(f"counts for {len(counts)} classes, the data set has {len(sizes)}.")
    if bool((counts > sizes).any()):
        short = int((sizes - counts).argmin())
        raise InputError(
            f"class {short} has {int(sizes[short])} images, the profile wants "
            f"{int(counts[short])}; lower max_per_class or take another recipe."
        )


def choose(labels: Tensor, counts: Tensor, *keys: int) -> Tensor:
    """Choose so many images of each class at random, as a function of the keys.

    Args:
        labels: (N,) int64 classes.
        counts: (C,) how many of each; at most as many as there are.
        keys: integers; the same keys choose the same images, and a larger count of a class
            contains the smaller.

    Returns:
        (n,) int64 positions, ascending.
    """
    import numpy as np

    hashes = hash64(*keys, torch.arange(len(labels)))
    # Random order within each class. NumPy's sort, since torch's waits for busy cores.
    order = torch.from_numpy(np.lexsort((hashes.numpy(), labels.numpy())))  # (N,)
    sizes = torch.bincount(labels, minlength=len(counts))  # (C,)
    first = sizes.cumsum(0) - sizes  # (C,) where each class starts in `order`
    place = torch.arange(len(labels)) - first[labels[order]]  # (N,) place within its class
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[place < counts[labels[order]]]] = True
    return chosen.nonzero()[:, 0]
