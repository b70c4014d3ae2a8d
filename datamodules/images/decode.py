"""From the bytes of an image file to uint8 pixels."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

# Part of the cache's key: raise it whenever `decode` returns other pixels.
DECODE_VERSION = 3


def decode(data: bytes, size: int) -> "NDArray[np.uint8]":
    """Decode an image file to uint8 (3, S, S): the center square, resized; raises OSError."""
    # Pixels are taken as stored: no EXIF rotation (as in torchvision), no transparency, the first
    # frame, the upper eight of 16 bits. They are within one level of Pillow's.
    with _opened(data) as image:
        if image.format == "JPEG" and image.mode == "RGB" and min(image.size) < 2 * size:
            pixels = _decode_jpeg(data)
            if pixels is not None:
                return _resize(pixels, size)
        image.draft("RGB", (size, size))  # a large JPEG at 1/2, 1/4 or 1/8, but not below `size`
        return _resize(_pixels(image), size)


def check(data: bytes) -> None:
    """Decode all of an image at the lowest cost; raises what `decode` would raise."""
    with _opened(data) as image:
        image.draft("RGB", (1, 1))
        image.load()


@contextmanager
def _opened(data: bytes) -> "Iterator[Image]":
    """Open an image; any error about a damaged file becomes an OSError."""
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as image:
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


def shrink(data: bytes, max_side: int) -> bytes:
    """Resize an image to a shorter side of ``max_side`` pixels; smaller ones stay as they are."""
    from PIL import Image

    with Image.open(BytesIO(data)) as image:
        width, height = image.size
        if min(width, height) <= max_side:
            return data
        scale = max_side / min(width, height)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        image.draft("RGB", size)
        small = as_rgb(image).resize(size, Image.Resampling.BICUBIC)
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def digest_of(data: bytes) -> int:
    """64 bits of the SHA-256 of a file, as a signed number."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little", signed=True)


def reason(error: OSError) -> str:
    """Why an image could not be read, in a few words."""
    text = (error.strerror or str(error)).split(" <")[0]
    return text.strip() or type(error).__name__
