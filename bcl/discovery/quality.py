"""Dark, blurred and empty images, from their pixels alone."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

LUMA = (0.299, 0.587, 0.114)
LEVELS = 32  # gray levels of the entropy
DARK = 0.2  # brightness below
LOW_INFORMATION = 1.5  # bits below
BLURRED = 0.1  # of the collection's median sharpness, below
MEASURES = ("brightness", "entropy", "sharpness")


def image_quality(images: Tensor) -> dict[str, Tensor]:
    r"""Measure brightness, entropy and sharpness of images.

    With gray values :math:`g \in [0, 1]`: brightness is their 95th percentile; entropy
    :math:`-\sum_l p_l \log_2 p_l` over 32 levels, 0 to 5 bits; sharpness
    :math:`\operatorname{Var}(\nabla^2 g) / \operatorname{Var}(g)`, with the four-neighbor Laplacian
    inside the image: 0 for a flat image, 20 for white noise, whatever the contrast.

    Args:
        images: (B, 3, H, W) uint8, at least 3 px on each side.

    Returns:
        Three (B,) float32 tensors by name.

    Example:
        >>> black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        >>> {name: values.item() for name, values in image_quality(black).items()}
        {'brightness': 0.0, 'entropy': 0.0, 'sharpness': 0.0}
    """
    weights = torch.tensor(LUMA, device=images.device)[:, None, None]
    gray = (images.float() * weights).sum(1).div_(255)  # (B, H, W)
    flat = gray.flatten(1)
    place = max(1, round(0.95 * flat.shape[1]))
    levels = (flat * LEVELS).long().clamp_(max=LEVELS - 1)
    counts = torch.zeros(len(flat), LEVELS, device=flat.device)
    counts.scatter_add_(1, levels, torch.ones_like(flat))
    laplacian = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=flat.device)
    edges = conv2d(gray[:, None], laplacian[None, None]).flatten(1)
    variance = flat.var(1, correction=0)
    sharpness = edges.var(1, correction=0) / variance.clamp_min(1e-6)
    return {
        "brightness": flat.kthvalue(place, dim=1).values,
        "entropy": torch.special.entr(counts / flat.shape[1]).sum(1) / torch.log(torch.tensor(2.0)),
        "sharpness": torch.where(variance > 1e-6, sharpness, 0.0),
    }


def quality_flags(measures: dict[str, Tensor]) -> dict[str, Tensor]:
    """Which images are dark, hold little information or are blurred: three (N,) bool tensors.

    Dark is a brightness below 0.2, low information an entropy below 1.5 bits; blurred, a sharpness
    below a tenth of the collection's median, since sharpness depends on the size that images were
    decoded at. An image of low information is not called blurred too.
    """
    empty = measures["entropy"] < LOW_INFORMATION
    sharpness = measures["sharpness"]
    return {
        "dark": measures["brightness"] < DARK,
        "low_information": empty,
        "blurred": (sharpness < BLURRED * sharpness.median()) & ~empty,
    }
