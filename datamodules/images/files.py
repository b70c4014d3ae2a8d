"""Images that stay in their files: decoded by worker processes, in order."""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from bcl.core.errors import InputError, find_input_error, lost_worker
from bcl.core.machine import usable_cores
from bcl.core.text import shown
from datamodules.images.decode import check, decode, decode_whole, digest_of, reason, square_at
from datamodules.images.readers import Reader

# Images per task of a worker while training: few, so that a first batch comes soon and all
# workers share in every batch.
_CHUNK = 16
_CHUNK_BYTES = 1 << 20  # pixels per task while a whole set is decoded


Extent = Literal["center", "part", "whole"]  # what is decoded of an image


class Chunk(NamedTuple):
    """Some decoded images."""

    pixels: Tensor  # uint8 (n, 3, S, S) of the readable ones; (bytes,) of whole images
    digests: Tensor  # (n,) int64 hashes of their files
    bad: list[tuple[int, str]]  # row and reason of the others
    sides: Tensor | None = None  # (n, 2) int64 rows and columns of whole images
    passing: tuple[int, ...] = ()  # the bad rows that may be read another time
    mapped: "Mapped | None" = None  # the file that the pixels lie in


class Mapped:
    """A file whose pages are read as memory; a page that is gone would kill the process."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size = path, size
        self._handle = os.open(path, os.O_RDONLY)  # also of a file that is replaced later
        weakref.finalize(self, os.close, self._handle)

    def check(self) -> None:
        """Refuse a file that was cut short since it was mapped."""
        if os.fstat(self._handle).st_size < self.size:
            raise InputError(
                f"{self.path} was cut short while it was in use; start again, and it is made anew."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return Mapped, (self.path, self.size)


class Places(NamedTuple):
    """Which images to read and, of whole ones, which square of each."""

    rows: Tensor  # (n,) int64
    along: Tensor  # (n,) float32 in [0, 1): where along the longer side; 0.5 is the middle


def _pairs(places: Places) -> Iterator[tuple[int, float]]:
    return zip(places.rows.tolist(), places.along.tolist(), strict=True)


class ImageFiles:
    """N named images, decoded when they are read, by ``workers`` processes (0: in this one).

    An image is its center square as stored or, of ``whole`` images, a square anywhere, upright.
    """

    def __init__(
        self,
        reader: Reader,
        names: Sequence[object],
        size: int,
        workers: int | None = None,
        whole: bool = False,
    ) -> None:
        self.reader = reader
        self.names = PackedNames(names) if isinstance(names, list) else names
        self.size = size
        self.whole = whole
        self.ranks: int | None = None  # that decode on this machine, if known
        self._workers = workers
        self._decoder = _Decoder(reader, self.names, size, "part" if whole else "center")
        self._stream: _Stream | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def workers(self) -> int:
        """Decoding processes."""
        if self._workers is not None:
            return self._workers
        ranks = self.ranks or int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)
        return max(usable_cores() // max(ranks, 1), 1)

    def read(self, places: Places) -> Tensor:
        """Decode in this process: uint8 (n, 3, S, S)."""
        return self._readable(self._decoder.read(list(_pairs(places))))

    def stream(self, batches: Iterable[Places]) -> Iterator[Tensor]:
        """Decode batches in worker processes, ahead of use."""
        if self.workers == 0:
            return map(self.read, batches)
        if self._stream is None or self._stream.busy:
            self._stream = _Stream(self._decoder, self.workers)
        return self._assemble(self._stream, batches)

    def _assemble(self, stream: "_Stream", batches: Iterable[Places]) -> Iterator[Tensor]:
        """Whole batches from their chunks."""
        pinned = torch.cuda.is_available()
        images, done = torch.empty(0), 0
        for chunk in stream.run(batches):
            pixels = self._readable(chunk)
            if done == len(images):
                shape = (stream.sizes.popleft(), 3, self.size, self.size)
                images, done = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned), 0
            images[done : done + len(pixels)] = pixels
            done += len(pixels)
            if done == len(images):
                yield images

    def _readable(self, chunk: Chunk) -> Tensor:
        for row, why in chunk.bad:
            name = shown(str(self.names[row]))
            raise InputError(f"{self.reader.root}/{name} became unreadable since the scan: {why}.")
        return chunk.pixels


def decode_all(
    reader: Reader,
    names: Sequence[str],
    size: int,
    workers: int | None = None,
    whole: bool = False,
) -> Iterator[Chunk]:
    """Decode images in order, with several processes; size 0 only checks them."""
    step = min(max(_CHUNK_BYTES // max(3 * size * size, 1), 1), 256)
    starts = range(0, len(names), step)
    chunks = ([(row, 0.5) for row in range(a, min(a + step, len(names)))] for a in starts)
    decoder = _Decoder(reader, names, size, "whole" if whole else "center", digests=True)
    processes = min(usable_cores() if workers is None else workers, len(names) // step + 1)
    if processes < 2:
        yield from map(decoder.read, chunks)
        return
    # A plain pool would wait forever for a killed worker. Forked workers share the names and need
    # no guarded main module.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(processes, context, _start, (decoder,))
    waiting: deque[Future[Any]] = deque()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
            # A few chunks per process may wait, so that a slow disk does not fill the memory.
            waiting += [pool.submit(_run, rows) for rows in islice(chunks, 4 * processes)]
        while waiting:
            pixels, digests, bad, sides, passing, _ = waiting.popleft().result()
            sides = sides if sides is None else torch.from_numpy(sides)
            yield Chunk(torch.from_numpy(pixels), torch.from_numpy(digests), bad, sides, passing)
            waiting += [pool.submit(_run, rows) for rows in islice(chunks, 1)]
    except BrokenProcessPool:
        raise InputError(
            f"a process that decoded {reader.root} was killed, maybe because memory ran out; use "
            f"fewer than {processes} with workers."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(decoder: "_Decoder") -> None:
    global _decoder
    _decoder = decoder
    torch.set_num_threads(1)  # processes share the cores; OpenMP's threads don't survive a fork


def _run(rows: Sequence[tuple[int, float]]) -> tuple[Any, ...]:
    """Decode in a worker process; arrays, because tensors would need it to stay alive."""
    return tuple(part.numpy() if isinstance(part, Tensor) else part for part in _decoder.read(rows))


class _Decoder(Dataset[Chunk]):
    """Decodes lists of rows; each worker process holds one."""

    def __init__(
        self,
        reader: Reader,
        names: Sequence[object],
        size: int,
        extent: Extent,
        digests: bool = False,
    ) -> None:
        self.reader, self.names, self.size, self.digests = reader, names, size, digests
        self.extent = extent if size else "center"

    def __getitems__(self, rows: Sequence[tuple[int, float]]) -> Chunk:
        return self.read(rows)

    def read(self, rows: Sequence[tuple[int, float]]) -> Chunk:
        wholes: list[Tensor] = []
        room = 0 if self.extent == "whole" else len(rows)
        pixels = torch.empty((room, 3, self.size, self.size), dtype=torch.uint8)
        if get_worker_info() is not None and self.size:
            pixels.untyped_storage().share_memory_()  # decoded in place; torch would copy it later
        digests, bad = torch.zeros(len(rows), dtype=torch.int64), []
        array, hashes, good = pixels.numpy(), digests.numpy(), 0  # faster to fill one by one
        passing: tuple[int, ...] = ()
        for row, along in rows:
            try:
                data = self.reader.read(str(self.names[row]))
                if not data:
                    raise OSError("empty file")
                if not self.size:
                    check(data)
                elif self.extent == "center":
                    array[good] = decode(data, self.size)
                elif self.extent == "part":
                    array[good] = square_at(decode_whole(data, self.size), self.size, along)
                else:
                    wholes.append(torch.from_numpy(decode_whole(data, self.size).copy()))
            except (OSError, MemoryError) as error:
                bad.append((row, reason(error)))
                # Of the system, not of the file.
                passing += (row,) if getattr(error, "errno", 0) is not None else ()
            else:
                if self.digests:
                    hashes[good] = digest_of(data)
                good += 1
        if self.extent != "whole":
            return Chunk(pixels[:good], digests[:good], bad, passing=passing)
        flat = torch.cat([pixels.flatten(), *(image.flatten() for image in wholes)])
        sides = torch.tensor([image.shape[1:] for image in wholes], dtype=torch.int64).view(-1, 2)
        return Chunk(flat, digests[:good], bad, sides, passing)


_decoder: _Decoder  # of a process of `decode_all`


class _Tasks:
    """Rows for the workers, a few at a time.

    Not the stream itself: a loader that it belongs to would end only with a garbage collection,
    which closes the queues first and then waits for the workers in vain.
    """

    def __init__(self) -> None:
        self.batches: Iterable[Places] = ()
        self.sizes: deque[int] = deque()  # of the batches under way

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        for places in self.batches:
            self.sizes.append(len(places.rows))
            pairs = _pairs(places)
            while chunk := list(islice(pairs, _CHUNK)):
                yield chunk


class _Stream:
    """Worker processes that persist from one epoch to the next."""

    def __init__(self, decoder: _Decoder, workers: int) -> None:
        self.busy = False
        self._tasks = _Tasks()
        self._loader: DataLoader[Any] = DataLoader(
            decoder,
            batch_sampler=cast("Any", self._tasks),
            collate_fn=cast("Any", _unchanged),
            num_workers=workers,
            prefetch_factor=8,
            persistent_workers=True,
            worker_init_fn=_outlast,
            # Otherwise each epoch would draw a seed from torch's global generator.
            generator=torch.Generator(),
        )

    @property
    def sizes(self) -> deque[int]:
        """Images of each batch under way."""
        return self._tasks.sizes

    def run(self, batches: Iterable[Places]) -> Iterator[Chunk]:
        self.busy = True
        try:
            self._tasks.batches = batches
            self.sizes.clear()
            yield from cast("Iterable[Chunk]", self._loader)
        except RuntimeError as error:  # of a worker that was killed
            raise find_input_error(error) or error from None
        except (EOFError, ConnectionError):
            raise lost_worker("it ended while it sent images") from None
        finally:
            self.busy = False


def _outlast(_: int) -> None:
    """Work on when a signal goes to a whole job: the main process stops between two steps.

    SIGTERM ends a worker only if its main process sent it.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)  # as torch's own handler; another status would be reported as a killed worker


def _unchanged(chunk: Chunk) -> Chunk:
    return chunk


class PackedNames(Sequence[str]):
    """Strings in one block of bytes, which forked workers share; they would copy a list's."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode(errors="surrogateescape") for name in names]  # any bytes survive
        self._bytes = b"".join(encoded)
        self._ends = torch.tensor([0, *map(len, encoded)]).cumsum(0)  # (N + 1,)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first, last = self._ends[index : index + 2].tolist()
        return self._bytes[first:last].decode(errors="surrogateescape")
