"""Images without labels, wherever they lie: all of them are trained on."""

import statistics
from pathlib import Path
from typing import Any

import torch

from bcl.core.errors import InputError
from datamodules.base import Sets
from datamodules.images.cache import default_cache
from datamodules.images.collected import Collected, collect, shorter_side
from datamodules.pool import FilesDataModule, OnBadImage, Pool, counted
from datamodules.tail.balance import listed


class ImageCollection(FilesDataModule):
    """A collection of images without labels; every readable image is trained on.

    An image's id is its place among the sorted relative paths. Images of any mode are read, turned
    as EXIF says, to a shorter side of ``image_size``; in each epoch another square of the longer
    side makes the views, drawn by (seed, epoch, id). Unreadable images are left out,
    counted on standard error and listed with the reason in `unreadable`.

    Args:
        root: a folder of any depth, a zip or tar archive, a list of paths (lines of a .txt, a
            column of a .csv, .tsv or .parquet file), a data set that ``datasets`` saved,
            ``hf:NAME`` of the hub; or several of them.
        on_bad_image: ``"skip"`` or ``"refuse"``.
        path_column: column of a table that holds the paths.
        options: those of `FilesDataModule`.

    Raises:
        InputError: no image, no readable image, or a bad argument.

    Example:
        >>> import tempfile
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

    def __init__(
        self,
        root: str | list[str],
        on_bad_image: OnBadImage = "skip",
        path_column: str = "path",
        **options: Any,
    ) -> None:
        super().__init__(on_bad_image=on_bad_image, **options)
        self.roots = list(root) if isinstance(root, list | tuple) else [root]
        self.path_column = path_column
        if not self.roots:
            raise InputError("root names no folder; give one, or several.")

    def collected(self) -> Collected:
        """All images that are there, readable or not."""
        cache = default_cache() if self.cache_dir is None else Path(self.cache_dir).expanduser()
        found = collect(self.roots, self.path_column, cache)
        if not found.names:
            others = found.left_out.most_common(10)
            beside = listed([counted(count, kind) for kind, count in others])
            raise InputError(
                f"{listed(list(map(str, self.roots)))} holds "
                f"{'no image, but ' + beside if beside else 'no file'}; give a folder of images."
            )
        return found

    def glimpse(self, most: int = 256) -> tuple[int, int]:
        """Number of images, and the median of the shorter sides of at most so many in pixels."""
        found = self.collected()
        sample = found.names[:: -(-len(found.names) // most)]
        sides = list(filter(None, (shorter_side(found.reader, name) for name in sample)))
        return len(found.names), int(statistics.median(sides)) if sides else 0

    def build(self) -> Sets:
        """List the images and open those that can be read."""
        found = self.collected()
        reader, others = found.reader, dict(found.left_out.most_common(10))
        title = reader.root.name or reader.root.absolute().name
        unknown = torch.full((len(found.names),), -1)
        return self.unlabeled(Pool(title, found.names, unknown, [], reader=reader, left_out=others))
