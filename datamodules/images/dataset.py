"""Where images lie, and how a set of them is read."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from bcl.core.errors import InputError

Batch = dict[str, Tensor]


class Store(Protocol):
    """Images that can be read by their row."""

    image_size: int
    fingerprint: str  # of the pool of images: their names or bytes, and their labels

    def __len__(self) -> int: ...

    def read(self, rows: Tensor) -> Tensor:
        """(n,) rows to uint8 (n, 3, S, S)."""
        ...

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Read one batch of rows after the other, ahead of use where that helps."""
        ...

    def images_hash(self, rows: Tensor | None) -> str:
        """Hash of some images' bytes in order, of all if None."""
        ...


class MemoryStore:
    """Decoded images in one uint8 tensor, on the host or on the device.

    Args:
        images: uint8 (N, 3, S, S).
        fingerprint: hash of the pool; of the bytes if not given.
        digests: (N,) int64, hashes of the files that the images were decoded from, if any.

    Raises:
        InputError: another shape or type.
    """

    def __init__(
        self, images: Tensor, fingerprint: str | None = None, digests: Tensor | None = None
    ) -> None:
        square = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3]
        if images.dtype != torch.uint8 or not square:
            raise InputError(
                "images must be uint8 of shape (N, 3, S, S), got "
                f"{images.dtype} of shape {tuple(images.shape)}."
            )
        self.images = images
        self.digests = digests
        self.image_size = images.shape[2]
        self.fingerprint = fingerprint or fingerprint_of(images.contiguous().numpy().tobytes())

    def __len__(self) -> int:
        return self.images.shape[0]

    def read(self, rows: Tensor) -> Tensor:
        """(n,) rows to uint8 (n, 3, S, S) on the store's device."""
        return self.images.index_select(0, rows.to(self.images.device))

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Read one batch of rows after the other."""
        return map(self.read, batches)

    def images_hash(self, rows: Tensor | None) -> str:
        """Hash of some images, in order: of their files' bytes, or of pixels without files."""
        rows = torch.arange(len(self)) if rows is None else rows
        if self.digests is not None:
            return fingerprint_of(self.digests[rows])
        return fingerprint_of(*(self.read(part) for part in torch.split(rows, 4096)))


def fingerprint_of(*parts: bytes | str | Tensor) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of all parts.

    Example:
        >>> len(fingerprint_of("a", b"b", torch.arange(3)))
        16
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous().numpy().tobytes()
        raw = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))  # so that ("ab", "c") is not ("a", "bc")
        digest.update(raw)
    return digest.hexdigest()[:16]


class ImageDataset:
    """Some images of a store in a fixed order; an image's id is its position here.

    Args:
        store: where the images lie.
        rows: (N,) int64 rows of the store; None for all of them in order, which takes no memory.
        labels: (N,) int64 classes.
        content_hash: hash of the images and labels, where it is known already.

    Raises:
        InputError: rows outside the store, or labels of another length.

    Example:
        >>> levels = torch.arange(4, dtype=torch.uint8)[:, None, None, None]
        >>> store = MemoryStore(levels.expand(4, 3, 8, 8))
        >>> data = ImageDataset(store, rows=torch.tensor([3, 1]), labels=torch.tensor([0, 1]))
        >>> data.images(torch.tensor([0, 1]))[:, 0, 0, 0].tolist()
        [3, 1]
        >>> [batch["label"].tolist() for batch in data.batches(batch_size=1)]
        [[0], [1]]
    """

    def __init__(
        self, store: Store, rows: Tensor | None, labels: Tensor, content_hash: str | None = None
    ) -> None:
        self.store = store
        self.labels = labels.to(torch.int64)
        self._rows = None if rows is None else rows.to(torch.int64)
        if self._rows is None:
            if self.labels.shape != (len(store),):
                raise InputError(f"{len(store)} images and {len(self.labels)} labels.")
        else:
            self._check(self._rows)
        self._hash = content_hash

    def _check(self, rows: Tensor) -> None:
        if rows.shape != self.labels.shape or rows.ndim != 1:
            raise InputError(
                f"{tuple(rows.shape)} rows and {tuple(self.labels.shape)} labels; "
                "every image needs one label."
            )
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(self.store)):
            bad = rows[(rows < 0) | (rows >= len(self.store))]
            raise InputError(
                f"index {int(bad[0])} lies outside the set of {len(self.store)} images; "
                "was the split made for another data set?"
            )

    @property
    def rows(self) -> Tensor:
        """(N,) int64 rows of the store."""
        return torch.arange(len(self)) if self._rows is None else self._rows

    @property
    def content_hash(self) -> str:
        """Hash of the pool, of which of its images are here, and of their labels.

        Image files count by their names: another copy of the set, encoded or sized otherwise,
        has the same (`images_hash` tells them apart).
        """
        if self._hash is None:
            self._hash = fingerprint_of(self.store.fingerprint, self.rows, self.labels)
        return self._hash

    @property
    def images_hash(self) -> str:
        """Hash of the images' bytes, in order."""
        return self.store.images_hash(self._rows)

    def locate(self, ids: Tensor) -> Tensor:
        """(n,) ids to (n,) rows of the store."""
        return ids if self._rows is None else self._rows[ids]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.store.image_size

    def images(self, indices: Tensor) -> Tensor:
        """Read images by their position in this set.

        Args:
            indices: (n,) int64 in [0, N).

        Returns:
            uint8 (n, 3, S, S).

        Raises:
            InputError: a position outside the set.
        """
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise InputError(f"image positions must lie in [0, {len(self)}).")
        return self.store.read(self.locate(indices.cpu()))

    def batches(self, batch_size: int = 512, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """Read the whole set in id order, each image once; the last batch may be short.

        Args:
            batch_size: images per batch.
            device: where the batches are put.

        Yields:
            ``{"image": uint8 (B, 3, S, S), "id": int64 (B,), "label": int64 (B,)}``.
        """
        everything = torch.split(torch.arange(len(self)), batch_size)
        rows = (self.locate(ids) for ids in everything)
        for ids, images in zip(everything, self.store.stream(rows), strict=True):
            yield {
                "image": images.to(device, non_blocking=True),
                "id": ids.to(device),
                "label": self.labels[ids].to(device),
            }
