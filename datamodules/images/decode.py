"""From the bytes of an image file to uint8 pixels."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

Pixels = TypeVar("Pixels", "NDArray[np.uint8]", "Tensor")

# Part of the cache's key: raise it whenever `decode` returns other pixels.
DECODE_VERSION = 3

# Pillow would try all of its formats, whatever a file's name; EPS starts another program.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
_LONGEST = 16  # times the shorter side
# EXIF orientation: whether rows and columns change places, then the steps through both.
_TURNS = {
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}


def decode(data: bytes, size: int) -> "NDArray[np.uint8]":
    """Decode an image file to uint8 (3, S, S): the center square, resized; raises OSError."""
    # Pixels are taken as stored: no EXIF rotation (as in torchvision), no transparency, the first
    # frame, the upper eight of 16 bits. They are within one level of Pillow's.
    with opened(data) as image:
        pixels = _pixels(image, data, size)
    side = min(pixels.shape[1:])
    return _scale(_middle(pixels, side, side), size, size)


def decode_whole(data: bytes, size: int) -> "NDArray[np.uint8]":
    """Decode all of an image, upright, to uint8 (3, h, w) of a shorter side ``size``.

    Of images longer than 16 times their width the middle is kept.
    """
    with opened(data) as image:
        turn, pixels = _orientation(image), _pixels(image, data, size)
    height, width = pixels.shape[1:]
    side = min(height, width)
    pixels = _middle(pixels, min(height, _LONGEST * side), min(width, _LONGEST * side))
    height, width = pixels.shape[1:]
    array = _scale(pixels, round(height * size / side), round(width * size / side))
    transposed, *flipped = _TURNS.get(turn, (False, 1, 1))
    array = array.transpose(0, 2, 1) if transposed else array
    return array[:, :: flipped[0], :: flipped[1]]


def square_at(pixels: "Pixels", size: int, place: float) -> "Pixels":
    """The square at ``place`` of an image's longer side, in [0, 1); at 0.5 the middle."""
    height, width = pixels.shape[1:]
    top, left = int(place * (height - size + 1)), int(place * (width - size + 1))
    return pixels[:, top : top + size, left : left + size]


def _orientation(image: "Image") -> int:
    """The EXIF tag that says how to turn an image; 1 where it cannot be read."""
    try:
        return int(image.getexif().get(0x112, 1))
    except Exception:  # damaged EXIF: the pixels may be whole all the same
        return 1


def check(data: bytes) -> None:
    """Decode all of an image at the lowest cost; raises what `decode` would raise."""
    with opened(data) as image:
        image.draft("RGB", (1, 1))
        image.load()


@contextmanager
def opened(data: bytes) -> "Iterator[Image]":
    """Open an image; any error about a damaged file becomes an OSError."""
    from PIL import Image

    try:
        # Warnings are about metadata that nothing here depends on.
        with warnings.catch_warnings(), Image.open(BytesIO(data), formats=_FORMATS) as image:
            warnings.simplefilter("ignore")
            # Pillow before 10.3 opens 16-bit grayscale PNG as "I", 32 bits.
            if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
                kind = "floating-point" if image.mode == "F" else "32-bit"
                raise OSError(f"{kind} pixels of unknown range; convert it to 8 or 16 bits")
            yield image
    except (OSError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise errors of many kinds
        raise OSError(f"damaged image: {error}") from None


def _decode_jpeg(data: bytes) -> "Tensor | None":
    """(3, H, W) by torchvision: the same pixels as Pillow's in two thirds of the time."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels: Tensor = decode_jpeg(raw, ImageReadMode.RGB)
    except RuntimeError:
        return None  # Pillow reads it all the same, or says what is wrong
    return pixels


def as_rgb(image: "Image") -> "Image":
    """Three channels of eight bits; Pillow's own conversion clips 16-bit grayscale to white."""
    import numpy as np
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        gray = (np.array(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(gray)
    return image if image.mode == "RGB" else image.convert("RGB")


def _pixels(image: "Image", data: bytes, size: int) -> "Tensor":
    import numpy as np
    import torch

    if image.format == "JPEG" and image.mode == "RGB" and min(image.size) < 2 * size:
        pixels = _decode_jpeg(data)
        if pixels is not None:
            return pixels
    image.draft("RGB", (size, size))  # a large JPEG at 1/2, 1/4 or 1/8, but not below `size`
    return torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1)  # (3, H, W)


def _middle(pixels: "Tensor", rows: int, cols: int) -> "Tensor":
    top, left = (pixels.shape[1] - rows) // 2, (pixels.shape[2] - cols) // 2
    return pixels[:, top : top + rows, left : left + cols]


def _scale(pixels: "Tensor", rows: int, cols: int) -> "NDArray[np.uint8]":
    from torch.nn import functional

    if pixels.shape[1:] != (rows, cols):  # a quarter of Pillow's time
        kind = {"mode": "bicubic", "antialias": True}
        pixels = functional.interpolate(pixels[None], (rows, cols), **kind)[0]  # type: ignore[arg-type]
    array: NDArray[np.uint8] = pixels.numpy()
    return array


def shrink(data: bytes, max_side: int) -> bytes:
    """Resize an image to a shorter side of ``max_side`` pixels; smaller ones stay as they are."""
    from PIL import Image

    with Image.open(BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        if min(width, height) <= max_side:
            return data
        exif = Image.Exif()
        exif[0x112] = _orientation(image)
        scale = max_side / min(width, height)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        image.draft("RGB", size)
        small = as_rgb(image).resize(size, Image.Resampling.BICUBIC)
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()


def digest_of(data: bytes) -> int:
    """64 bits of the SHA-256 of a file, as a signed number."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little", signed=True)


def reason(error: OSError | MemoryError) -> str:
    """Why an image could not be read, in a few words."""
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    text = (error.strerror or str(error)).split(" <")[0]
    return text.strip() or type(error).__name__
