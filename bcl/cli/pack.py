"""``bcl pack``: write a data set as Arrow files for training beyond one machine's memory."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcl.cli.output import default_out, new_folder
from bcl.core.errors import InputError
from bcl.core.progress import Progress

if TYPE_CHECKING:
    from datamodules.pool import FilesDataModule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="DIR", help="folder or zip archive of images")
    parser.add_argument(
        "--out", help="folder to write (default: outputs/NAME/packed); --data.root of PackedLT"
    )
    parser.add_argument("--train-list", help="list of `path label` rows; class folders without it")
    parser.add_argument(
        "--unlabeled", action="store_true", help="all images of a collection without labels"
    )
    parser.add_argument("--probe-list", help="balanced list for linear probes")
    parser.add_argument("--test-list", help="test list")
    parser.add_argument(
        "--imbalance-factor",
        type=float,
        help="make class folders long-tailed; without it, all images are packed",
    )
    parser.add_argument("--recipe", help="named subset of class folders (bcl split --list)")
    parser.add_argument("--split-file", help="index file or saved split of class folders")
    parser.add_argument("--split-seed", type=int, help="which random subset (0)")
    parser.add_argument(
        "--shard-mb",
        type=float,
        default=64.0,
        help="size of an Arrow file in MiB, at most 2000 (64)",
    )
    parser.add_argument("--max-side", type=int, help="shrink the shorter side to this many pixels")
    parser.add_argument("--train-only", action="store_true", help="leave probe and test set out")
    parser.add_argument("--on-bad-image", choices=("refuse", "skip"))
    parser.add_argument("--cache-dir", help="where the scan of the images is cached")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")


def run(args: argparse.Namespace) -> int:
    """Scan, pack, read back."""
    from datamodules.packed import MANIFEST, PARTS, pack

    data, out = _datamodule(args), args.out or default_out(args.root, "packed")
    with new_folder(out, args.overwrite, marker=MANIFEST) as work:
        manifest = pack(
            data,
            work,
            shard_mb=args.shard_mb,
            max_side=args.max_side,
            parts=("train",) if args.train_only else PARTS,
            progress=Progress(),
        )
    print(f"recipe  {manifest['recipe']}")
    for name, part in manifest["parts"].items():
        images, size = (sum(file[key] for file in part["files"]) for key in ("images", "bytes"))
        print(
            f"{name:<6}  {images:,} images in {len(part['files'])} file(s), "
            f"{size / 2**20:,.1f} MiB, hash {part['content_hash']}"
        )
    for note in manifest["notes"]:
        print(f"note    {note}")
    print(f"packed  {Path(out)}")
    return 0


def _datamodule(args: argparse.Namespace) -> "FilesDataModule":
    """The images that the options name, read one by one so that they keep their bytes."""
    from bcl.cli.splitting import refuse
    from datamodules import ImageCollection, ImageFolderLT, ImageListLT
    from datamodules.images.readers import open_reader

    options: dict[str, Any] = {"cache_dir": args.cache_dir, "storage": "files"}
    if args.on_bad_image is not None:
        options["on_bad_image"] = args.on_bad_image
    if args.unlabeled:
        made_by = ("train_list", "recipe", "split_file", "imbalance_factor", "split_seed")
        refuse(args, "--unlabeled", *made_by)
        return ImageCollection(args.root, **options)
    open_reader(args.root, "bcl pack DIR")
    if args.train_list is not None:
        refuse(args, "--train-list", "recipe", "split_file", "imbalance_factor", "split_seed")
        lists = (args.train_list, args.probe_list, args.test_list)
        return ImageListLT(args.root, *lists, **options)
    if args.probe_list or args.test_list:
        raise InputError(
            "--probe-list and --test-list need --train-list; add it, or leave them out."
        )
    if args.recipe is not None:
        refuse(args, "--recipe", "imbalance_factor")
    elif args.split_file is not None:
        refuse(args, "--split-file", "imbalance_factor", "split_seed")
    elif args.imbalance_factor is None and args.split_seed is not None:
        raise InputError(
            "--split-seed has no effect without --imbalance-factor or --recipe; leave it out."
        )
    return ImageFolderLT(
        args.root,
        args.imbalance_factor,
        recipe=args.recipe,
        split_file=args.split_file,
        split_seed=args.split_seed or 0,
        **options,
    )
