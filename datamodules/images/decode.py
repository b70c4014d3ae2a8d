"""From image files to uint8 pixels, in several processes."""

import hashlib
import itertools
import multiprocessing
import os
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from bcl.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from datamodules.images.readers import Source

# Part of the cache's name: raise it whenever `decode` gives other pixels.
DECODE_VERSION = 3
_CHUNK_BYTES = 1 << 20
_AHEAD = 4  # chunks a process that wait to be taken, so that a slow disk does not fill the memory


@dataclass
class Chunk:
    """Decoded images of neighboring rows.

    Attributes:
        pixels: uint8 (n, 3, S, S), of the good ones alone.
        digests: (n,) int64, `digest_of` the good ones' files.
        bad: row and reason of those that could not be read.
        rows: how many rows the chunk spans.
    """

    pixels: "NDArray[np.uint8]"
    digests: "NDArray[np.int64]"
    bad: list[tuple[int, str]]
    rows: int


def decode(data: bytes, size: int) -> "NDArray[np.uint8]":
    """Decode one image: the center square, resized with the bicubic filter, antialiased.

    The result is within one level of Pillow's. A JPEG that is at least twice as large is decoded
    at 1/2, 1/4 or 1/8 of its size first (never below ``size``), which costs a fraction of a full
    decode.

    Pixels are taken as they are stored: a rotation that a camera noted (EXIF) is not carried out,
    as torchvision does not either; transparency is dropped; of an animation the first frame
    counts; 16-bit grays keep their upper eight bits.

    Args:
        data: bytes of the file.
        size: height and width S in pixels.

    Returns:
        uint8 (3, S, S).

    Raises:
        OSError: truncated, not an image, one too large to be meant (`PIL.Image.MAX_IMAGE_PIXELS`
            twice), or of floating-point pixels, whose white nobody knows.
    """
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as image:
            _check_mode(image)
            if image.format == "JPEG" and image.mode == "RGB" and min(image.size) < 2 * size:
                pixels = _decode_jpeg(data)
                if pixels is not None:
                    return _resize(pixels, size)
            image.draft("RGB", (size, size))
            return _resize(_pixels(image), size)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # Pillow's plugins raise errors of many kinds for damaged files.
        raise OSError(f"damaged image: {error}") from None


def digest_of(data: bytes) -> int:
    """64 bits of the SHA-256 of a file, as a signed number.

    Example:
        >>> digest_of(b"") == digest_of(b"x")
        False
    """
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little", signed=True)


def _check_mode(image: "Image") -> None:
    # Pillow before 10.3 opens 16-bit grays of a PNG as "I", 32 bits.
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise OSError(
            f"{'floating-point' if image.mode == 'F' else '32-bit'} pixels, whose range is not "
            "known; convert it to 8 or 16 bits"
        )


def _decode_jpeg(data: bytes) -> "Tensor | None":
    """(3, H, W) by torchvision, the same pixels as Pillow's in two thirds of the time."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels: Tensor = decode_jpeg(raw, ImageReadMode.RGB)
    except RuntimeError:
        return None  # Pillow says what is wrong with it, or reads it all the same
    return pixels


def as_rgb(image: "Image") -> "Image":
    """Three channels of eight bits; of 16-bit grays the upper eight.

    Pillow's own conversion would make all of these above 255 white.
    """
    import numpy as np
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        gray = (np.array(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(gray)
    return image if image.mode == "RGB" else image.convert("RGB")


def _pixels(image: "Image") -> "Tensor":
    import numpy as np
    import torch

    return torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1)  # (3, H, W)


def _resize(pixels: "Tensor", size: int) -> "NDArray[np.uint8]":
    from torch.nn import functional

    height, width = pixels.shape[1:]
    if (height, width) != (size, size):
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = pixels[None, :, top : top + side, left : left + side]
        # A quarter of Pillow's time.
        pixels = functional.interpolate(square, (size, size), mode="bicubic", antialias=True)[0]
    array: NDArray[np.uint8] = pixels.numpy()
    return array


def check(data: bytes) -> None:
    """Decode an image at the lowest cost that still reads all of it.

    Args:
        data: bytes of the file.

    Raises:
        OSError: what `decode` would raise.
    """
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as image:
            _check_mode(image)
            image.draft("RGB", (1, 1))
            image.load()
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise OSError(f"damaged image: {error}") from None


def reason(error: OSError) -> str:
    """Why an image could not be read, in a few words."""
    text = (error.strerror or str(error)).split(" <")[0]
    return text.strip() or type(error).__name__


@dataclass
class _Job:
    source: "Source"
    names: Sequence[str]
    size: int

    def __call__(self, bounds: tuple[int, int]) -> Chunk:
        import numpy as np

        first, last = bounds
        pixels = np.empty((last - first, 3, self.size, self.size), dtype=np.uint8)
        digests = np.empty(last - first, dtype=np.int64)
        bad: list[tuple[int, str]] = []
        good = 0
        for row in range(first, last):
            try:
                data = self.source.read(self.names[row])
                if self.size:
                    pixels[good] = decode(data, self.size)
                else:
                    check(data)
            except OSError as error:
                bad.append((row, reason(error)))
            else:
                digests[good] = digest_of(data)
                good += 1
        return Chunk(pixels[:good], digests[:good], bad, last - first)


_job: _Job | None = None  # inherited by forked workers, so that names are not sent again


def _run(bounds: tuple[int, int]) -> Chunk:
    if _job is None:
        raise RuntimeError("no decoding job in this process")
    return _job(bounds)


def _take(job: _Job) -> None:
    import torch

    global _job
    _job = job
    # The processes share the cores already; and OpenMP's threads do not survive a fork.
    torch.set_num_threads(1)


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers(ranks: int | None = None) -> int:
    """Usable cores over the ranks of this machine, at least one.

    Args:
        ranks: processes that train on this machine; ``$LOCAL_WORLD_SIZE`` or one if not given.
    """
    if ranks is None:
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)
    return max(usable_cores() // max(ranks, 1), 1)


def decode_all(
    source: "Source", names: Sequence[str], size: int, workers: int | None = None
) -> Iterator[Chunk]:
    """Decode images in order, with several processes.

    Args:
        source: where the files lie.
        names: their names.
        size: height and width in pixels; 0 only checks that the images can be read.
        workers: processes; the usable cores if not given, 0 for none.

    Yields:
        Chunks in the order of ``names``.

    Raises:
        InputError: a process was killed, as the system does when memory runs out.
    """
    step = min(max(_CHUNK_BYTES // max(3 * size * size, 1), 1), 256)
    bounds = [(first, min(first + step, len(names))) for first in range(0, len(names), step)]
    job = _Job(source, names, size)
    processes = min(usable_cores() if workers is None else workers, len(bounds))
    if processes < 2:
        yield from map(job, bounds)
        return
    # Forked workers need no guarded main module, as torch's own on Linux; they run Pillow alone.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(processes, context, _take, (job,))
    waiting: deque[Future[Chunk]] = deque()
    rest = iter(bounds)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
            waiting += [pool.submit(_run, each) for each in _first(rest, processes * _AHEAD)]
        while waiting:
            yield waiting.popleft().result()
            waiting += [pool.submit(_run, each) for each in _first(rest, 1)]
    except BrokenProcessPool:
        raise InputError(
            f"a process that decoded {source.root} was killed, maybe for want of memory; take "
            f"fewer than {processes} with workers."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _first(rest: "Iterator[tuple[int, int]]", count: int) -> list[tuple[int, int]]:
    return list(itertools.islice(rest, count))
