"""For data-loader workers: decode and crop there, or make whole views image by image.

The device wants images of one size. Workers therefore decode, and cut to a square that the
views are cropped from (`DecodeCrop`); everything random happens on the device in
`ContrastiveViews`. Loaders that want a transform get `ImageViews`, which makes one image's
views with the same parameters, and so the same views, as the batched form.
"""

import io
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bcl.augment.views import ContrastiveViews
from bcl.core.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    AnyImage = str | Path | bytes | Image.Image | Tensor


def as_tensor(image: "AnyImage") -> Tensor:
    """Read an image as (3, H, W) uint8, or pass a tensor on.

    Args:
        image: a path, the bytes of a file, a Pillow image, or a (3, H, W) uint8 or float tensor.

    Returns:
        (3, H, W) uint8, or the tensor.

    Raises:
        InputError: the file is no image, or the tensor is not (3, H, W).
    """
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise InputError(f"an image must be (3, H, W), got {tuple(image.shape)}.")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise InputError(f"an image must be uint8, or float in [0, 1], got {image.dtype}.")
        return image
    from PIL import Image, UnidentifiedImageError

    if isinstance(image, Image.Image):
        opened = image
    elif not isinstance(image, str | Path | bytes):
        raise InputError(
            "an image must be a path, the bytes of a file, a Pillow image or a (3, H, W) tensor, "
            f"got {type(image).__name__}; torch.from_numpy turns an array into a tensor."
        )
    else:
        stream = io.BytesIO(image) if isinstance(image, bytes) else image
        try:
            opened = Image.open(stream)
        except UnidentifiedImageError:
            name = "these bytes" if isinstance(image, bytes) else f"'{image}'"
            raise InputError(f"{name} cannot be read as an image; remove or replace it.") from None
        except Image.DecompressionBombError as error:
            name = "these bytes" if isinstance(image, bytes) else f"'{image}'"
            raise InputError(
                f"{name}: {error} Remove it, or raise PIL.Image.MAX_IMAGE_PIXELS."
            ) from None
    try:
        opened = opened.convert("RGB")
    except (OSError, SyntaxError) as error:  # truncated, or damaged further on
        file = getattr(opened, "filename", "")
        name = f"'{file}'" if file else "these bytes"
        raise InputError(
            f"{name} cannot be read as an image ({error}); remove or replace it."
        ) from None
    flat = torch.frombuffer(bytearray(opened.tobytes()), dtype=torch.uint8)
    return flat.view(opened.height, opened.width, 3).permute(2, 0, 1)


class DecodeCrop:
    """Decode an image and cut it to (3, size, size), for use in a data-loader worker.

    The shorter side is resized to ``size`` (antialiased bicubic) and the middle kept, so that a
    batch can be stacked; random crops are then taken from it on the device. A JPEG is decoded at
    the smallest scale that still covers the size, which saves most of the time.

    Args:
        size: side in pixels; 256 is usual for views of 224.

    Raises:
        InputError: ``size`` is not positive.

    Example:
        >>> DecodeCrop(8)(torch.zeros(3, 20, 10, dtype=torch.uint8)).shape
        torch.Size([3, 8, 8])
    """

    def __init__(self, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"size must be a positive integer, got {size!r}.")
        self.size = size

    def __call__(self, image: "AnyImage") -> Tensor:
        """Decode one image (see `as_tensor`); returns (3, size, size) uint8 or float."""
        if not isinstance(image, Tensor):
            image = self._draft(image)
        image = as_tensor(image)
        rows, cols = image.shape[1:]
        short = min(rows, cols)
        if short == 0:
            raise InputError(f"the image has no pixels: {tuple(image.shape)}.")
        top, left = (rows - short) // 2, (cols - short) // 2
        image = image[:, top : top + short, left : left + short]
        if short != self.size:
            whole = image.dtype == torch.uint8
            resized = nn.functional.interpolate(
                (image if whole else image.to(torch.float32))[None],
                size=(self.size, self.size), mode="bicubic", antialias=True,
            )[0]  # fmt: skip
            # Bicubic weights reach beyond the range; bytes are cut to it by the kernel.
            image = resized if whole else resized.clamp_(0, 1).to(image.dtype)
        return image.contiguous()

    def _draft(self, image: Any) -> Any:
        from PIL import Image, UnidentifiedImageError

        if not isinstance(image, str | Path | bytes):
            return image
        stream = io.BytesIO(image) if isinstance(image, bytes) else image
        try:
            opened = Image.open(stream)
        except (UnidentifiedImageError, Image.DecompressionBombError):
            return image  # as_tensor names it
        opened.draft("RGB", (self.size, self.size))
        return opened


class ImageViews(nn.Module):
    """One image's views, for loaders that want a transform: the batched chain on a batch of one.

    It takes and returns what torchvision v2 transforms do - tensors, ``tv_tensors.Image`` and
    Pillow images - and can stand in a ``v2.Compose``. The score and the id are given by name with
    the image, or in a dict with it, as a ``v2.Compose`` passes on; further arguments, such as a
    label, are handed back as they are. An image without an id draws one from torch's generator,
    which data-loader workers seed. Scores that live in the training process do not reach workers:
    give them with each sample, or use the batched form.

    Args:
        views: the settings.

    Example:
        >>> transform = ImageViews(ContrastiveViews(32))
        >>> transform(torch.zeros(3, 40, 40, dtype=torch.uint8), sample_id=7).shape
        torch.Size([2, 3, 32, 32])
        >>> sample = {"image": torch.zeros(3, 40, 40, dtype=torch.uint8), "id": 7, "label": 1}
        >>> transform(sample)["image"].shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, views: ContrastiveViews) -> None:
        super().__init__()
        if not isinstance(views, ContrastiveViews):
            raise InputError(
                f"views must be a ContrastiveViews, got {views!r}; for instance "
                "AnyImageViews(ContrastiveViews(32))."
            )
        self.views = views

    def forward(
        self,
        image: "AnyImage | dict[str, Any]",
        *others: Any,
        score: float | None = None,
        sample_id: int | None = None,
        epoch: int = 0,
    ) -> Any:
        """Make the views of one image.

        Args:
            image: as for `as_tensor`; or a dict with one under ``image``, whose ``score``,
                ``id`` and ``epoch``, if it has them, stand for the arguments.
            others: handed back after the views, as torchvision v2 does.
            score: memorization score in [0, 1], needed where the views have ``boost``.
            sample_id: the id that the draws depend on; drawn if it is not given.
            epoch: number of the epoch.

        Returns:
            (V, 3, rows, columns) float32, or a list of (3, rows, columns) with local views; the
            same as `ContrastiveViews` gives for this image within a batch. For a dict, a copy of
            it with them under ``image``; with ``others``, a tuple.

        Raises:
            InputError: a bad image or score, or no score where ``boost`` needs one.
        """
        if isinstance(image, dict):
            if "image" not in image:
                raise InputError(
                    f"a sample must hold its image under 'image', got the keys {[*image]}."
                )
            given = {"score": score, "id": sample_id, "epoch": epoch, **image}
            views = self._views(given["image"], given["score"], given["id"], given["epoch"])
            return ({**image, "image": views}, *others) if others else {**image, "image": views}
        views = self._views(image, score, sample_id, epoch)
        return (views, *others) if others else views

    def _views(
        self, image: "AnyImage", score: float | None, sample_id: int | None, epoch: int
    ) -> Tensor | list[Tensor]:
        images = as_tensor(image)[None]
        if sample_id is None:
            sample_id = int(torch.randint(2**62, ()))
        # Data sets hold NumPy's numbers, and batches tensors of one.
        one = isinstance(score, Tensor) and score.numel() == 1
        if score is not None and not one and not isinstance(score, Real):
            raise InputError(f"the score must be a number in [0, 1], got {score!r}.")
        one = isinstance(sample_id, Tensor) and sample_id.numel() == 1
        if not one and not isinstance(sample_id, Integral):
            raise InputError(f"the sample's id must be an integer, got {sample_id!r}.")
        if isinstance(sample_id, Integral):
            sample_id = int(sample_id) if not isinstance(sample_id, bool) else sample_id
            if not -(2**63) <= sample_id < 2**63:
                raise InputError(f"the sample's id must fit 64 bits, got {sample_id}.")
        marks = None if score is None else torch.tensor([float(score)], device=images.device)
        ids = torch.as_tensor(sample_id, device=images.device).reshape(1)
        out = self.views(images, marks, ids, epoch)
        if isinstance(out, Tensor):
            return out[:, 0]
        return [view[0] for view in out]
