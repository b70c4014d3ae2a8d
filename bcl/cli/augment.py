"""``bcl augment``: look at what a score does to images."""

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING

from bcl.core.errors import InputError
from bcl.core.files import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_MARGIN = 14  # pixels of the line of labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw a grid: rows are images and columns scores from 0 to 1; with --ops, rows are ops "
        "and columns magnitudes from 0 to 30."
    )
    parser.add_argument(
        "--images", required=True, metavar="DIR", help="folder or archive of images"
    )
    parser.add_argument("--out", metavar="PNG", help="image to write (default: augment.png)")
    parser.add_argument("--count", type=int, default=6, help="images to show (default 6)")
    parser.add_argument("--size", type=int, default=96, help="side of a view (default 96)")
    parser.add_argument("--columns", type=int, default=6, help="scores or magnitudes (default 6)")
    parser.add_argument("--ops", action="store_true", help="one row per op, for the first image")
    parser.add_argument("--scheme", default="bcl-i", help="bcl-i, bcl-d or imagenet")
    parser.add_argument("--policy", default="reference", help="reference or monotone")
    parser.add_argument(
        "--whole", action="store_true", help="boosted ops alone, without crop, flip and jitter"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default 0)")


def run(args: argparse.Namespace) -> int:
    import torch

    from bcl.augment.boost import BoostedRandAugment
    from bcl.augment.grid import op_grid, score_grid, tile
    from bcl.augment.policy import OPS
    from bcl.augment.sampling import ChainSettings
    from bcl.augment.views import ContrastiveViews
    from bcl.core.checks import check_count

    check_count("--columns", args.columns, at_least=2)
    check_count("--count", args.count)
    out = Path(args.out or "augment.png")
    if out.suffix.lower() != ".png" or out.is_dir():
        raise InputError(f"--out must name a .png file to write, got '{out}'.")
    boost = BoostedRandAugment(args.scheme, args.policy)
    images = _load(args.images, args.count, args.size)
    if args.ops:
        steps = torch.linspace(0, 30, args.columns).tolist()
        grid = op_grid(images[0], steps, args.policy)
        rows, columns = list(OPS), [f"m {step:g}" for step in steps]
    else:
        steps = torch.linspace(0, 1, args.columns).tolist()
        chain = ChainSettings()
        if args.whole:
            chain = ChainSettings(
                scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_probability=0.0,
                color_jitter_probability=0.0, grayscale_probability=0.0,
            )  # fmt: skip
        views = ContrastiveViews(args.size, chain=chain, boost=boost, seed=args.seed)
        grid = score_grid(images, views, steps)
        rows, columns = [], [f"score {step:.1f}" for step in steps]
    sheet = _label(tile(grid), rows, columns, args.size)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    atomic_write(out, lambda file: file.write(buffer.getvalue()))
    print(f"{out}: {grid.shape[0]} rows, {grid.shape[1]} columns")
    return 0


def _load(root: str, count: int, size: int) -> "Tensor":
    """(count, 3, size, size) uint8: center squares of images spread evenly over the folder."""
    import torch

    from datamodules.images.decode import decode
    from datamodules.images.readers import is_image, open_reader

    reader = open_reader(root, "--images DIR")
    names = [name for name in reader.names() if is_image(name)]
    if not names:
        raise InputError(f"--images: no images in '{root}'; give a folder that holds some.")
    count = min(count, len(names))
    images = []
    for name in (names[i * len(names) // count] for i in range(count)):
        try:
            images.append(torch.from_numpy(decode(reader.read(name), size)))
        except OSError as error:
            raise InputError(f"--images: '{name}' cannot be read as an image ({error}).") from None
    return torch.stack(images)


def _label(sheet: "Tensor", rows: list[str], columns: list[str], size: int) -> "Image":
    """Write the columns' names above the sheet and the rows' names to its left."""
    from PIL import Image, ImageDraw

    image = Image.frombytes(
        "RGB", (sheet.shape[2], sheet.shape[1]), bytes(sheet.permute(1, 2, 0).flatten().tolist())
    )
    left = 90 if rows else 0
    page = Image.new("RGB", (image.width + left, image.height + _MARGIN), "white")
    page.paste(image, (left, _MARGIN))
    draw = ImageDraw.Draw(page)
    for i, name in enumerate(columns):
        draw.text((left + 2 + i * (size + 2), 1), name, fill="black")
    for i, name in enumerate(rows):
        draw.text((2, _MARGIN + i * (size + 2) + size // 2 - 4), name, fill="black")
    return page
