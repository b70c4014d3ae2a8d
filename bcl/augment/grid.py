"""Grids that show what a score does: rows are images or ops, columns scores or magnitudes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bcl.augment.boost import BoostedRandAugment
from bcl.augment.params import BoostParams
from bcl.augment.policy import OPS, Policy, op_index
from bcl.augment.views import ContrastiveViews
from bcl.core.errors import InputError


def score_grid(
    images: Tensor, views: ContrastiveViews, scores: Sequence[float], epoch: int = 0
) -> Tensor:
    """The first view of each image at each score, with all other draws fixed.

    Args:
        images: (B, 3, H, W) uint8 or float images.
        views: the settings, with ``boost``.
        scores: the columns.
        epoch: number of the epoch.

    Returns:
        (B, len(scores), 3, rows, columns) float32.

    Raises:
        InputError: ``views`` has no ``boost``.

    Example:
        >>> from bcl import BoostedRandAugment
        >>> images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
        >>> grid = score_grid(images, ContrastiveViews(8, boost=BoostedRandAugment()), [0.0, 1.0])
        >>> grid.shape
        torch.Size([2, 2, 3, 8, 8])
        >>> grid[:, 0].equal(ContrastiveViews(8)(images, ids=torch.arange(2))[0])  # no boost at 0
        True
    """
    if views.boost is None:
        raise InputError(
            "these views have no boost, so scores have no effect; pass boost=BoostedRandAugment()."
        )
    ids = torch.arange(images.shape[0], device=images.device)
    columns = (torch.full(images.shape[:1], float(score)) for score in scores)
    return torch.stack([views(images, column, ids, epoch)[0] for column in columns], dim=1)


@torch.no_grad()
def op_grid(
    image: Tensor,
    magnitudes: Sequence[float],
    policy: Policy = "reference",
    ops: Sequence[str] = OPS,
) -> Tensor:
    """One image through each op at each magnitude.

    Args:
        image: (3, H, W) uint8 or float image.
        magnitudes: the columns, in [0, 30].
        policy: the policy whose ranges are used.
        ops: the rows, names of `OPS`.

    Returns:
        (len(ops), len(magnitudes), 3, H, W) float32 in [0, 1].

    Raises:
        InputError: an unknown op or policy, or a magnitude outside [0, 30].

    Example:
        >>> image = torch.arange(192, dtype=torch.uint8).view(3, 8, 8)
        >>> grid = op_grid(image, [0, 15, 30], policy="monotone", ops=["Rotate", "Solarize"])
        >>> changed = (255 * grid - image).abs().mean(dim=(2, 3, 4))  # (ops, magnitudes) in levels
        >>> changed[:, 0].tolist(), bool((changed.diff(dim=1) > 0).all())
        ([0.0, 0.0], True)
    """
    if not len(magnitudes) or not len(ops):
        raise InputError("a grid needs at least one magnitude and one op.")
    boost = BoostedRandAugment(policy=policy)
    levels = image.to(torch.float32) / (1 if image.is_floating_point() else 255)
    op = torch.tensor([op_index(name) for name in ops]).repeat_interleave(len(magnitudes))[:, None]
    magnitude = torch.tensor(magnitudes, dtype=torch.float32).repeat(len(ops))[:, None]
    one, center = torch.ones(op.shape), torch.full(op.shape, 0.5)
    params = BoostParams(op, one.bool(), magnitude, sign=one, center_x=center, center_y=center)
    out = boost.transform(levels.expand(len(op), -1, -1, -1), params.to(image.device))
    return out.view(len(ops), len(magnitudes), *image.shape)


def tile(grid: Tensor, gap: int = 2) -> Tensor:
    """Arrange a grid of images in one image.

    Args:
        grid: (rows, columns, 3, H, W) float in [0, 1].
        gap: white pixels between images.

    Returns:
        (3, height, width) uint8.

    Example:
        >>> tile(torch.zeros(2, 3, 3, 4, 4), gap=1).shape
        torch.Size([3, 11, 16])
    """
    padded = torch.nn.functional.pad(grid.cpu(), (0, gap, 0, gap), value=1.0)
    rows, cols, _, height, width = padded.shape
    sheet = padded.permute(2, 0, 3, 1, 4).reshape(3, rows * height, cols * width)
    sheet = torch.nn.functional.pad(sheet, (gap, 0, gap, 0), value=1.0)
    return (sheet * 255).round().clamp(0, 255).to(torch.uint8)
