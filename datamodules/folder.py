"""Anyone's pictures in class folders, made long-tailed."""

from typing import Literal

import torch
from torch import Tensor

from bcl.errors import InputError
from datamodules.base import LongTailedDataModule, Sets, choose
from datamodules.cache import decoded
from datamodules.profiles import exponential_counts, shuffled_counts
from datamodules.sources import Source, is_picture, open_source
from datamodules.stores import MemoryStore, PictureSet, fingerprint_of

OnBadImage = Literal["raise", "skip"]
ClassOrder = Literal["name", "shuffled"]
_TEST_STREAM = 0x7E57
_TRAIN_STREAM = 0x17A1
_TEST_NAMES = ("test", "val", "valid", "validation")


class ImageFolderLT(LongTailedDataModule):
    """A folder (or a zip archive) of class folders, with an exponential long tail.

    Two layouts are read: ``root/<class>/*.jpg``, from which a balanced test set is held out, and
    ``root/train/<class>/*.jpg`` with ``root/test`` (or ``val``) beside it, which is taken as it
    is. The probe set is all training pictures. Pictures are decoded once and cached.

    Args:
        root: the folder or zip archive.
        imbalance_factor: largest over smallest class; 1 for balanced; None takes all training
            pictures as they are.
        max_per_class: pictures of the largest class; as many as the poorest class has if not
            given.
        image_size: height and width in pixels to which pictures are resized and cropped.
        batch_size: pictures a step over all ranks together.
        seed: of the order of training.
        split_seed: of the choice of pictures (and of classes, if shuffled).
        class_order: which classes are rare: ``"name"``, the last by name; ``"shuffled"``, chosen
            by ``split_seed``.
        test_share: share of the poorest class that is held out of each class where the folder
            has no test set.
        on_bad_image: ``"raise"`` lists unreadable pictures and stops; ``"skip"`` leaves them out
            and says so in the notes.
        cache_dir: where decoded pictures are kept; ``$BCL_CACHE`` or the user's cache folder if
            not given.
        workers: decoding processes; the usable cores if not given.

    Raises:
        InputError: a bad folder or argument.
    """

    def __init__(
        self,
        root: str,
        imbalance_factor: float | None = 100.0,
        max_per_class: int | None = None,
        image_size: int = 32,
        batch_size: int = 256,
        seed: int = 0,
        split_seed: int = 0,
        class_order: ClassOrder = "name",
        test_share: float = 0.2,
        on_bad_image: OnBadImage = "raise",
        cache_dir: str | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(image_size=image_size, batch_size=batch_size, seed=seed)
        if not 0 < test_share < 1:
            raise InputError(f"test_share must lie in (0, 1), got {test_share!r}.")
        self.root = root
        self.imbalance_factor = imbalance_factor
        self.max_per_class = max_per_class
        self.split_seed = split_seed
        self.class_order = class_order
        self.test_share = test_share
        self.on_bad_image = on_bad_image
        self.cache_dir = cache_dir
        self.workers = workers

    def prepare_data(self) -> None:
        """Decode and cache, on one process of each machine."""
        self.setup()

    def build(self) -> Sets:
        """Scan, decode and split the folder."""
        source = open_source(self.root)
        train_prefix, test_prefix = layout(source)
        names, labels, classes = scan(source, train_prefix)
        parts = torch.zeros(len(names), dtype=torch.bool)  # (N,) of the test folder?
        if test_prefix is not None:
            test_names, test_labels, test_classes = scan(source, test_prefix)
            if test_classes != classes:
                odd = sorted(set(classes) ^ set(test_classes))
                raise InputError(
                    f"{source.root}: {train_prefix} and {test_prefix} hold different classes "
                    f"({', '.join(odd[:5])}); both need the same folders."
                )
            names += test_names
            parts = torch.cat([parts, torch.ones(len(test_names), dtype=torch.bool)])
            labels = torch.cat([labels, test_labels])
        result = decoded(
            source,
            names,
            self.image_size,
            cache=self.cache_dir,
            workers=self.workers,
            progress=True,
        )
        notes: list[str] = []
        if result.bad:
            good = torch.ones(len(names), dtype=torch.bool)
            good[[row for row, _ in result.bad]] = False
            report = [f"{names[row]}: {why}" for row, why in result.bad]
            if self.on_bad_image == "raise":
                raise InputError(unreadable(source, report))
            notes = [f"left out unreadable picture {line}" for line in report]
            labels, parts = labels[good], parts[good]
            names = [name for name, keep in zip(names, good.tolist(), strict=True) if keep]
        store = MemoryStore(result.images, fingerprint_of("\n".join(names), labels))
        if test_prefix is not None:
            test, probe = parts.nonzero()[:, 0], (~parts).nonzero()[:, 0]
        else:
            probe, test = hold_out(labels, len(classes), self.test_share, classes)
        train, recipe = self._long_tail(labels[probe], classes)
        train = probe[train]
        return Sets(
            train=PictureSet(store, train, labels[train]),
            probe=PictureSet(store, probe, labels[probe]),
            test=PictureSet(store, test, labels[test]),
            class_names=classes,
            recipe=f"{source.root.name} ({recipe}): {len(train)} pictures",
            notes=notes,
        )

    def _long_tail(self, labels: Tensor, classes: list[str]) -> tuple[Tensor, str]:
        if self.imbalance_factor is None:
            return torch.arange(len(labels)), "as it is"
        sizes = torch.bincount(labels, minlength=len(classes))
        n_max = int(sizes.min()) if self.max_per_class is None else self.max_per_class
        counts = exponential_counts(n_max, self.imbalance_factor, len(classes))
        if self.class_order == "shuffled":
            wanted = shuffled_counts(counts, self.split_seed)
        else:
            wanted = torch.tensor(counts)
        if not bool((wanted >= 1).all()):
            raise InputError(
                f"imbalance_factor {self.imbalance_factor:g} leaves classes without pictures: the "
                f"largest has {n_max}; take at most {n_max}."
            )
        if bool((wanted > sizes).any()):
            short = int((sizes - wanted).argmin())
            raise InputError(
                f"class '{classes[short]}' has {int(sizes[short])} pictures, the profile wants "
                f"{int(wanted[short])}; lower max_per_class."
            )
        name = (
            f"exponential, imbalance factor {self.imbalance_factor:g}, n_max {n_max}, "
            f"classes by {'seed' if self.class_order == 'shuffled' else 'name'}, "
            f"split seed {self.split_seed}"
        )
        return choose(labels, wanted, _TRAIN_STREAM, self.split_seed), name


def layout(source: Source) -> tuple[str, str | None]:
    """Find the prefixes of the training and the test folders (None if there is none)."""
    tops = {name.split("/", 1)[0] for name in source.names() if "/" in name}
    if "train" not in tops:
        return "", None
    test = next((name for name in _TEST_NAMES if name in tops), None)
    return "train/", f"{test}/" if test else None


def scan(source: Source, prefix: str) -> tuple[list[str], Tensor, list[str]]:
    """List the pictures of the class folders below a prefix.

    Args:
        source: the folder or archive.
        prefix: ``""`` or a folder with a slash at its end.

    Returns:
        Names sorted by class and name, (N,) labels, class names sorted.

    Raises:
        InputError: no class folders, or a class folder without pictures.
    """
    by_class: dict[str, list[str]] = {}
    for folder in class_folders(source, prefix):
        by_class[folder] = []
    for name in source.names():
        rest = name[len(prefix) :]
        if name.startswith(prefix) and "/" in rest:
            pictures = by_class.setdefault(rest.split("/", 1)[0], [])
            if is_picture(name):
                pictures.append(name)
    where = f"{source.root}/{prefix}".rstrip("/")
    if not by_class:
        raise InputError(f"{where} holds no class folders; expected {where}/<class>/<picture>.jpg.")
    empty = sorted(name for name, pictures in by_class.items() if not pictures)
    if empty:
        raise InputError(
            f"{where}: class folder{'s' if len(empty) > 1 else ''} without a picture: "
            f"{', '.join(empty[:10])}{' ...' if len(empty) > 10 else ''}; fill or remove."
        )
    classes = sorted(by_class)
    names = [name for label in classes for name in by_class[label]]
    labels = torch.tensor(
        [index for index, label in enumerate(classes) for _ in by_class[label]], dtype=torch.int64
    )
    return names, labels, classes


def class_folders(source: Source, prefix: str) -> list[str]:
    """Folders below a prefix, those without files too (an archive names none of these)."""
    folder = source.root / prefix
    if not folder.is_dir():
        return []
    return [e.name for e in folder.iterdir() if e.is_dir() and not e.name.startswith(".")]


def hold_out(
    labels: Tensor, num_classes: int, share: float, classes: list[str]
) -> tuple[Tensor, Tensor]:
    """Set a balanced test set apart: the same number of every class.

    Args:
        labels: (N,) int64.
        num_classes: C.
        share: of the poorest class.
        classes: names, for messages.

    Returns:
        Positions of the rest and of the test set, ascending.

    Raises:
        InputError: the poorest class is too small to share.
    """
    sizes = torch.bincount(labels, minlength=num_classes)
    number = max(round(int(sizes.min()) * share), 1)
    if int(sizes.min()) <= number:
        poorest = classes[int(sizes.argmin())]
        raise InputError(
            f"class '{poorest}' has {int(sizes.min())} picture(s), too few to hold out a test "
            "set; add pictures or a test folder."
        )
    test = choose(labels, torch.full((num_classes,), number), _TEST_STREAM, 0)
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[test] = False
    return rest.nonzero()[:, 0], test


def unreadable(source: Source, report: list[str]) -> str:
    """The message that lists unreadable pictures."""
    lines = "".join(f"\n  {line}" for line in report[:1000])
    more = f"\n  and {len(report) - 1000} more" if len(report) > 1000 else ""
    return (
        f"{source.root}: {len(report)} unreadable picture(s); repair or remove them, or leave "
        f"them out with on_bad_image='skip':{lines}{more}"
    )
