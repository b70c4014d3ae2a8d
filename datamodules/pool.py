"""From a whole data set to its long-tailed training set, probe set and test set."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bcl.core.errors import InputError, unknown_name
from datamodules.base import LongTailedDataModule, Sets
from datamodules.images.cache import decoded
from datamodules.images.dataset import ImageDataset, MemoryStore, Store
from datamodules.images.files import FileStore
from datamodules.images.readers import Source, shown
from datamodules.tail import profiles, recipes
from datamodules.tail.balance import balance_notes
from datamodules.tail.choices import refuse_beside
from datamodules.tail.splits import Split, load_split, pool_fingerprint, with_labels

OnBadImage = Literal["raise", "skip"]
ClassOrder = Literal["name", "shuffled"]
Profile = Literal["exponential", "step", "pareto", "cacr-linear", "cacr-exponential"]
Storage = Literal["auto", "memory", "host", "files"]
PROFILES = ("exponential", "step", "pareto", "cacr-linear", "cacr-exponential")
STORAGES = ("auto", "memory", "host", "files")
_TEST_STREAM = 0x7E57


@dataclass
class Pool:
    """All images of a data set, training and test, in one numbering.

    Attributes:
        title: the data set's name.
        names: of the images; they decide the fingerprint.
        labels: (N,) int64 classes.
        classes: C names.
        test: (N,) bool, the data set's own test images; None if it has none.
        source: where the files lie; None where ``images`` are given.
        images: uint8 (N, 3, S, S), where they are decoded already.
        notes: what a report should say.
    """

    title: str
    names: list[str]
    labels: Tensor
    classes: list[str]
    test: Tensor | None = None
    source: Source | None = None
    images: Tensor | None = None
    notes: list[str] = field(default_factory=list)

    def fingerprint(self) -> str:
        """Fingerprint of all images."""
        return self.fingerprint_of(torch.arange(len(self.names)))

    def fingerprint_of(self, rows: Tensor) -> str:
        """Fingerprint of some of the images: what a split of them is made for."""
        return pool_fingerprint([self.names[row] for row in rows.tolist()], self.labels[rows])

    def parts(self, test_share: float) -> tuple[Tensor, Tensor]:
        """Rows of the training and the test images; these are held out where none are given.

        Args:
            test_share: share of the poorest class that is held out of each class.

        Raises:
            InputError: the poorest class is too small to share.
        """
        if self.test is None:
            return hold_out(self.labels, self.classes, test_share)
        return (~self.test).nonzero()[:, 0], self.test.nonzero()[:, 0]


class FilesDataModule(LongTailedDataModule):
    r"""What datamodules over image files share: where images are kept, and which are bad.

    Args:
        image_size: height and width in pixels to which images are resized and cropped.
        batch_size: images a step over all ranks together.
        seed: of the order of training.
        storage: ``"memory"``: decoded once, cached on disk, batches are gathers on the device;
            ``"host"``: the same, with the gathers in the host's memory;
            ``"files"``: decoded by workers, batch by batch; ``"auto"``: memory, if the decoded
            images take at most ``memory_limit_gb``.
        memory_limit_gb: in GiB.
        cache_dir: where decoded images are kept; ``$BCL_CACHE`` or the user's cache folder if
            not given.
        on_bad_image: ``"raise"`` lists unreadable images and stops; ``"skip"`` leaves them out
            and says so in the notes.
        workers: decoding processes; if not given, all usable cores while the set is scanned or
            decoded once, and the usable cores over this machine's ranks in training.

    Raises:
        InputError: an argument out of its range.

    Example:
        >>> import tempfile
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

    def __init__(
        self,
        image_size: int = 32,
        batch_size: int = 256,
        seed: int = 0,
        storage: Storage = "auto",
        memory_limit_gb: float = 8.0,
        cache_dir: str | None = None,
        on_bad_image: OnBadImage = "raise",
        workers: int | None = None,
    ) -> None:
        super().__init__(image_size=image_size, batch_size=batch_size, seed=seed)
        if storage not in STORAGES:
            raise unknown_name("storage", storage, STORAGES)
        if on_bad_image not in ("raise", "skip"):
            raise unknown_name("on_bad_image", on_bad_image, ("raise", "skip"))
        if workers is not None and workers < 0:
            raise InputError(f"workers must be 0 or more, got {workers!r}.")
        self.storage = storage
        self.memory_limit_gb = memory_limit_gb
        self.cache_dir = cache_dir
        self.on_bad_image = on_bad_image
        self.workers = workers

    def prepare_data(self) -> None:
        """Scan, decode and cache, on one process of each machine."""
        self.setup()

    def loader_device(self) -> torch.device:
        """Where batches are gathered."""
        return torch.device("cpu") if self.storage == "host" else super().loader_device()

    def open_store(self, pool: Pool) -> tuple[Store, Pool]:
        """Open a pool's images, without those that cannot be read.

        Args:
            pool: the images.

        Returns:
            The store, and the pool of its rows.

        Raises:
            InputError: unreadable images, unless they are to be skipped.
        """
        if pool.source is None:
            if pool.images is None:
                raise InputError(f"{pool.title} has neither files nor images.")
            return MemoryStore(pool.images, pool.fingerprint()), pool
        wanted = len(pool.names) * 3 * self.image_size**2
        in_memory = self.storage in ("memory", "host") or (
            self.storage == "auto" and wanted <= self.memory_limit_gb * 2**30
        )
        result = decoded(
            pool.source,
            pool.names,
            self.image_size if in_memory else 0,
            cache=self.cache_dir,
            workers=self.workers,
            progress=True,
        )
        source = pool.source
        if result.bad:
            pool = self._without_bad(pool, result.bad)
        fingerprint = pool.fingerprint()
        if in_memory:
            return MemoryStore(result.images, fingerprint, result.digests), pool
        store = FileStore(
            source, pool.names, self.image_size, fingerprint, self.workers, result.digests
        )
        return store, pool

    def _without_bad(self, pool: Pool, bad: list[tuple[int, str]]) -> Pool:
        report = [f"{shown(pool.names[row])}: {why}" for row, why in bad]
        root = pool.source.root if pool.source else pool.title
        if self.on_bad_image == "raise":
            lines = "".join(f"\n  {line}" for line in report[:1000])
            more = f"\n  and {len(report) - 1000} more" if len(report) > 1000 else ""
            raise InputError(
                f"{root}: {len(report)} unreadable image(s); repair or remove them, or leave "
                f"them out with on_bad_image='skip':{lines}{more}"
            )
        good = torch.ones(len(pool.names), dtype=torch.bool)
        good[[row for row, _ in bad]] = False
        return Pool(
            pool.title,
            [name for name, keep in zip(pool.names, good.tolist(), strict=True) if keep],
            pool.labels[good],
            pool.classes,
            None if pool.test is None else pool.test[good],
            pool.source,
            notes=[*pool.notes, *(f"left out unreadable image {line}" for line in report)],
        )


class PoolDataModule(FilesDataModule):
    """A whole data set, of which a long-tailed part is the training set.

    Without ``recipe`` and ``split_file``, the profile's counts are dealt to the classes and that
    many images of each are chosen by ``split_seed``.

    Args:
        imbalance_factor: largest over smallest class; 1 for balanced; None takes all training
            images as they are.
        profile: how the counts fall: ``"exponential"``, ``"step"``, ``"pareto"``,
            ``"cacr-linear"`` or ``"cacr-exponential"`` (the last two have fixed factors).
        max_per_class: images of the largest class; as many as the poorest class has if not
            given.
        class_order: which classes are rare: ``"name"``, the last by id; ``"shuffled"``, chosen by
            ``split_seed``.
        split_seed: of the choice of images (and of classes, if shuffled).
        recipe: a named subset of the literature instead (`bcl split --list`). Of the options
            above, ``split_seed`` alone goes with it; others are refused where they are not the
            default.
        split_file: an index file (.npy) or saved split (.json) instead of all these.
        few_shot_file: an index file of the data set's balanced few-shot subset, which is then the
            probe set.
        test_share: share of the poorest class that is held out of each class where the data set
            has no test images.
        options: those of `FilesDataModule`.

    Raises:
        InputError: an argument out of its range.

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
        if profile not in PROFILES:
            raise unknown_name("profile", profile, PROFILES)
        if class_order not in ("name", "shuffled"):
            raise unknown_name("class_order", class_order, ("name", "shuffled"))
        if recipe is not None and split_file is not None:
            raise InputError("give a recipe or a split_file, not both.")
        refuse_beside(
            recipe,
            split_file,
            {
                "imbalance_factor": imbalance_factor,
                "profile": profile,
                "max_per_class": max_per_class,
                "class_order": class_order,
                "split_seed": split_seed,
            },
        )
        if recipe is not None:
            recipes.recipe(recipe)  # a misspelt name is refused before any scan
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
        listed = self.pool()
        store, pool = self.open_store(listed)
        # Held out of all listed images, readable or not: an unreadable one must not move others
        # between the parts, and the indices of index files count it as well.
        listed_rows, listed_test = listed.parts(self.test_share)
        kept = _kept(listed, pool)
        new = kept.cumsum(0) - 1  # (N,) listed row to row of the readable ones
        rows = new[listed_rows[kept[listed_rows]]]
        test = new[listed_test[kept[listed_test]]]
        if self.split_file is not None:
            split = _from_file(self.split_file, listed, listed_rows, kept)
        else:
            split = self.split(pool.labels[rows], pool.classes, pool.fingerprint_of(rows))
        labels = pool.labels
        train, probe = rows[split.indices], rows
        if self.few_shot_file is not None:
            probe = rows[_from_file(self.few_shot_file, listed, listed_rows, kept).indices]
        empty = profiles.empty_classes(torch.bincount(labels[train], minlength=len(pool.classes)))
        if empty:
            shown = ", ".join(pool.classes[i] for i in empty[:10])
            more = " ..." if len(empty) > 10 else ""
            pool.notes.append(f"{len(empty)} class(es) without a training image: {shown}{more}")
        for what, chosen in (("probe set", probe), ("test set", test)):
            pool.notes.extend(balance_notes(what, labels[chosen], pool.classes))
        return Sets(
            train=ImageDataset(store, train, labels[train]),
            probe=ImageDataset(store, probe, labels[probe]),
            test=ImageDataset(store, test, labels[test]),
            class_names=pool.classes,
            recipe=f"{pool.title}, {split.recipe}: {len(train)} images",
            notes=pool.notes,
            split=split,
        )

    def split(self, labels: Tensor, classes: Sequence[str], fingerprint: str) -> Split:
        """Choose the long-tailed training set by recipe or profile.

        Args:
            labels: (N,) int64 classes of all training images.
            classes: C names.
            fingerprint: of all training images.

        Returns:
            The split.

        Raises:
            InputError: the classes cannot give what the recipe or profile wants.
        """
        if self.recipe_name is not None:
            chosen = recipes.recipe(self.recipe_name)
            indices = recipes.apply(chosen, labels, self.split_seed)
            if len(indices) != chosen.total:
                raise InputError(f"recipe '{chosen.name}' gave {len(indices)} images.")
            name = f"{chosen.name}, split seed {self.split_seed}"
        elif self.imbalance_factor is None:
            indices, name = torch.arange(len(labels)), "as it is"
        else:
            indices, name = self._profile(labels, classes, self.imbalance_factor)
        return Split(indices, labels[indices], len(classes), name, fingerprint, len(labels))

    def _profile(self, labels: Tensor, classes: Sequence[str], factor: float) -> tuple[Tensor, str]:
        sizes = torch.bincount(labels, minlength=len(classes))
        if not int(sizes.min()):
            empty = [classes[index] for index in profiles.empty_classes(sizes)]
            raise InputError(
                f"{len(empty)} class(es) without a training image: {', '.join(empty[:10])}; add "
                "images or leave the classes out."
            )
        n_max = int(sizes.min()) if self.max_per_class is None else self.max_per_class
        if self.profile == "exponential":
            counts = profiles.exponential_counts(n_max, factor, len(classes))
        elif self.profile == "step":
            counts = profiles.step_counts(n_max, factor, len(classes))
        elif self.profile == "pareto":
            counts = profiles.pareto_counts(n_max, int(n_max / factor), len(classes))
        elif self.profile == "cacr-linear":
            counts = profiles.cacr_linear_counts(n_max, len(classes))
        else:
            counts = profiles.cacr_exponential_counts(n_max, len(classes))
        if not self.profile.startswith("cacr"):
            profiles.refuse_empty(counts, n_max, factor)
        if self.class_order == "shuffled":
            wanted = profiles.shuffled_counts(counts, self.split_seed)
        else:
            wanted = torch.tensor(counts)
        if bool((wanted > sizes).any()):
            short = int((sizes - wanted).argmin())
            raise InputError(
                f"class '{classes[short]}' has {int(sizes[short])} images, the profile wants "
                f"{int(wanted[short])}; lower max_per_class."
            )
        name = (
            f"{self.profile}, imbalance factor {factor:g}, n_max {n_max}, classes by "
            f"{'seed' if self.class_order == 'shuffled' else 'id'}, split seed {self.split_seed}"
        )
        if self.profile.startswith("cacr"):
            name = name.replace(f"imbalance factor {factor:g}, ", "")
        return recipes.select(labels, wanted, self.split_seed), name


def _kept(listed: Pool, pool: Pool) -> Tensor:
    """(N,) bool, the listed images that could be read."""
    if len(pool.names) == len(listed.names):
        return torch.ones(len(listed.names), dtype=torch.bool)
    good = set(pool.names)
    return torch.tensor([name in good for name in listed.names])


def _from_file(path: str, listed: Pool, rows: Tensor, kept: Tensor) -> Split:
    """A saved split of the listed training images ``rows``, as one of those that are kept."""
    labels, classes = listed.labels[rows], len(listed.classes)
    split = with_labels(load_split(path), labels, classes, listed.fingerprint_of(rows))
    good = kept[rows]
    if bool(good.all()):
        return split
    indices = (good.cumsum(0) - 1)[split.indices[good[split.indices]]]
    rows = rows[good]
    left_out = len(split) - len(indices)
    return Split(
        indices,
        listed.labels[rows[indices]],
        split.num_classes,
        f"{split.recipe}, {left_out} unreadable left out" if left_out else split.recipe,
        listed.fingerprint_of(rows),
        len(rows),
    )


def hold_out(labels: Tensor, classes: Sequence[str], share: float) -> tuple[Tensor, Tensor]:
    """Set a balanced test set apart: the same number of every class.

    Args:
        labels: (N,) int64.
        classes: C names.
        share: of the poorest class.

    Returns:
        Positions of the rest and of the test set, ascending.

    Raises:
        InputError: the poorest class is too small to share.
    """
    sizes = torch.bincount(labels, minlength=len(classes))
    number = max(round(int(sizes.min()) * share), 1)
    if int(sizes.min()) <= number:
        poorest = classes[int(sizes.argmin())]
        raise InputError(
            f"class '{poorest}' has {int(sizes.min())} image(s), too few to hold out a test "
            "set; add images or a test folder."
        )
    test = recipes.choose(labels, torch.full((len(classes),), number), _TEST_STREAM, 0)
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[test] = False
    return rest.nonzero()[:, 0], test


def resolve(root: str | Path, name: str) -> Path:
    """A path that is absolute, or relative to the root, or to the working folder."""
    path = Path(name).expanduser()
    inside = Path(root).expanduser() / path
    return inside if not path.is_absolute() and inside.exists() else path
