"""Images by position, in memory or in files, with labels where there are any."""

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.hashing import fingerprint
from bcl.core.random import uniform
from bcl.core.text import shown
from datamodules.images.decode import digest_of, square_at
from datamodules.images.files import ImageFiles, Mapped, Places

Batch = dict[str, Tensor]
# Keeps the places of squares apart from other random numbers.
_SQUARE_STREAM = 0x50A2


class WholeImages:
    """N decoded images of one shorter side in a block of bytes, read as squares.

    Args:
        pixels: uint8 (bytes,), the (3, h, w) images one after the other.
        sides: (N, 2) int64 rows and columns.
        size: S, the shorter side.
    """

    whole = True

    def __init__(self, pixels: Tensor, sides: Tensor, size: int) -> None:
        self.pixels, self.sides, self.size = pixels, sides, size
        self._ends = (3 * sides.prod(1)).cumsum(0)  # (N,)

    def __len__(self) -> int:
        return len(self.sides)

    def to(self, device: torch.device) -> "WholeImages":
        """The same images on a device."""
        return WholeImages(self.pixels.to(device), self.sides, self.size)

    def read(self, places: Places) -> Tensor:
        """A square of each: uint8 (n, 3, S, S)."""
        rows = places.rows.cpu()
        squares = []
        table = zip(
            self._ends[rows].tolist(), self.sides[rows].tolist(), places.along.tolist(), strict=True
        )
        for end, (height, width), along in table:
            image = self.pixels[end - 3 * height * width : end].view(3, height, width)
            squares.append(square_at(image, self.size, along))
        return torch.stack(squares)


class ImageDataset:
    """Images in a fixed order, with or without labels; an image's id is its position here.

    Args:
        images: uint8 (N, 3, S, S), whole images, or files that are decoded when they are read.
        labels: (N,) integer classes, -1 where unknown; all are unknown if not given.
        name: identifies the images in `content_hash`; a hash of their pixels if not given.
        content_hash: hash of the set, if not computed from its names.
        digests: (N,) int64 hashes of the images' files, if known.
        blocks: sizes of the consecutive blocks that the images are stored in; batches then read
            few blocks at a time.
        names: N file names; the positions if not given.
        origin: the files that the images in memory were decoded from, if any.
        mapped: the file that the images in memory are pages of, if any.

    Raises:
        InputError: another shape or type, or not one label per image.

    Example:
        >>> levels = torch.arange(4, dtype=torch.uint8)[:, None, None, None]
        >>> data = ImageDataset(levels.expand(4, 3, 8, 8), labels=torch.tensor([0, 0, 0, 1]))
        >>> tail = data.subset(torch.tensor([3, 1]))
        >>> tail.images(torch.tensor([0, 1]))[:, 0, 0, 0].tolist()
        [3, 1]
        >>> [batch["label"].tolist() for batch in tail.batches(batch_size=1)]
        [[1], [0]]
        >>> tail.names()
        ['3', '1']
    """

    def __init__(
        self,
        images: Tensor | WholeImages | ImageFiles,
        labels: Tensor | None = None,
        name: str | None = None,
        *,
        content_hash: str | None = None,
        digests: Tensor | None = None,
        blocks: Sequence[int] | None = None,
        names: Sequence[object] | None = None,
        origin: ImageFiles | None = None,
        mapped: Mapped | None = None,
    ) -> None:
        if isinstance(images, Tensor) and (
            images.dtype != torch.uint8
            or images.ndim != 4
            or images.shape[1] != 3
            or images.shape[2] != images.shape[3]
        ):
            raise InputError(
                f"images must be uint8 of shape (N, 3, S, S), got {images.dtype} of shape "
                f"{tuple(images.shape)}."
            )
        if labels is None:
            labels = torch.full((len(images),), -1)
        if labels.shape != (len(images),):
            raise InputError(
                f"{len(images)} images and labels of shape {tuple(labels.shape)}; every image "
                "needs one label."
            )
        self.labels = labels.to(torch.int64)
        self.blocks = blocks
        self._images = images
        self._mapped = mapped
        self._name = name
        self._hash = content_hash
        self._digests = digests
        self.origin = images if isinstance(images, ImageFiles) else origin
        if names is None:
            names = range(len(images)) if self.origin is None else self.origin.names
        self._names = names
        self._rows: Tensor | None = None  # of `_images`; all in order

    def subset(self, rows: Tensor, content_hash: str | None = None) -> "ImageDataset":
        """Select images by (n,) int64 positions, in their order; the pixels stay where they are."""
        self._check(rows)
        part = copy.copy(self)
        part.labels, part.blocks = self.labels[rows], None
        part._rows, part._hash = self.rows[rows], content_hash
        return part

    def to(self, device: torch.device) -> "ImageDataset":
        """The data set with its images and labels on a device, if they are in memory."""
        if self.files is not None or device.type == "cpu":
            return self
        there = copy.copy(self)
        if isinstance(self._images, WholeImages):  # ids stay here, where squares are cut
            there._images, there._mapped = self._images.to(device), None
            return there
        there._images = self.images(torch.arange(len(self))).to(device)
        there.labels, there._rows, there._mapped = self.labels.to(device), None, None
        return there

    def _checked(self, ids: Tensor | Iterable[int]) -> Tensor:
        rows = ids if isinstance(ids, Tensor) else torch.tensor(list(ids), dtype=torch.int64)
        self._check(rows)
        return rows.cpu()

    def _check(self, indices: Tensor) -> None:
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            outside = indices[(indices < 0) | (indices >= len(self))]
            raise InputError(
                f"index {int(outside[0])} lies outside the set of {len(self)} images; was it made "
                "for another data set?"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def files(self) -> ImageFiles | None:
        """Image files that `rows` selects from; None where the images are in memory."""
        return self._images if isinstance(self._images, ImageFiles) else None

    @property
    def rows(self) -> Tensor:
        """(N,) int64 positions of the images among all that are in memory or in `files`."""
        return torch.arange(len(self)) if self._rows is None else self._rows

    def file_names(self) -> list[str]:
        """Names of all images in id order; none where the images come from no files."""
        return [] if isinstance(self._names, range) else self.names()

    def names(self, ids: Tensor | Iterable[int] | None = None) -> list[str]:
        """File names of images by position, of all if no ids are given; for messages and tables."""
        rows = self.rows if ids is None else self.rows[self._checked(ids)]
        return [shown(str(self._names[row])) for row in rows.tolist()]

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self._images.shape[2] if isinstance(self._images, Tensor) else self._images.size

    @property
    def content_hash(self) -> str:
        """Hash of names, rows and labels; files encoded otherwise have the same (`images_hash`)."""
        if self._hash is None:
            if self._name is None and isinstance(self._images, Tensor):
                self._name = fingerprint(self._images)
            self._hash = fingerprint(self._name or "", self.rows, self.labels)
        return self._hash

    @property
    def images_hash(self) -> str:
        """Hash of the images' files in order, or of their pixels where there are no files."""
        if self._digests is not None:
            return fingerprint(self._digests[self.rows])
        if isinstance(self._images, Tensor):
            return fingerprint(*(self._images[rows] for rows in torch.split(self.rows, 4096)))
        return self.content_hash  # packed images: it covers their bytes

    @property
    def digests(self) -> Tensor | None:
        """(N,) int64 hashes of the images' files, if they are known."""
        return None if self._digests is None else self._digests[self.rows]

    def pixel_digests(self) -> Tensor:
        """(N,) int64 hashes of the images' pixels, all of which are read."""
        parts = [torch.empty(0, dtype=torch.int64)]
        for batch in self.batches(1024):
            hashes = [digest_of(image.numpy().tobytes()) for image in batch["image"].cpu()]
            parts.append(torch.tensor(hashes, dtype=torch.int64))
        return torch.cat(parts)

    def images(self, indices: Tensor) -> Tensor:
        """Read images by (n,) int64 positions: uint8 (n, 3, S, S)."""
        self._check(indices)
        return self._read(self._locate(indices.cpu()))

    def _locate(self, ids: Tensor, keys: tuple[int, ...] | None = None) -> Places:
        rows = ids if self._rows is None else self._rows[ids]
        if keys is None or isinstance(self._images, Tensor) or not self._images.whole:
            return Places(rows, torch.full((len(rows),), 0.5))
        return Places(rows, uniform(*keys, _SQUARE_STREAM, ids))

    def _read(self, places: Places) -> Tensor:
        if self._mapped is not None:
            self._mapped.check()
        if isinstance(self._images, Tensor):
            return self._images.index_select(0, places.rows.to(self._images.device))
        return self._images.read(places)

    def stream(
        self, batches: Iterator[Tensor], keys: tuple[int, ...] | None = None
    ) -> Iterator[Batch]:
        """Read batches of (B,) int64 positions, ahead of use where the images are in files.

        Of images that are kept whole each gives a square at random along its longer side, as a
        function of the ``keys`` and its position; the middle without keys.
        """
        ahead: deque[Tensor] = deque()  # positions whose images are being read

        def places() -> Iterator[Places]:
            for ids in batches:
                ahead.append(ids)
                yield self._locate(ids, keys)

        files = self.files
        for images in map(self._read, places()) if files is None else files.stream(places()):
            ids = ahead.popleft()
            yield {"image": images, "id": ids, "label": self.labels[ids]}

    def batches(self, batch_size: int = 512, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """Read the whole set in id order, each image once; the last batch may be short."""
        for batch in self.stream(iter(torch.split(torch.arange(len(self)), batch_size))):
            yield {key: value.to(device, non_blocking=True) for key, value in batch.items()}
