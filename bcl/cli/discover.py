"""``bcl discover``: what is rare in a collection, as a page and a table."""

import argparse
import sys
from pathlib import Path
from typing import Any

from bcl.cli import embed
from bcl.cli.sources import HINT
from bcl.core.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bcl discover``."""
    add = parser.add_argument
    add(
        "encoder",
        metavar="FILE",
        help=f"embedding of 'bcl embed', .parquet or .npz; or {HINT}",
    )
    add("source", nargs="?", metavar="SOURCE", help="the images (default: those of the run)")
    add("--out", required=True, metavar="DIR", help="folder for the page and the tables")
    add("--labels", metavar="FILE", help="CSV path,label of all images or some: is the tail found?")
    add("--clusters", type=int, metavar="N", help="number of clusters (default: by silhouette)")
    add("--map", default="tsne", help="tsne, pca or umap (default: %(default)s)")
    add("--rarest", type=int, default=24, help="images per signal (default: %(default)s)")
    add("--label-first", type=int, default=50, metavar="N", help="proposed (default: %(default)s)")
    add("--duplicates", type=float, default=0.1, metavar="SHARE",
        help="of the distance to the 10th neighbor: below, images are copies "
        "(default: %(default)s)")  # fmt: skip
    add("--title", help="heading (default: the folder's name)")
    add("--seed", type=int, default=0)
    add("--overwrite", action="store_true", help="replace the files of an earlier call")
    embed.add_encoding(parser)


def run(args: argparse.Namespace) -> int:
    """Embed if need be, find and write the page."""
    from bcl.discovery.findings import DiscoverOptions
    from bcl.discovery.page import check_folder, discover
    from bcl.discovery.table import read_labels, read_table

    out = Path(args.out)
    options = DiscoverOptions(
        clusters=args.clusters,
        projection=args.map,
        rarest=args.rarest,
        label_first=args.label_first,
        duplicate_share=args.duplicates,
        seed=args.seed,
        progress=lambda step: print(f"finding {step}", file=sys.stderr, flush=True),
    )
    check_folder(out)
    if (out / "discover.html").exists() and not args.overwrite:
        raise InputError(f"{out} holds a page; name another --out, or pass --overwrite.")
    file = Path(args.encoder)
    if file.suffix not in (".parquet", ".npz"):
        file = out / "embedding.parquet"
        embed.write(args, file)
        args.source = None  # the table has all that is needed of it
    table = read_table(file)
    labels = read_labels(args.labels, table.paths) if args.labels else None
    read = _reader(args.source, table.paths, file) if args.source else None
    page = discover(table, out, options, labels, read, args.title)
    print(f"{page}: {len(table):,} images")
    print(f"{page.with_suffix('.parquet')}, {out / 'label_first.csv'}")
    return 0


def _reader(source: str, paths: list[str], file: Path) -> Any:
    """A function that reads the images of a table."""
    from datamodules import ImageCollection

    images = ImageCollection(source, image_size=64, storage="files").sets.train
    if images.names() != paths:
        raise InputError(
            f"{source} holds other images than {file} ({len(images):,} and {len(paths):,}); name "
            "the folder that was embedded, or embed it again."
        )
    return images.images
