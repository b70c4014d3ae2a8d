"""From a whole data set to its long-tailed training set, probe set and test set."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bcl.core.checks import check_choice, check_count
from bcl.core.errors import InputError
from bcl.core.text import shown
from datamodules.base import LongTailedDataModule, Sets
from datamodules.external import SelectionSettings
from datamodules.images.cache import decoded
from datamodules.images.dataset import ImageDataset, WholeImages
from datamodules.images.files import ImageFiles
from datamodules.images.readers import Reader
from datamodules.tail import profiles, recipes
from datamodules.tail.balance import balance_notes, listed
from datamodules.tail.splits import Split, load_split, pool_fingerprint, with_labels

OnBadImage = Literal["refuse", "skip"]
ClassOrder = Literal["name", "shuffled"]
Profile = Literal["exponential", "step", "pareto", "cacr-linear", "cacr-exponential"]
Storage = Literal["auto", "memory", "host", "files"]

# How a subset is made, unless a recipe or a split file says which images it holds.
DEFAULTS: dict[str, Any] = {
    "imbalance_factor": 100.0,
    "profile": "exponential",
    "max_per_class": None,
    "class_order": "name",
    "split_seed": 0,
}


@dataclass
class Pool:
    """All images of a data set, training and test, in one order."""

    title: str
    names: list[str]  # of the images; with the labels, they make the fingerprint
    labels: Tensor  # (N,) int64, -1 where there are none
    classes: list[str]  # C names, none where there are no labels
    test: Tensor | None = None  # (N,) bool, the data set's own test images; None if it has none
    reader: Reader | None = None  # the images' files; None where `images` are given
    images: Tensor | None = None  # uint8 (N, 3, S, S), where they are decoded already
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)  # reason to number of files
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # names and reasons

    def fingerprint_of(self, rows: Tensor | None = None) -> str:
        """Fingerprint of some of the images, or of all: what a split of them is made for."""
        if rows is None:
            return pool_fingerprint(self.names, self.labels)
        return pool_fingerprint([self.names[row] for row in rows.tolist()], self.labels[rows])

    def parts(self, test_share: float, natural: bool = False) -> tuple[Tensor, Tensor]:
        """Rows of the training and test images; a test set is held out if none exists.

        It is balanced or, of a ``natural`` tail, a share of each class: none of too small ones.
        """
        if self.test is None:
            sizes = torch.bincount(self.labels, minlength=len(self.classes))
            if natural:
                share = (sizes * test_share).round().to(torch.int64).minimum(sizes - 1)
                return recipes.hold_out(self.labels, share.clamp(min=0))
            smallest = int(sizes.min())
            number = max(round(smallest * test_share), 1)
            if smallest <= number:
                raise InputError(
                    f"class '{self.classes[int(sizes.argmin())]}' has {smallest} image(s), too few "
                    "to hold out a test set; add images or a test folder."
                )
            return recipes.hold_out(self.labels, torch.full((len(self.classes),), number))
        return (~self.test).nonzero()[:, 0], self.test.nonzero()[:, 0]

    def without(self, bad: list[tuple[int, str]]) -> "tuple[Pool, Tensor]":
        """The pool without unreadable images, and (N,) bool, which ones it keeps."""
        kept = torch.ones(len(self.names), dtype=torch.bool)
        if not bad:
            return self, kept
        kept[[row for row, _ in bad]] = False
        unreadable = [(shown(self.names[row]), why) for row, why in bad]
        notes = [f"left out unreadable image {name}: {why}" for name, why in unreadable]
        pool = replace(
            self,
            names=list(compress(self.names, kept.tolist())),
            labels=self.labels[kept],
            test=None if self.test is None else self.test[kept],
            notes=[*self.notes, *notes],
            left_out={"unreadable": len(bad), **self.left_out},
            unreadable=unreadable,
        )
        return pool, kept

    def reasons(self) -> str:
        """How many files were left out, and why; of the unreadable ones, the first by name."""
        reasons = ", ".join(counted(count, why) for why, count in self.left_out.items())
        named = [f"{name} ({why})" for name, why in self.unreadable]
        return f"{reasons}; unreadable: {listed(named, 3)}" if named else reasons


class FilesDataModule(LongTailedDataModule):
    r"""Options that datamodules over image files share.

    Args:
        image_size: height and width in pixels to which images are resized and cropped.
        batch_size: images per step over all ranks together.
        seed: seed of the training order.
        storage: ``"memory"``: decoded once, cached on disk, gathered on the device; ``"host"``:
            the same, gathered in the host's memory; ``"files"``: decoded by workers, batch by
            batch; ``"auto"``: memory, if the decoded images take at most ``memory_limit_gb``.
        memory_limit_gb: in GiB.
        cache_dir: where decoded images are cached; ``$BCL_CACHE`` or the user's cache folder if
            not given.
        on_bad_image: ``"refuse"`` lists unreadable images and stops; ``"skip"`` leaves them out
            and says so.
        workers: decoding processes; if not given, all usable cores while the set is scanned or
            decoded once, and the usable cores over this machine's ranks during training.
        selection: images that an epoch has besides these, or in their place.

    Attributes:
        whole: whether images are turned as EXIF says and training sees all of them, or their
            center squares as stored.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from datamodules import ImageListLT
        >>> root = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (8, 8)).save(root / "a.png")
        >>> _ = (root / "b.png").write_bytes(b"no image")
        >>> _ = (root / "train.txt").write_text("a.png 0\nb.png 0")
        >>> data = ImageListLT(str(root), "train.txt", on_bad_image="skip", cache_dir=str(root))
        >>> data.num_samples, data.notes[0]
        (1, 'left out unreadable image b.png: cannot identify image file')
    """

    whole: ClassVar[bool] = False

    def __init__(
        self,
        image_size: int = 32,
        batch_size: int = 256,
        seed: int = 0,
        storage: Storage = "auto",
        memory_limit_gb: float = 8.0,
        cache_dir: str | None = None,
        on_bad_image: OnBadImage = "refuse",
        workers: int | None = None,
        selection: SelectionSettings | None = None,
    ) -> None:
        super().__init__(
            image_size=image_size, batch_size=batch_size, seed=seed, selection=selection
        )
        check_choice("storage", storage, ("auto", "memory", "host", "files"))
        check_choice("on_bad_image", on_bad_image, ("refuse", "skip"))
        if workers is not None:
            check_count("workers", workers, at_least=0)
        self.storage = storage
        self.memory_limit_gb = memory_limit_gb
        self.cache_dir = cache_dir
        self.on_bad_image = on_bad_image
        self.workers = workers

    def prepare_data(self) -> None:
        """Scan, decode and cache, in one process of each machine."""
        self.setup()

    def _external_options(self) -> dict[str, Any]:
        names = ("storage", "memory_limit_gb", "cache_dir", "workers")
        return {name: getattr(self, name) for name in names}

    def loader_device(self) -> torch.device:
        """Where images in memory are kept and gathered."""
        return torch.device("cpu") if self.storage == "host" else super().loader_device()

    def open_pool(self, pool: Pool) -> tuple[ImageDataset, Pool, Tensor]:
        """Open the readable images of a pool: images, pool, and (N,) bool, whether readable."""
        if pool.reader is None:
            assert pool.images is not None
            data = ImageDataset(pool.images, pool.labels, pool.fingerprint_of())
            return data, *pool.without([])
        wanted = len(pool.names) * 3 * self.image_size**2 * (1.5 if self.whole else 1)
        fits = wanted <= self.memory_limit_gb * 2**30
        in_memory = self.storage in ("memory", "host") or (self.storage == "auto" and fits)
        pixels, digests, bad, sides, _, mapped = decoded(
            pool.reader,
            pool.names,
            self.image_size if in_memory else 0,
            cache=self.cache_dir,
            workers=self.workers,
            progress=True,
            whole=self.whole,
        )
        if bad and self.on_bad_image == "refuse":
            lines = [f"\n  {shown(pool.names[row])}: {why}" for row, why in bad[:1000]]
            more = f"\n  and {len(bad) - 1000:,} more" if len(bad) > 1000 else ""
            raise InputError(
                f"{pool.reader.root}: {len(bad)} unreadable image(s); repair or remove them, or "
                f"leave them out with on_bad_image 'skip' (--data.on_bad_image skip):"
                f"{''.join(lines)}{more}"
            )
        pool, kept = pool.without(bad)
        files = ImageFiles(pool.reader, pool.names, self.image_size, self.workers, self.whole)  # type: ignore[arg-type]
        images: Tensor | WholeImages | ImageFiles = pixels if in_memory else files
        if in_memory and sides is not None:
            square = bool((sides == self.image_size).all())  # a batch of those is one gather
            shape = (-1, 3, self.image_size, self.image_size)
            whole = WholeImages(pixels, sides, self.image_size)
            images = pixels.view(shape) if square else whole
        data = ImageDataset(
            images,
            pool.labels,
            pool.fingerprint_of(),
            digests=digests,
            origin=files,
            mapped=mapped if in_memory else None,
        )
        return data, pool, kept

    def unlabeled(self, pool: Pool) -> Sets:
        """All readable images as the training set."""
        data, kept, _ = self.open_pool(pool)
        if not len(data):
            why = listed([f"{name}: {why}" for name, why in kept.unreadable], 3)
            raise InputError(
                f"{pool.title}: none of the {len(pool.names):,} images can be read ({why})."
            )
        if len(data) == 1:
            raise InputError(
                f"{pool.title} holds one readable image; training compares images: give at least "
                "two."
            )
        left_out = f"; left out: {kept.reasons()}" if kept.left_out else ""
        summary = f"{pool.title}: all {len(data):,} readable images{left_out}"
        others = {why: count for why, count in kept.left_out.items() if why != "unreadable"}
        notes = [f"left out {counted(count, why)}" for why, count in others.items()]
        if kept.unreadable:
            common = Counter(why for _, why in kept.unreadable).most_common(5)
            kinds = listed([f"{count:,} {why}" for why, count in common])
            total = counted(len(kept.unreadable), "unreadable images")
            notes.insert(0, f"left out {total} (listed in unreadable.csv): {kinds}")
        recipe = f"{pool.title}, all images, no labels: {len(data)} images"
        return Sets(data, data, None, [], recipe, notes, summary, unreadable=kept.unreadable)


class PoolDataModule(FilesDataModule):
    """A whole data set; a long-tailed part of it is the training set.

    Without ``recipe`` and ``split_file``, the profile's counts are assigned to the classes and
    that many images of each are chosen by ``split_seed``. A line on standard error says how many
    images were found, held out, chosen and left out.

    Args:
        imbalance_factor: largest over smallest class; 1 for balanced; None takes all training
            images as they are.
        profile: how the counts fall: ``"exponential"``, ``"step"``, ``"pareto"``,
            ``"cacr-linear"`` or ``"cacr-exponential"`` (the last two have fixed factors).
        max_per_class: images of the largest class; by default the size of the smallest class in
            the data set.
        class_order: which classes are rare: ``"name"``, the last by id; ``"shuffled"``, chosen by
            ``split_seed``.
        split_seed: seed of the choice of images (and of classes, if shuffled).
        recipe: a named subset from the literature instead (`bcl split --list`); of the options
            above only ``split_seed`` may be given with it.
        split_file: an index file (.npy) or saved split (.json) instead of all these.
        few_shot_file: an index file of the data set's balanced few-shot subset, which is then the
            probe set.
        test_share: images held out of each class if the data set has no test images: a share of
            each class, none of those too small, where all images are taken as they are; otherwise
            the same number of each, a share of the smallest class.
        options: those of `FilesDataModule`.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> class Black(PoolDataModule):
        ...     def pool(self):
        ...         images = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
        ...         names = [str(number) for number in range(20)]
        ...         return Pool("black", names, torch.arange(20) % 2, ["cat", "dog"], images=images)
        >>> data = Black(imbalance_factor=4)  # a fifth is held out for the test
        >>> data.class_counts, len(data.test_set())
        (tensor([8, 2]), 4)
    """

    def __init__(
        self,
        imbalance_factor: float | None = 100.0,
        profile: Profile = "exponential",
        max_per_class: int | None = None,
        class_order: ClassOrder = "name",
        split_seed: int = 0,
        recipe: str | None = None,
        split_file: str | None = None,
        few_shot_file: str | None = None,
        test_share: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_choice("profile", profile, tuple(profiles.PROFILES))
        check_choice("class_order", class_order, ("name", "shuffled"))
        given = (imbalance_factor, profile, max_per_class, class_order, split_seed)
        made_by = dict(zip(DEFAULTS, given, strict=True))
        # Configurations write the defaults out, so only another value is known to be wanted.
        differing = {k: v for k, v in made_by.items() if v is not None and v != DEFAULTS[k]}
        if recipe is not None and split_file is not None:
            raise InputError("give a recipe or a split_file, not both.")
        if recipe is not None:
            differing.pop("split_seed", None)
        if recipe is not None or split_file is not None:
            what = f"recipe '{recipe}'" if recipe is not None else f"split_file {split_file}"
            recipes.check_no_effect(what, (f"{name} {value}" for name, value in differing.items()))
        if imbalance_factor is not None:
            profiles.check_factor(imbalance_factor)
        if not 0 < test_share < 1:
            raise InputError(f"test_share must lie in (0, 1), got {test_share!r}.")
        self.imbalance_factor = imbalance_factor
        self.profile = profile
        self.max_per_class = max_per_class
        self.class_order = class_order
        self.split_seed = split_seed
        self.recipe_name = recipe
        self.split_file = split_file
        self.few_shot_file = few_shot_file
        self.test_share = test_share
        if recipe is not None:
            self.grouping = recipes.recipe(recipe).grouping

    def pool(self) -> Pool:
        """List all images of the data set."""
        raise NotImplementedError

    def build(self) -> Sets:
        """List the images, open them, and choose."""
        all_listed = self.pool()
        if not all_listed.classes:
            given = {"recipe": self.recipe_name, "split_file": self.split_file}
            recipes.check_no_effect(
                "a set without labels", (f"{k} {v}" for k, v in given.items() if v is not None)
            )
            return self.unlabeled(all_listed)
        if len(all_listed.classes) < 3:
            self.grouping = "thresholds"  # no thirds of two
        data, pool, kept = self.open_pool(all_listed)
        # Held out of all listed images, readable or not: an unreadable one must not move others
        # between the parts, and the indices of index files count it as well.
        natural = self.imbalance_factor is None and not (self.recipe_name or self.split_file)
        listed_train, listed_test = all_listed.parts(self.test_share, natural)
        new = kept.cumsum(0) - 1  # (N,) listed row to row of the readable ones
        rows, test = (new[part[kept[part]]] for part in (listed_train, listed_test))
        if self.split_file is not None:
            split = _from_file(self.split_file, all_listed, listed_train, kept)
        else:
            split = self.split(pool.labels[rows], pool.classes, pool.fingerprint_of(rows))
        train, probe = rows[split.indices], rows
        if self.few_shot_file is not None:
            probe = rows[_from_file(self.few_shot_file, all_listed, listed_train, kept).indices]
        notes = list(pool.notes)
        counts = torch.bincount(pool.labels[train], minlength=len(pool.classes))
        if empty := [pool.classes[label] for label in profiles.empty_classes(counts)]:
            notes.append(f"{len(empty)} class(es) without a training image: {listed(empty)}")
        for what, part in (("probe set", probe), ("test set", test)):
            notes += balance_notes(what, pool.labels[part], pool.classes) if len(part) else []
        if not len(test):
            notes.append("no class has enough images to hold one out, so nothing can be evaluated")
        return Sets(
            train=data.subset(train),
            probe=data.subset(probe),
            test=data.subset(test) if len(test) else None,
            class_names=pool.classes,
            recipe=f"{pool.title}, {split.recipe}: {len(train)} images",
            notes=notes,
            summary=self._summary(pool, split, len(rows), len(test)),
            split=split,
            unreadable=pool.unreadable,
        )

    def split(self, labels: Tensor, classes: Sequence[str], fingerprint: str) -> Split:
        """Choose the long-tailed training set of (N,) labels by recipe or profile."""
        if self.recipe_name is not None:
            chosen = recipes.recipe(self.recipe_name)
            indices = recipes.apply(chosen, labels, self.split_seed)
            name = f"{chosen.name}, split seed {self.split_seed}"
        elif self.imbalance_factor is None:
            indices, name = torch.arange(len(labels)), "as it is"
        else:
            indices, name = self._by_profile(labels, classes, self.imbalance_factor)
        return Split(indices, labels[indices], len(classes), name, fingerprint, len(labels))

    def _by_profile(
        self, labels: Tensor, classes: Sequence[str], factor: float
    ) -> tuple[Tensor, str]:
        sizes = torch.bincount(labels, minlength=len(classes))
        if empty := [classes[label] for label in profiles.empty_classes(sizes)]:
            raise InputError(
                f"{len(empty)} class(es) without a training image: {listed(empty)}; add images or "
                "remove the classes."
            )
        n_max = int(sizes.min()) if self.max_per_class is None else self.max_per_class
        counts = profiles.PROFILES[self.profile](n_max, factor, len(classes))
        stated = ""
        if self.profile not in profiles.FIXED_PROFILES:
            profiles.check_none_empty(counts, n_max, factor)
            stated = f"imbalance factor {factor:g}, "
        shuffled = self.class_order == "shuffled"
        seed = self.split_seed
        wanted = profiles.shuffled_counts(counts, seed) if shuffled else torch.tensor(counts)
        order = f"classes by {'seed' if shuffled else 'id'}, split seed {self.split_seed}"
        name = f"{self.profile}, {stated}n_max {n_max}, {order}"
        return recipes.select(labels, wanted, self.split_seed, classes), name

    def _summary(self, pool: Pool, split: Split, training: int, test: int) -> str:
        """One line: images found, held out, chosen and left out."""
        found = len(pool.names) + pool.left_out.get("unreadable", 0)
        why = f"held out, test_share {self.test_share:g}" if pool.test is None else "its own"
        parts = [
            f"{pool.title}: {found:,} images in {len(pool.classes)} classes",
            f"{test:,} test images ({why})",
            f"training on {len(split):,} of the other {training:,} ({split.recipe})",
        ]
        if pool.left_out:
            parts.append(f"left out: {pool.reasons()}")
        return "; ".join(parts)


def counted(count: int, what: str) -> str:
    """``1 image outside class folders``, but ``2 images outside class folders``."""
    return f"{count:,} " + (re.sub(r"(image|file)s", r"\1", what, count=1) if count == 1 else what)


def _from_file(path: str, pool: Pool, rows: Tensor, kept: Tensor) -> Split:
    """A saved split of the listed training images ``rows``, renumbered to those that are kept."""
    labels, classes = pool.labels[rows], len(pool.classes)
    split = with_labels(load_split(path), labels, classes, pool.fingerprint_of(rows))
    good = kept[rows]
    if bool(good.all()):
        return split
    indices = (good.cumsum(0) - 1)[split.indices[good[split.indices]]]
    rows = rows[good]
    left_out = len(split) - len(indices)
    recipe = f"{split.recipe}, {left_out} unreadable left out" if left_out else split.recipe
    fingerprint = pool.fingerprint_of(rows)
    return Split(indices, pool.labels[rows[indices]], classes, recipe, fingerprint, len(rows))
