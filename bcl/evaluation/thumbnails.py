"""Small images as files, for pages."""

import io
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

THUMBNAIL = 64  # pixels


def thumbnails(images: Tensor, size: int = THUMBNAIL) -> list[bytes]:
    """WebP files of (B, 3, H, W) uint8 images, at most ``size`` pixels on the longer side."""
    from PIL import Image

    scale = size / max(images.shape[2:])
    if scale < 1:
        shape = [max(1, round(side * scale)) for side in images.shape[2:]]
        smaller = interpolate(images.float(), shape, mode="bilinear", antialias=True)
        images = smaller.round_().clamp_(0, 255).to(torch.uint8)
    return [_webp(Image.fromarray(pixels)) for pixels in images.permute(0, 2, 3, 1).cpu().numpy()]


def _webp(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=70, method=2)
    return file.getvalue()
