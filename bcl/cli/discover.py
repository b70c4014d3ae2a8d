"""``bcl discover``: what is rare in a collection, as a page and a table."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcl.cli import embed
from bcl.cli.output import check_seed, default_out
from bcl.core.errors import InputError
from bcl.core.progress import rows, say

if TYPE_CHECKING:
    from bcl.discovery.table import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bcl discover``."""
    add = parser.add_argument
    add(
        "encoder",
        metavar="FILE",
        help=f"embedding of 'bcl embed', .parquet or .npz; or {embed.HINT}",
    )
    add("source", nargs="?", metavar="SOURCE", help="the images (default: those of the run)")
    add(
        "--out",
        metavar="DIR",
        help="folder for the page and the tables (default: discovery, beside the embedding)",
    )
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
    from bcl.discovery.table import FORMATS, labels_in_order, read_labels, read_table

    out = Path(args.out or default_out(args.encoder, "discovery"))
    check_seed(args.seed)
    options = DiscoverOptions(
        clusters=args.clusters,
        projection=args.map,
        rarest=args.rarest,
        label_first=args.label_first,
        duplicate_share=args.duplicates,
        seed=args.seed,
        progress=lambda step: say(f"finding {step}", sys.stderr),
    )
    check_folder(out)
    file = Path(args.encoder)
    embeds = file.suffix not in FORMATS
    if not args.overwrite:
        _check_new(out, embeds)
    labels = read_labels(args.labels) if args.labels else {}
    if embeds:
        file = out / "embedding.parquet"
        embed.write(args, file)
        args.source = None  # the table has all that is needed of it
    table = read_table(file)
    given = labels_in_order(labels, table.paths) if labels else None
    read = _reader(args.source, table, file) if args.source else None
    page = discover(table, out, options, given, read, args.title)
    folder = f"{out} (discover.html, discover.parquet, label_first.csv)"
    print(rows({"images": f"{len(table):,}", "folder": folder, "next": f"open {page}"}))
    return 0


def _check_new(out: Path, embeds: bool) -> None:
    """Refuse a folder that holds the files of an earlier call."""
    other = "name another --out, or pass --overwrite."
    if (out / "discover.html").exists():
        raise InputError(f"{out} holds a page; {other}")
    if embeds and (file := out / "embedding.parquet").exists():
        raise InputError(
            f"{out} holds an embedding; bcl discover {file} --out {out} goes on with it. Or {other}"
        )


def _reader(source: str, table: "Table", file: Path) -> Any:
    """A function that reads the images of a table."""
    from bcl.cli.sources import is_encoder
    from datamodules import ImageCollection

    if is_encoder(source):
        raise InputError(
            f"{file} holds features already, of {table.about.get('encoder') or 'an encoder'}; "
            f"leave {source} out, or embed the images with it: bcl discover {source} IMAGES."
        )
    images = ImageCollection(source, image_size=64, storage="files").sets.train
    if images.names() != table.paths:
        raise InputError(
            f"{source} holds other images than {file} ({len(images):,} and {len(table):,}); name "
            "the folder that was embedded, or embed it again."
        )
    return images.images
