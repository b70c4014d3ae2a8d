"""Views of one image, for data loaders that want a transform."""

from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bcl.augment.checks import check_integer
from bcl.augment.views import ContrastiveViews
from bcl.core.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageViews(nn.Module):
    """One image's views: `ContrastiveViews` on a batch of one, with the same result.

    It takes and returns what torchvision v2 transforms do - tensors, ``tv_tensors.Image`` and
    Pillow images - and can be part of a ``v2.Compose``. Pass the score and the id by name with
    the image, or in a dict with it; further arguments, such as a label, are returned as they are.
    An image without an id draws one from torch's generator, which data loaders seed per worker.
    Worker processes do not see scores that change in the training process: pass them with each
    sample, or use the batched form.

    Args:
        views: the settings.

    Raises:
        InputError: ``views`` is not a `ContrastiveViews`.

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
            raise InputError(f"views must be a ContrastiveViews, got {views!r}.")
        self.views = views

    def forward(
        self,
        image: "Image | Tensor | dict[str, Any]",
        *others: Any,
        score: float | None = None,
        sample_id: int | None = None,
        epoch: int = 0,
    ) -> Any:
        """Make the views of one image.

        Args:
            image: a Pillow image or a (3, H, W) uint8 or float tensor; or a dict with one under
                ``image``, whose ``score``, ``id`` and ``epoch``, if present, replace the arguments.
            others: returned after the views, as torchvision v2 does.
            score: memorization score in [0, 1], needed if the views have ``boost``.
            sample_id: id on which the draws depend; drawn if it is not given.
            epoch: number of the epoch.

        Returns:
            (V, 3, rows, columns) float32, or a list of (3, rows, columns) with local views. For a
            dict, a copy of it with the views under ``image``; with ``others``, a tuple.

        Raises:
            InputError: a bad image or score, or no score where ``boost`` needs one.
        """
        if isinstance(image, dict):
            if "image" not in image:
                raise InputError(f"a sample must hold 'image', got the keys {[*image]}.")
            given = {"score": score, "id": sample_id, "epoch": epoch, **image}
            views = self._views(given["image"], given["score"], given["id"], given["epoch"])
            return ({**image, "image": views}, *others) if others else {**image, "image": views}
        views = self._views(image, score, sample_id, epoch)
        return (views, *others) if others else views

    def _views(
        self, image: "Image | Tensor", score: float | None, sample_id: int | None, epoch: int
    ) -> Tensor | list[Tensor]:
        images = as_tensor(image)[None]
        if sample_id is None:
            sample_id = int(torch.randint(2**62, ()))
        key = check_integer("sample_id", sample_id)
        if not -(2**63) <= key < 2**63:
            raise InputError(f"sample_id must fit 64 bits, got {key}.")
        ids, scores = torch.tensor([key], device=images.device), None
        if score is not None:
            if not isinstance(score, Real) and not (
                isinstance(score, Tensor) and score.numel() == 1
            ):
                raise InputError(f"score must be a number in [0, 1], got {score!r}.")
            scores = torch.tensor([float(score)], device=images.device)
        out = self.views(images, scores, ids, epoch)
        return out[:, 0] if isinstance(out, Tensor) else [view[0] for view in out]


def as_tensor(image: "Image | Tensor") -> Tensor:
    """Convert a Pillow image to (3, H, W) uint8; return a tensor as it is."""
    if isinstance(image, Tensor):
        return image
    if not hasattr(image, "convert"):
        raise InputError(
            f"an image must be a Pillow image or a (3, H, W) tensor, got {type(image).__name__}; "
            "open files with PIL.Image.open, and convert arrays with torch.from_numpy."
        )
    rgb = image.convert("RGB")
    flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return flat.view(rgb.height, rgb.width, 3).permute(2, 0, 1)
