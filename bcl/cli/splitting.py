"""What ``bcl split`` does; apart from its options, whose help loads no torch."""

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bcl.cli.histogram import histogram_text
from bcl.core.errors import InputError
from bcl.core.files import write_text
from datamodules.cifar import CIFAR10LT, CIFAR100LT
from datamodules.folder import folder_pool
from datamodules.images.readers import open_reader
from datamodules.lists import ImageList, read_list
from datamodules.pool import DEFAULTS, PoolDataModule
from datamodules.tail import recipes, splits
from datamodules.tail.balance import listed
from datamodules.tail.profiles import FIXED_PROFILES

# Each with the folder below the root in which torchvision keeps it.
CIFARS: dict[str, tuple[str, Callable[..., PoolDataModule]]] = {
    "cifar10": ("cifar-10-batches-py", CIFAR10LT),
    "cifar100": ("cifar-100-python", CIFAR100LT),
}


def table() -> str:
    """Every recipe with its total, the published total and its source."""
    rows = [("recipe", "classes", "total", "published", "")]
    for found in recipes.RECIPES.values():
        note = f"{found.source}; {found.note}" if found.note else found.source
        published = "-" if found.published is None else str(found.published)
        rows.append((found.name, str(found.num_classes), str(found.total), published, note))
    for name, totals in recipes.LISTS.items():
        total = str(totals["train"])
        rows.append((name, str(totals["classes"]), total, total, "given by its list files"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for name, *numbers, note in rows:
        figures = (f"{text:>{width}}" for text, width in zip(numbers, widths[1:], strict=True))
        lines.append("  ".join([f"{name:<{widths[0]}}", *figures]))
        lines += textwrap.wrap(note, 76, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _cifar(root: str, asked: str | None, recipe: str) -> str | None:
    """Which CIFAR of a root is meant: as asked, else that of the recipe, else the only one."""
    folder = Path(root).expanduser()
    found = [name for name, (inside, _) in CIFARS.items() if (folder / inside).is_dir()]
    if asked is not None:
        if asked not in found:
            raise InputError(
                f"--dataset {asked}: {root} holds no {CIFARS[asked][0]}; leave --dataset out."
            )
        return asked
    prefix = recipe.partition("/")[0]
    if len(found) > 1 and prefix not in found:
        raise InputError(f"{root} holds both {' and '.join(found)}; choose one with --dataset.")
    return prefix if prefix in found else next(iter(found), None)


def _labels(args: argparse.Namespace, recipe: str) -> tuple[Tensor, list[str], str]:
    """Labels, class names and fingerprint of the training images, as the datamodule has them."""
    root = args.root
    cifar = _cifar(root, args.dataset, recipe)
    if root.endswith(".txt"):
        images = read_list(root)
        classes = [str(label) for label in range(int(images.labels.max()) + 1)]
        fingerprint = splits.pool_fingerprint(images.names, images.labels)
        return images.labels, classes, fingerprint
    if cifar is not None:
        pool = CIFARS[cifar][1](root, download=False).pool()
    else:
        pool = folder_pool(open_reader(root, "--root DIR"))
    rows, test = pool.parts(args.test_share)
    if pool.test is None:
        print(
            f"held out   {len(test)} test images, as ImageFolderLT does (test_share "
            f"{args.test_share:g}); {len(rows)} are left to choose from"
        )
    return pool.labels[rows], pool.classes, pool.fingerprint_of(rows)


def make(args: argparse.Namespace) -> None:
    if (args.recipe is None) == (args.profile is None):
        raise InputError("name a recipe, or a profile with --profile; `bcl split --list`.")
    if args.recipe is not None:
        refuse(args, f"recipe '{args.recipe}'", "imbalance_factor", "max_per_class", "class_order")
    elif args.profile in FIXED_PROFILES:
        refuse(args, f"profile '{args.profile}'", "imbalance_factor")
    if args.root is None:
        if args.recipe is None:
            raise InputError("a profile needs the data's class sizes: give --root.")
        if args.save:
            raise InputError("to choose images and save them, give the data with --root.")
        chosen = recipes.recipe(args.recipe)
        print(f"recipe     {chosen.name} ({chosen.source})")
        _show(list(chosen.counts), args.svg, chosen.name, None)
        print("the images are chosen where the data is: give --root")
        return
    own = {name: getattr(args, name) for name in DEFAULTS if getattr(args, name) is not None}
    module = PoolDataModule(recipe=args.recipe, test_share=args.test_share, **own)
    labels, classes, fingerprint = _labels(args, args.recipe or "")
    _report(module.split(labels, classes, fingerprint), args, classes)


def refuse(args: argparse.Namespace, what: str, *names: str) -> None:
    """Refuse options that were given but go without effect, because ``what`` is given."""
    given = [name for name in names if getattr(args, name) is not None]
    recipes.check_no_effect(what, (f"--{name.replace('_', '-')}" for name in given))


def inspect(args: argparse.Namespace) -> None:
    if args.file.endswith(".txt"):
        images = read_list(args.file)
        if args.root or args.save:
            raise InputError("a list file holds its own labels; leave --root and --save out.")
        counts = torch.bincount(images.labels).tolist()
        fingerprint = splits.pool_fingerprint(images.names, images.labels)
        print(f"recipe     list file {images.path.name}\nhash       {fingerprint}")
        _show(counts, args.svg, images.path.name, None)
        return
    split = splits.load_split(args.file)
    classes = None
    if args.root:
        labels, classes, fingerprint = _labels(args, split.recipe)
        split = splits.with_labels(split, labels, len(classes), fingerprint)
    _report(split, args, classes)


def _report(split: splits.Split, args: argparse.Namespace, classes: list[str] | None) -> None:
    print(f"recipe     {split.recipe}")
    print(f"hash       {split.content_hash}")
    print(f"index hash {split.index_hash}")
    if split.counts is None:
        print(f"total      {len(split)}")
        print(f"indices    {int(split.indices.min())} to {int(split.indices.max())}")
        print("classes    unknown; give the data with --root")
        if args.svg:
            raise InputError("a histogram needs the labels: give the data with --root.")
    else:
        _show(split.counts, args.svg, split.recipe, classes)
    if args.save:
        splits.save_split(split, args.save)
        print(f"saved      {args.save}")


def _show(counts: list[int], svg: str | None, title: str, names: list[str] | None) -> None:
    print(f"total      {sum(counts)}")
    print(f"classes    {len(counts)}, largest {max(counts)}, smallest {min(counts)}")
    empty = [index for index, count in enumerate(counts) if count == 0]
    if empty:
        print(f"empty      {len(empty)} class(es): {listed(list(map(str, empty)))}")
    print()
    print(histogram_text(counts, names))
    if svg:
        if Path(svg).suffix != ".svg":
            raise InputError(f"{svg}: the histogram is written as .svg.")
        from bcl.report.charts import class_histogram

        write_text(svg, class_histogram(counts, f"{title}: {sum(counts)} images", names) + "\n")
        print(f"\nhistogram  {svg}")


def _two(*files: str) -> tuple[splits.Split, splits.Split]:
    """Two splits, or two list files as splits of all images that they name."""
    lists = [file.endswith(".txt") for file in files]
    if not any(lists):
        first, second = map(splits.load_split, files)
        return first, second
    if not all(lists):
        raise InputError("compare a list file (.txt) with a list file, an index file with another.")
    one, other = map(read_list, files)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(one.names + other.names))}
    classes = int(max(one.labels.max(), other.labels.max())) + 1

    def as_split(rows: ImageList) -> splits.Split:
        indices = torch.tensor([numbers[name] for name in rows.names])
        return splits.Split(indices, rows.labels, classes, f"list file {rows.path.name}")

    return as_split(one), as_split(other)


def compare(args: argparse.Namespace) -> None:
    one, other = _two(*args.files)
    found = splits.compare(one, other)
    for file, split in zip(args.files, (one, other), strict=True):
        print(f"{file}\n  {len(split)} images, index hash {split.index_hash}, {split.recipe}")
    same = "the same images" if found["same"] else f"{found['common']} images in common"
    order = "" if not found["same"] or found["same_order"] else ", in another order"
    print(f"{same}{order}")
    if found["classes_that_differ"]:
        differ = [str(label) for label in found["classes_that_differ"]]
        print(f"counts differ in {len(differ)} class(es): {listed(differ, 20)}")
