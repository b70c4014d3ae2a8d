"""``bcl pack``: write a data set as shards for training past one machine's memory."""

import argparse
from pathlib import Path

from bcl.cli.output import new_folder
from bcl.errors import InputError
from datamodules.base import LongTailedDataModule
from datamodules.folder import ImageFolderLT
from datamodules.lists import ImageListLT
from datamodules.shards import files_module, pack, read_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("root", help="folder or zip archive of pictures")
    parser.add_argument("--out", required=True, help="folder to write; for --data.root of ShardsLT")
    parser.add_argument("--train-list", help="list of `path label` rows; class folders without it")
    parser.add_argument("--probe-list", help="balanced list for linear probes")
    parser.add_argument("--test-list", help="test list")
    parser.add_argument(
        "--imbalance-factor",
        type=float,
        help="make class folders long-tailed; all pictures are packed as they are if not given",
    )
    parser.add_argument("--recipe", help="named subset of class folders (bcl split --list)")
    parser.add_argument("--split-file", help="index file or saved split of class folders")
    parser.add_argument("--split-seed", type=int, default=0, help="which random subset")
    parser.add_argument("--shard-mb", type=float, default=64.0, help="MiB of a shard")
    parser.add_argument("--max-side", type=int, help="shrink the shorter side to so many pixels")
    parser.add_argument("--train-only", action="store_true", help="leave probe and test set out")
    parser.add_argument("--on-bad-image", choices=("raise", "skip"), default="raise")
    parser.add_argument("--cache-dir", help="where the scan of the pictures is kept")
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
            f"{name:<6}  {part['total']:,} pictures in {len(part['shards'])} shard(s), "
            f"{size / 2**20:,.1f} MiB, hash {part['content_hash']}"
        )
    for note in manifest["notes"]:
        print(f"note    {note}")
    print(f"packed  {args.out}")
    return 0


def _module(args: argparse.Namespace) -> LongTailedDataModule:
    if args.train_list is None:
        if args.probe_list or args.test_list:
            raise InputError("--probe-list and --test-list go with --train-list.")
        return ImageFolderLT(
            args.root,
            imbalance_factor=args.imbalance_factor,
            recipe=args.recipe,
            split_file=args.split_file,
            split_seed=args.split_seed,
            storage="files",
            on_bad_image=args.on_bad_image,
            cache_dir=args.cache_dir,
        )
    if args.recipe or args.split_file or args.imbalance_factor is not None:
        raise InputError(
            "a list names its pictures itself; leave --recipe, --split-file and "
            "--imbalance-factor out."
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
