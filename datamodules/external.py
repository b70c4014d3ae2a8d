"""A second collection beside the training set, without labels: what is selected from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from bcl.core.checks import check_choice, check_count, check_positive
from bcl.core.errors import InputError
from datamodules.images.dataset import ImageDataset
from datamodules.tail.balance import listed

Rule = Literal["colt", "mak", "random", "balanced"]


@dataclass(frozen=True)
class SelectionSettings:
    """Images that an epoch has besides the training set's, or in place of them.

    An epoch has all N training images and ``budget`` external ones, which a rule selects again and
    again; before the first selection, training images again in their place, so that all epochs are
    of one length. External images have the id -1, and no place in the memory. With ``"balanced"``
    there are none: an epoch has N places, of which every cluster of training images has the same
    number. See `bcl.discovery.colt_selection`, `bcl.discovery.mak_selection` and
    `bcl.discovery.balanced_order`; `bcl.training.Selection` applies them.

    Args:
        rule: ``"colt"``, ``"mak"``, ``"random"`` (their control), or ``"balanced"``.
        root: the external images, without labels: what `datamodules.ImageCollection` takes, or a
            .npy file of uint8 images, such as the 300K Random Images.
        budget: external images per epoch.
        start: epochs before the first selection; below 1 a share of the run.
        every: epochs between selections; 0 for one selection.
        clusters: of the training images, by k-means.
        temperature: of the clusters' shares (COLT).
        alpha: weight of the loss against the distance (MAK).
        passes: augmented passes over the external images (MAK).

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> SelectionSettings("colt", root="DIR").budget
        10000
    """

    rule: Rule
    root: str | list[str] | None = None
    budget: int = 10_000
    start: float = 0.05
    every: int = 25
    clusters: int = 10
    temperature: float = 1.0
    alpha: float = 0.3
    passes: int = 10

    def __post_init__(self) -> None:
        check_choice("selection.rule", self.rule, get_args(Rule))
        check_count("selection.budget", self.budget)
        check_positive("selection.start", self.start, zero=True)
        check_count("selection.every", self.every, at_least=0)
        check_count("selection.clusters", self.clusters)
        check_positive("selection.temperature", self.temperature)
        check_count("selection.passes", self.passes, at_least=2)
        if not 0 <= self.alpha <= 1:
            raise InputError(f"selection.alpha must lie in [0, 1], got {self.alpha!r}.")

    def open(self, image_size: int, **options: Any) -> ImageDataset | None:
        """Open the external images; None where the rule needs none.

        Raises:
            InputError: no ``root`` where one is needed, or fewer images than the budget.
        """
        if self.rule == "balanced":
            if self.root is not None:
                raise InputError(
                    "selection.rule 'balanced' draws from the training set alone; leave out "
                    "selection.root, or choose another rule."
                )
            return None
        if self.root is None:
            raise InputError(
                f"selection.rule '{self.rule}' selects from a second collection; give "
                "--data.selection.root DIR."
            )
        data: ImageDataset = _collection(self.root, image_size, options).train_set()
        if data.image_size != image_size:
            raise InputError(
                f"the external images of {self.root} have {data.image_size} px, the training set's "
                f"{image_size}; store both at one size."
            )
        if self.budget > len(data):
            raise InputError(
                f"selection.budget is {self.budget:,} images, more than the {len(data):,} of "
                f"{self.root}; set it to at most {len(data)}."
            )
        return data


def _collection(root: str | list[str], image_size: int, options: dict[str, Any]) -> Any:
    from datamodules.arrays import ArraysLT
    from datamodules.collection import ImageCollection

    if isinstance(root, str) and Path(root).suffix == ".npy":
        return ArraysLT(root)
    return ImageCollection(root, image_size=image_size, **options)


def check_apart(external: ImageDataset, others: dict[str, ImageDataset | None]) -> None:
    """Refuse external images whose files, or pixels, are those of another set too.

    Files are compared where all are known, else the pixels as they are stored; a copy of another
    encoding or size is not found.

    Args:
        external: the external images.
        others: sets by name.

    Raises:
        InputError: images in both; it names some.
    """
    for name, data in others.items():
        if data is None:
            continue
        files = external.digests is not None and data.digests is not None
        keys: list[Any] = [
            each.digests if files else each.pixel_digests() for each in (external, data)
        ]
        shared = torch.isin(*keys).nonzero()[:, 0]
        if len(shared):
            place = int((keys[1] == keys[0][shared[0]]).nonzero()[0])
            raise InputError(
                f"{len(shared):,} of the {len(external):,} external images are in the {name} too: "
                f"{listed(external.names(shared[:5]), 5)} (the first is its "
                f"{data.names([place])[0]}); remove them from the external images."
            )
