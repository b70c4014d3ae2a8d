"""Named subsets of the literature: class counts, their order, and how images are chosen."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bcl.core.errors import InputError, unknown_name
from bcl.core.random import hash64
from datamodules.tail import profiles

_TRAIN_STREAM = 0x17A1
TEST_STREAM = 0x7E57


@dataclass(frozen=True)
class Recipe:
    """One published subset."""

    name: str  # <data set>/<variant>
    counts: tuple[int, ...]  # images by class id, before the classes are shuffled
    published: int | None  # total that the source states or its released files hold
    source: str
    note: str = ""
    shuffled: bool = False  # counts are assigned to classes at random, by the split seed
    selection: Literal["hash", "ldam"] = "hash"  # by a hash of the seed, or as LDAM's generator
    grouping: str = "thirds"  # into Many / Medium / Few

    @property
    def total(self) -> int:
        """Images of all classes."""
        return sum(self.counts)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.counts)


# Counts that follow no formula, by class id.
_IMAGENET100_LT = """
    30 75 100 61 23 126 511 120 354 39 229 268 143 34 55 14 130 108 20 69 12 85 54 32 9 124 137
    18 26 89 63 172 152 110 184 392 215 80 330 21 16 43 78 456 201 236 113 36 37 282 59 248 305
    73 32 45 27 19 15 22 6 50 8 149 86 41 133 165 178 52 31 93 44 48 169 71 65 157 25 82 11 66
    42 15 57 290 116 679 28 189 47 104 96 35 7 1280 102 83 10 138
"""
_PLACES_LT = """
    219 20 115 86 229 33 25 4980 108 2612 33 39 2400 87 12 225 41 98 191 1582 37 78 48 7 1530 56
    93 84 18 183 155 72 92 78 10 120 22 6 143 98 195 36 1487 93 73 1406 8 40 1380 138 11 14 1085
    43 59 20 6 129 103 98 46 41 1036 82 14 23 1023 841 8 91 20 30 19 34 44 11 198 129 135 132 29
    830 725 11 689 88 668 48 5 38 643 605 71 6 566 72 34 547 54 72 6 33 36 97 76 78 521 97 116
    157 499 8 99 74 24 62 28 128 176 72 87 482 148 86 40 147 5 108 6 8 35 24 480 32 140 7 84 6
    46 22 104 85 118 59 72 36 34 80 33 100 475 470 79 164 451 7 28 171 65 15 8 80 20 208 450 28
    9 60 9 10 13 431 9 22 34 428 72 17 34 42 73 98 188 422 42 20 60 21 6 39 50 23 408 167 99 5
    25 97 13 105 55 13 41 392 389 383 54 12 17 207 57 18 63 81 374 371 48 367 25 16 366 98 7 104
    364 28 89 68 15 17 46 113 334 56 60 12 55 51 87 58 26 15 22 331 179 318 12 18 8 94 65 71 315
    29 173 9 14 315 226 124 33 9 9 51 15 52 309 34 209 61 116 298 298 149 60 70 89 218 291 290
    30 36 16 186 287 36 195 80 283 39 141 14 181 152 11 6 22 39 19 280 11 173 11 43 112 177 111
    279 108 153 103 19 265 264 95 72 40 263 19 229 45 54 12 260 253 32 253 27 52 34 250 10 11 49
    250 17 24 242 74 14 48 216 241 16 238 232 8 33 205 93 46 7 46 82 44 230 91 218 21 69 156 206
    103 14 20
"""
_LDAM = "LDAM, arXiv 1906.07413"
_SDCLR = "SDCLR, arXiv 2106.02990"
_CACR = "CACR, arXiv 2105.03746"
_OLTR = "OLTR, arXiv 1904.05160"
_LISTED = "published counts; the images themselves are a list file"


def _cifar(data: str, classes: int, totals: tuple[int, ...]) -> Iterator[Recipe]:
    """Recipes of one CIFAR, with its published totals."""
    full, most = 50_000 // classes, 45_000 // classes

    def row(name: str, counts: list[int], *rest: int | str | None, **more: bool | str) -> Recipe:
        return Recipe(f"{data}/{name}", tuple(counts), *rest, **more)  # type: ignore[arg-type]

    source, note = f"{_LDAM}; Cui et al., arXiv 1901.05555", "GH (NeurIPS 2023) uses imbalance 100"
    for factor, total in zip((100, 50, 10), totals[:3], strict=True):
        counts = profiles.exponential_counts(full, factor, classes)
        yield row(f"exponential-{factor}", counts, total, source, note, selection="ldam")
    counts = profiles.exponential_counts(most, 100, classes)
    source = f"{_SDCLR}; BCL, arXiv 2205.12693"
    note = f"n_max {most}; the published splits are index files (split_file)"
    yield row("sdclr", counts, totals[3], source, note, shuffled=True)
    yield row("cacr-linear", profiles.cacr_linear_counts(full, classes), totals[4], _CACR)
    counts = profiles.cacr_exponential_counts(full, classes)
    note = f"{len(profiles.empty_classes(counts))} class(es) empty, as in the released code"
    yield row("cacr-exponential", counts, totals[5], _CACR, note)
    counts = profiles.cacr_exponential_counts(full, classes, repaired=True)
    note = "at least one image in every class"
    yield row("cacr-exponential-repaired", counts, None, "ours, after CACR", note)
    counts = profiles.step_counts(full, 100, classes)
    yield row("step-100", counts, None, _LDAM, selection="ldam")


def _others() -> Iterator[Recipe]:
    note = "our deterministic quantiles; ImageNet-LT itself is a list file"
    pareto = tuple(profiles.pareto_counts(1280, 5, 1000))
    rule = "thresholds"
    source = f"after {_OLTR}"
    yield Recipe("imagenet/pareto", pareto, 115846, source, note, shuffled=True, grouping=rule)
    counts = tuple(map(int, _IMAGENET100_LT.split()))
    yield Recipe("imagenet100/sdclr", counts, 12205, _SDCLR, _LISTED, grouping=rule)
    counts = tuple(map(int, _PLACES_LT.split()))
    yield Recipe("places365/oltr", counts, 62500, _OLTR, _LISTED, grouping=rule)


RECIPES: dict[str, Recipe] = {
    found.name: found
    for found in (
        *_cifar("cifar10", 10, (12406, 13996, 20431, 11165, 27500, 7904)),
        *_cifar("cifar100", 100, (10847, 12608, 19573, 9754, 27500, 7870)),
        *_others(),
    )
}
"""The named subsets."""

LISTS: dict[str, dict[str, int]] = {
    "ImageNet-LT": {"train": 115_846, "val": 20_000, "test": 50_000, "classes": 1000},
    "ImageNet-100-LT": {"train": 12_205, "val": 2_000, "test": 5_000, "classes": 100},
    "Places-LT": {"train": 62_500, "val": 7_300, "test": 36_500, "classes": 365},
    "iNaturalist18": {"train": 437_513, "test": 24_426, "classes": 8142},
}
"""Published totals of benchmarks given by list files, with which a user's lists are compared."""


def recipe(name: str) -> Recipe:
    """Find a named subset, or refuse the name."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]


def check_no_effect(what: str, options: Iterable[str]) -> None:
    """Refuse options that go without effect, because ``what`` is given."""
    if given := ", ".join(options):
        raise InputError(
            f"{what} fixes the images, so {given} would have no effect; remove either of the two."
        )


def apply(chosen: Recipe, labels: Tensor, split_seed: int = 0) -> Tensor:
    """(n,) positions of a recipe's images in a data set with (N,) labels, chosen by the seed."""
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
        return select(labels, profiles.shuffled_counts(chosen.counts, split_seed), split_seed)
    return select(labels, torch.tensor(chosen.counts), split_seed)


def select(
    labels: Tensor, counts: Tensor, split_seed: int, names: Sequence[str] | None = None
) -> Tensor:
    """(n,) positions, ascending, of (C,) counts of images, chosen by a hash of the seed."""
    _check_available(labels, counts, names)
    return choose(labels, counts, _TRAIN_STREAM, split_seed)


def select_ldam(labels: Tensor, counts: list[int], seed: int = 0) -> Tensor:
    """Choose as LDAM's released generator does, image for image; the papers use seed 0."""
    import numpy as np

    _check_available(labels, torch.tensor(counts))
    if not 0 <= seed < 2**32:
        raise InputError(f"split_seed must lie in 0 to 2**32 - 1 for this recipe, got {seed!r}.")
    generator = np.random.RandomState(seed)  # the legacy stream is what was published
    kept = []
    for index, count in enumerate(counts):
        positions = (labels == index).nonzero()[:, 0].numpy().copy()
        generator.shuffle(positions)
        kept.append(torch.from_numpy(positions[:count]))
    return torch.cat(kept)


def choose(labels: Tensor, counts: Tensor, *keys: int) -> Tensor:
    """(n,) positions, ascending, of (C,) counts of images, chosen at random by the keys.

    A larger count of a class contains the smaller.
    """
    import numpy as np

    hashes = hash64(*keys, torch.arange(len(labels)))
    # Random order within each class. NumPy's sort, because torch's waits for busy cores.
    order = torch.from_numpy(np.lexsort((hashes.numpy(), labels.numpy())))  # (N,)
    sizes = torch.bincount(labels, minlength=len(counts))  # (C,)
    first = sizes.cumsum(0) - sizes  # (C,) where each class starts in `order`
    place = torch.arange(len(labels)) - first[labels[order]]  # (N,) place within its class
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[place < counts[labels[order]]]] = True
    return chosen.nonzero()[:, 0]


def hold_out(labels: Tensor, per_class: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the rest, and of a test set of (C,) ``per_class`` images."""
    test = choose(labels, per_class, TEST_STREAM, 0)
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[test] = False
    return rest.nonzero()[:, 0], test


def _check_available(labels: Tensor, counts: Tensor, names: Sequence[str] | None = None) -> None:
    """Refuse counts that the data set cannot give; the message has the class's name, if known."""
    sizes = torch.bincount(labels, minlength=len(counts))  # (C,)
    if len(sizes) != len(counts):
        raise InputError(f"counts for {len(counts)} classes, the data set has {len(sizes)}.")
    if bool((counts > sizes).any()):
        short = int((sizes - counts).argmin())
        label = short if names is None else f"'{names[short]}'"
        raise InputError(
            f"class {label} has {int(sizes[short])} images, the profile wants "
            f"{int(counts[short])}; lower max_per_class or use another recipe."
        )
