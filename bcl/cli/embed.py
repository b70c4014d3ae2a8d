"""``bcl embed``: the features of every image of a collection, as a table."""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from bcl.cli.output import default_out
from bcl.core.errors import InputError, Interrupted
from bcl.core.machine import usable_device
from bcl.core.progress import Progress, rows, say

HINT = "a run's folder, a checkpoint, an exported encoder or timm:NAME"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bcl embed``."""
    add = parser.add_argument
    add("encoder", metavar="ENCODER", help=HINT)
    add("source", nargs="?", metavar="SOURCE", help="images (default: those of the run)")
    add(
        "--out",
        metavar="FILE",
        help=".parquet, .npz or .csv (default: embedding.parquet, in the run's folder)",
    )
    add("--overwrite", action="store_true", help="replace an existing file")
    add_encoding(parser)


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """Declare how images are encoded, for ``bcl discover`` too."""
    add = parser.add_argument
    add("--size", type=int, metavar="PX", help="height and width (default: the encoder's)")
    add("--batch-size", type=int, default=128, help="images encoded at a time")
    add("--device", help="cpu, cuda, cuda:1 (default: cuda if available)")
    add("--devices", type=int, default=1, help="processes, each on a GPU of its own if there are")
    add("--workers", type=int, help="processes that decode images (default: one per core)")
    add("--precision", default="float32", choices=("float32", "bfloat16"), help="of the encoder")
    add("--float16", action="store_true", help="store half the bytes per feature")
    add("--no-thumbnails", action="store_true", help="store no small images")


def run(args: argparse.Namespace) -> int:
    """Embed and say what comes next."""
    from bcl.discovery.embedding import check_out

    out = Path(args.out or default_out(args.encoder, "embedding.parquet"))
    check_out(out, args.overwrite)
    try:
        count = write(args, out)
    except KeyboardInterrupt:
        text = "interrupted; the same command goes on after the parts that are written"
        raise Interrupted(text, signal.SIGINT) from None
    step = None if out.suffix == ".csv" else f"bcl discover {out}"  # other programs read that
    print(rows({"embedding": f"{out} ({count:,} images)", "next": step}))
    return 0


def write(args: argparse.Namespace, out: str | Path) -> int:
    """Embed with the options of the command line; return the number of images."""
    from torch.multiprocessing.spawn import ProcessRaisedException, spawn

    from bcl.core.checks import check_count
    from bcl.core.machine import device_text
    from bcl.discovery.embedding import embed, join_parts, open_parts

    check_count("--devices", args.devices)
    if args.workers is not None:
        check_count("--workers", args.workers, at_least=0)
    if args.size is not None:
        check_count("--size", args.size, at_least=3)
    images, options, extra, encoder = _open(args)
    header = {
        "images": f"{len(images):,}",
        "encoder": f"{encoder.about} ({encoder.parameters:,} parameters)",
        "device": f"{device_text(options.device, args.devices)}, precision {args.precision}",
        "file": out,
    }
    say(rows(header), sys.stderr)
    if args.devices == 1:
        embed(encoder.encode, images, out, options, extra, overwrite=True)
        return len(images)
    parts = open_parts(Path(out), images, options, extra)
    try:
        spawn(_write_share, (args, parts), args.devices)  # type: ignore[no-untyped-call]
    except ProcessRaisedException as error:
        raise InputError(f"a process failed: {str(error).strip().splitlines()[-1]}") from None
    join_parts(parts, Path(out), len(images), extra.about)
    return len(images)


def _write_share(number: int, args: argparse.Namespace, parts: Path) -> None:
    """Write the parts of one process."""
    import torch

    from bcl.discovery.embedding import write_parts

    if args.device is None and torch.cuda.is_available():
        args.device = f"cuda:{number % torch.cuda.device_count()}"
    images, options, extra, encoder = _open(args)
    write_parts(encoder.encode, images, parts, options, extra, (number, args.devices))


def _open(args: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """Images, options, what is known of the images, and the encoder."""
    import torch

    from bcl.cli.sources import open_encoder, open_images
    from bcl.discovery.embedding import EmbedOptions

    device = usable_device(args.device)
    encoder = open_encoder(args.encoder, device, args.size)
    images, extra = open_images(args.source, encoder, args.workers)
    options = EmbedOptions(
        batch_size=args.batch_size,
        device=device,
        autocast=torch.bfloat16 if args.precision == "bfloat16" else None,
        half=args.float16,
        thumbnails=not args.no_thumbnails,
        progress=Progress(),
    )
    return images, options, extra, encoder
