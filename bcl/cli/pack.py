"""``bcl pack``: write a data set as shards for training past one machine's memory."""

import argparse
from pathlib import Path

from bcl.cli.output import new_folder
from bcl.core.errors import InputError
from datamodules.base import LongTailedDataModule
from datamodules.folder import ImageFolderLT
from datamodules.images.readers import check_root
from datamodules.lists import ImageListLT
from datamodules.manifest import read_manifest
from datamodules.shards import MOST_SHARD_MB, files_module, pack


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("root", help="folder or zip archive of images")
    parser.add_argument("--out", required=True, help="folder to write; for --data.root of ShardsLT")
    parser.add_argument("--train-list", help="list of `path label` rows; class folders without it")
    parser.add_argument("--probe-list", help="balanced list for linear probes")
    parser.add_argument("--test-list", help="test list")
    parser.add_argument(
        "--imbalance-factor",
        type=float,
        help="make class folders long-tailed; all images are packed as they are if not given",
    )
    parser.add_argument("--recipe", help="named subset of class folders (bcl split --list)")
    parser.add_argument("--split-file", help="index file or saved split of class folders")
    parser.add_argument("--split-seed", type=int, help="which random subset (0)")
    parser.add_argument(
        "--shard-mb", type=float, default=64.0, help=f"MiB of a shard, at most {MOST_SHARD_MB}"
    )
    parser.add_argument("--max-side", type=int, help="shrink the shorter side to so many pixels")
    parser.add_argument("--train-only", action="store_true", help="leave probe and test set out")
    parser.add_argument("--on-bad-image", choices=("raise", "skip"), default="raise")
    parser.add_argument("--cache-dir", help="where the scan of the images is kept")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")


def run(args: argparse.Namespace) -> int:
    """Scan, pack, read back."""
    data = _module(args)
    with new_folder(args.out, args.overwrite, marker="shards.json") as work:
        parts = ("train",) if args.train_only else ("train", "probe", "test")
        pack(data, work, shard_mb=args.shard_mb, max_side=args.max_side, parts=parts)
    manifest = read_manifest(Path(args.out))
    print(f"recipe  {manifest['recipe']}")
    for name, part in manifest["parts"].items():
        size = sum(shard["bytes"] for shard in part["shards"])
        print(
            f"{name:<6}  {part['total']:,} images in {len(part['shards'])} shard(s), "
            f"{size / 2**20:,.1f} MiB, hash {part['content_hash']}"
        )
    for note in manifest["notes"]:
        print(f"note    {note}")
    print(f"packed  {args.out}")
    return 0


def _module(args: argparse.Namespace) -> LongTailedDataModule:
    check_root(args.root, "bcl pack DIR")
    if args.train_list is None:
        if args.probe_list or args.test_list:
            raise InputError("--probe-list and --test-list go with --train-list.")
        _refuse_unused(args)
        return ImageFolderLT(
            args.root,
            imbalance_factor=args.imbalance_factor,
            recipe=args.recipe,
            split_file=args.split_file,
            split_seed=args.split_seed or 0,
            storage="files",
            on_bad_image=args.on_bad_image,
            cache_dir=args.cache_dir,
        )
    own = (args.recipe, args.split_file, args.imbalance_factor, args.split_seed)
    if any(value is not None for value in own):
        raise InputError(
            "a list names its images itself; leave --recipe, --split-file, --imbalance-factor "
            "and --split-seed out."
        )
    return files_module(
        ImageListLT(
            args.root,
            args.train_list,
            args.probe_list,
            args.test_list,
            on_bad_image=args.on_bad_image,
            cache_dir=args.cache_dir,
        )
    )


def _refuse_unused(args: argparse.Namespace) -> None:
    """Refuse options that the subset which is asked for does not read."""
    fixed = "--recipe" if args.recipe else "--split-file" if args.split_file else None
    if fixed and args.imbalance_factor is not None:
        raise InputError(
            f"{fixed} says how many images each class has, so --imbalance-factor would have no "
            "effect; leave one of the two out."
        )
    random = args.recipe is not None or args.imbalance_factor is not None
    if args.split_seed is not None and not random:
        raise InputError(
            "--split-seed chooses the images of --imbalance-factor or --recipe; without one of "
            "these it would have no effect. Leave it out."
        )
