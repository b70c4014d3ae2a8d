"""Draw the parameters of the base chain as a function of seed, epoch, sample id and view."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bcl.augment.ops.constants import constant
from bcl.augment.params import ViewParams
from bcl.core.random import hash64, uniform

# Torchvision's number of attempts at a box that fits.
TRIES = 10
# Streams of the hash: 0-9 areas, 10-19 ratios, then one number each.
_TOP, _LEFT, _FLIP, _JITTER = 20, 21, 22, 23
_FACTORS, _ORDER, _GRAY, _BLUR, _SIGMA, _SOLARIZE = 24, 28, 32, 33, 34, 35
_STREAMS = 36


@dataclass(frozen=True)
class ChainSettings:
    """Ranges and probabilities of the base chain (see `bcl.ContrastiveViews`).

    Example:
        >>> settings = ChainSettings(flip=1.0, jitter_probability=0.0)
        >>> params = sample_chain(settings, torch.arange(9), (32, 32), seed=0, epoch=0, view=0)
        >>> params.flip.all(), params.hue.any()
        (tensor(True), tensor(False))
    """

    scale: tuple[float, float] = (0.1, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_probability: float = 0.0

    def __post_init__(self) -> None:
        """Lists, as configuration files have them, become tuples, which can be hashed."""
        for name in ("scale", "ratio", "jitter", "blur_sigma"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))


def sample_chain(
    settings: ChainSettings,
    ids: Tensor,
    image_size: tuple[int, int],
    *,
    seed: int,
    epoch: int,
    view: int | Tensor,
) -> ViewParams:
    """Draw one view's parameters for a batch.

    Args:
        settings: ranges and probabilities.
        ids: (B,) int64 sample ids.
        image_size: rows and columns of the images.
        seed: of the run.
        epoch: number of the epoch.
        view: number of the view, or (B,) int64.

    Returns:
        Parameters of B rows, without boosted ops.

    Example:
        >>> draw = dict(seed=0, epoch=3, view=1)
        >>> one = sample_chain(ChainSettings(), torch.arange(4), (32, 32), **draw)
        >>> two = sample_chain(ChainSettings(), torch.tensor([3]), (32, 32), **draw)
        >>> one.width[3] == two.width[0]
        tensor(True)
    """
    streams = torch.arange(_STREAMS, device=ids.device)
    u = uniform(hash64(seed, epoch, ids, view)[:, None], streams)  # (B, streams)
    top, left, height, width = sample_boxes(
        u[:, :TRIES], u[:, TRIES:_TOP], u[:, _TOP], u[:, _LEFT], image_size, settings
    )
    # jitter: factors in [max(0, 1 - j), 1 + j], hue in [-j, j]; neutral where not jittered.
    jittered = u[:, _JITTER] < settings.jitter_probability
    neutral = constant([1.0, 1.0, 1.0, 0.0], u)
    reach = constant(settings.jitter, u)
    low = torch.cat([(1 - reach[:3]).clamp(min=0), -reach[3:]])
    high = neutral + reach
    factors = low + (high - low) * u[:, _FACTORS:_ORDER]  # (B, 4)
    factors = torch.where(jittered[:, None], factors, neutral)
    low_sigma, high_sigma = settings.blur_sigma
    sigma = low_sigma + (high_sigma - low_sigma) * u[:, _SIGMA]
    return ViewParams(
        top=top,
        left=left,
        height=height,
        width=width,
        flip=u[:, _FLIP] < settings.flip,
        brightness=factors[:, 0],
        contrast=factors[:, 1],
        saturation=factors[:, 2],
        hue=factors[:, 3],
        order=u[:, _ORDER:_GRAY].argsort(dim=1, stable=True),
        gray=u[:, _GRAY] < settings.grayscale_probability,
        blur=torch.where(u[:, _BLUR] < settings.blur_probability, sigma, 0.0),
        solarize=u[:, _SOLARIZE] < settings.solarize_probability,
    )


def sample_boxes(
    area: Tensor,
    aspect: Tensor,
    place_y: Tensor,
    place_x: Tensor,
    image_size: tuple[int, int],
    settings: ChainSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Boxes of torchvision's ``RandomResizedCrop``.

    Each try takes an area share :math:`a` and a ratio :math:`r` (uniform in its logarithm),
    :math:`w = \sqrt{aHWr}, h = \sqrt{aHW/r}`, rounded; the first box that fits is taken, else the
    largest central box whose ratio is allowed.

    Args:
        area: (B, tries) uniform numbers.
        aspect: (B, tries) uniform numbers.
        place_y: (B,) uniform numbers.
        place_x: (B,) uniform numbers.
        image_size: rows H and columns W.
        settings: ``scale`` and ``ratio``.

    Returns:
        top, left, height, width, each (B,) int64.
    """
    rows, cols = image_size
    # float64 lets devices whose exp differs in the last bit agree on the rounded sides.
    exact = torch.float32 if area.device.type == "mps" else torch.float64
    low, high = settings.scale
    share = low + (high - low) * area.to(exact)
    log_low, log_high = math.log(settings.ratio[0]), math.log(settings.ratio[1])
    ratio = torch.exp(log_low + (log_high - log_low) * aspect.to(exact))
    width = (share * (rows * cols) * ratio).sqrt().round()  # (B, tries)
    height = (share * (rows * cols) / ratio).sqrt().round()
    fits = (width >= 1) & (width <= cols) & (height >= 1) & (height <= rows)
    first = fits.to(torch.int64).argmax(dim=1, keepdim=True)  # (B, 1), the first that fits
    any_fits = fits.any(dim=1)
    best_h, best_w = largest_box(rows, cols, settings.ratio)
    height = torch.where(any_fits, height.gather(1, first)[:, 0], float(best_h))
    width = torch.where(any_fits, width.gather(1, first)[:, 0], float(best_w))
    # The largest box stands in the middle.
    top = torch.where(any_fits, place_y.to(exact), 0.5) * (rows - height + 1)
    left = torch.where(any_fits, place_x.to(exact), 0.5) * (cols - width + 1)
    top, left = top.floor().minimum(rows - height), left.floor().minimum(cols - width)
    i = torch.int64
    return top.to(i), left.to(i), height.to(i), width.to(i)


def largest_box(rows: int, cols: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest box whose width over height is allowed."""
    if cols / rows < ratio[0]:
        return max(1, min(rows, round(cols / ratio[0]))), cols
    if cols / rows > ratio[1]:
        return rows, max(1, min(cols, round(rows * ratio[1])))
    return rows, cols
