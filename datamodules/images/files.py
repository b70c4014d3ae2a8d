"""Images that stay in their files: decoded by workers, batch by batch."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bcl.core.errors import InputError, find_input_error
from datamodules.images.dataset import fingerprint_of
from datamodules.images.decode import decode, default_workers, reason
from datamodules.images.readers import Source, shown

# Images that a worker decodes at a time: small, so that a first batch is soon there and all
# workers share in every batch.
_CHUNK = 16


class PackedNames(Sequence[str]):
    """Strings in one block of bytes, which forked workers share.

    A list's strings would be copied by every worker, as their reference counts change.

    Args:
        names: the strings.

    Example:
        >>> PackedNames(["a.jpg", "b.jpg"])[1]
        'b.jpg'
    """

    def __init__(self, names: Sequence[str]) -> None:
        # A file name that is no UTF-8 comes back as it was.
        encoded = [name.encode(errors="surrogateescape") for name in names]
        self._bytes = b"".join(encoded)
        lengths = torch.tensor([0, *map(len, encoded)], dtype=torch.int64)
        self._ends = lengths.cumsum(0)  # (N + 1,)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first, last = self._ends[index : index + 2].tolist()
        return self._bytes[first:last].decode(errors="surrogateescape")


class FileStore:
    """Images decoded when they are read (see `decode.decode`).

    Args:
        source: where the files lie.
        names: their names.
        image_size: height and width S in pixels.
        fingerprint: of the pool.
        workers: decoding processes; the usable cores over this machine's ranks if not given,
            0 for none.
        digests: (N,) int64, hashes of the files, where they are known.
    """

    def __init__(
        self,
        source: Source,
        names: Sequence[str],
        image_size: int,
        fingerprint: str,
        workers: int | None = None,
        digests: Tensor | None = None,
    ) -> None:
        self.image_size = image_size
        self.fingerprint = fingerprint
        self.ranks: int | None = None  # that decode on this machine, where that is known
        self._workers = workers
        self.source = source
        self.digests = digests
        # Names that are not a plain list are lean already.
        self.names = PackedNames(names) if isinstance(names, list) else names
        self._images = _Images(source, self.names, image_size)
        self._stream: _Stream | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def workers(self) -> int:
        """Decoding processes."""
        return default_workers(self.ranks) if self._workers is None else self._workers

    def read(self, rows: Tensor) -> Tensor:
        """(n,) rows to uint8 (n, 3, S, S), decoded in this process."""
        return self._images.read(rows.tolist())

    def images_hash(self, rows: Tensor | None) -> str:
        """Hash of some images' files, in order; of all if None."""
        if self.digests is None:  # shards: their fingerprint is of the bytes, and they are whole
            return self.fingerprint
        return fingerprint_of(self.digests if rows is None else self.digests[rows])

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode one batch of rows after the other in worker processes, ahead of use."""
        if self.workers == 0:
            return map(self.read, batches)
        if self._stream is None or self._stream.busy:
            self._stream = _Stream(self._images, self.workers)
        return self._stream.run(batches)


class _Chunks:
    """Cuts batches of rows into the small lists that workers decode."""

    def __init__(self) -> None:
        self.batches: Iterable[Tensor] = ()
        self.sizes: deque[int] = deque()  # of the batches under way

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.batches:
            self.sizes.append(len(rows))
            for chunk in torch.split(rows, _CHUNK):
                yield chunk.tolist()


class _Stream:
    """Worker processes that live on from one epoch to the next."""

    def __init__(self, images: "_Images", workers: int) -> None:
        self.busy = False
        self._size = images.size
        self._chunks = _Chunks()
        self._loader: DataLoader[Any] = DataLoader(
            images,
            batch_sampler=cast("Any", self._chunks),
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=8,
            persistent_workers=True,
            # Else every epoch would draw a seed from torch's global generator.
            generator=torch.Generator(),
        )

    def run(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        self.busy = True
        try:
            self._chunks.batches = batches
            self._chunks.sizes.clear()
            pinned = torch.cuda.is_available()
            images, done = torch.empty(0), 0
            for chunk in self._loader:
                if isinstance(chunk, InputError):
                    raise chunk
                if done == len(images):
                    shape = (self._chunks.sizes.popleft(), 3, self._size, self._size)
                    images, done = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned), 0
                images[done : done + len(chunk)] = chunk
                done += len(chunk)
                if done == len(images):
                    yield images
        except RuntimeError as error:  # of a worker that was killed
            raise find_input_error(error) or error from None
        finally:
            self.busy = False


def _as_it_is(chunk: Any) -> Any:
    return chunk


class _Images(Dataset[Any]):
    """Decodes lists of rows; what a worker process holds."""

    def __init__(self, source: Source, names: Sequence[str], size: int) -> None:
        self.source = source
        self.names = names
        self.size = size

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, rows: list[int]) -> Tensor | InputError:
        try:
            return self.read(rows)
        except InputError as error:
            return error  # torch would raise it with the worker's stack trace in its text

    def read(self, rows: list[int]) -> Tensor:
        images = torch.empty((len(rows), 3, self.size, self.size), dtype=torch.uint8)
        if torch.utils.data.get_worker_info() is not None:
            # Decoded in place; torch would copy it there afterwards.
            images.untyped_storage().share_memory_()
        pixels = images.numpy()
        for place, row in enumerate(rows):
            name = self.names[row]
            try:
                pixels[place] = decode(self.source.read(name), self.size)
            except OSError as error:
                raise InputError(
                    f"{self.source.root}/{shown(name)} became unreadable since the scan: "
                    f"{reason(error)}."
                ) from None
        return images
