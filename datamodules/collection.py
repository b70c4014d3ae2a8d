"""Images without labels, wherever they lie: all of them are trained on."""

import sys
from collections import Counter
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only

from bcl.core.errors import InputError
from datamodules.base import Sets
from datamodules.images.readers import is_image, kind_of, open_reader
from datamodules.pool import FilesDataModule, OnBadImage, Pool
from datamodules.tail.balance import listed


class ImageCollection(FilesDataModule):
    """A collection of images without labels; every readable image is trained on.

    An image's id is its place among the sorted relative paths. Images of any mode are read, turned
    as EXIF says, to a shorter side of ``image_size``; in each epoch another square of the longer
    side makes the views, drawn by (seed, epoch, id). Unreadable images are left out,
    counted on standard error and listed with the reason in `unreadable`.

    Args:
        root: a folder of any depth.
        on_bad_image: ``"skip"`` or ``"refuse"``.
        options: those of `FilesDataModule`.

    Raises:
        InputError: no image, no readable image, or a bad argument.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("2021/b.png", "a.jpg"):
        ...     (root / name).parent.mkdir(exist_ok=True)
        ...     Image.new("RGB", (8, 8)).save(root / name)
        >>> data = ImageCollection(str(root), batch_size=2, cache_dir=str(root / ".cache"))
        >>> data.num_samples, data.names()
        (2, ['2021/b.png', 'a.jpg'])
    """

    whole = True

    def __init__(self, root: str, on_bad_image: OnBadImage = "skip", **options: Any) -> None:
        super().__init__(on_bad_image=on_bad_image, **options)
        self.root = root

    def build(self) -> Sets:
        """List the images and open those that can be read."""
        reader = open_reader(self.root)
        names = reader.names()
        images = list(filter(is_image, names))
        others = Counter(kind_of(name) for name in names if not is_image(name))
        if not images:
            found = listed([f"{count:,} {kind}" for kind, count in others.most_common(5)])
            raise InputError(
                f"{reader.root} holds no image, but {found or 'nothing'}; give a folder of images: "
                "--data.root DIR."
            )
        title = reader.root.name or reader.root.absolute().name
        unknown = torch.full((len(images),), -1)
        left_out = dict(others.most_common(10))
        return self.open_unlabeled(
            Pool(title, images, unknown, [], reader=reader, left_out=left_out)
        )

    def open_unlabeled(self, pool: Pool) -> Sets:
        """All readable images as the training set."""
        data, kept, _ = self.open_pool(pool)
        if not len(data):
            why = listed([f"{name}: {why}" for name, why in kept.unreadable], 3)
            raise InputError(
                f"{pool.title}: none of the {len(pool.names):,} images can be read ({why})."
            )
        reasons = [f"{count:,} {why}" for why, count in kept.left_out.items()]
        left_out = f"; left out: {', '.join(reasons)}" if reasons else ""
        summary = f"{pool.title}: training on all {len(data):,} readable images{left_out}"
        rank_zero_only(print)(summary, file=sys.stderr, flush=True)
        notes = [f"left out {why}" for why in reasons]
        recipe = f"{pool.title}, all images, no labels: {len(data)} images"
        return Sets(data, data, None, [], recipe, notes, unreadable=kept.unreadable)
