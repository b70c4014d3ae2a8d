"""Color jitter: brightness, contrast, saturation and hue in each image's own order."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bcl.augment.ops.color import CONTRAST, HUE, SATURATION, enhance, shift_hue
from bcl.augment.params import Params, ViewParams

# Where the hue is turned: before step 0, 1, 2 or after step 2 of the three blends; without hue;
# and no jitter at all.
NO_HUE, NO_JITTER = 4, 5


@dataclass(frozen=True)
class JitterPlan(Params):
    """What `apply_jitter` does with R views.

    Attributes:
        blend: (R, 3) int64, the three blends in their order.
        factor: (R, 3) float32.
        to_mean: (R, 3) float32, 1 where the blend is contrast.
        to_grayscale: (R, 3) float32, 1 where it is saturation.
        hue: (R,) float32 turns.
        place: (R,) int64, 0 .. 3 blends stand before the hue, or `NO_HUE`, or `NO_JITTER`.
    """

    blend: Tensor
    factor: Tensor
    to_mean: Tensor
    to_grayscale: Tensor
    hue: Tensor
    place: Tensor

    @classmethod
    def of(cls, params: ViewParams) -> "JitterPlan":
        """Plan the jitter that ``params`` describe."""
        place = (params.order == HUE).to(torch.int64).argmax(dim=1)  # (R,)
        step = torch.arange(3, device=place.device)
        blends = params.order.gather(1, step + (step >= place[:, None]).to(torch.int64))  # (R, 3)
        factors = torch.stack([params.brightness, params.contrast, params.saturation], dim=1)
        jittered = (factors != 1).any(dim=1)
        place = torch.where(params.hue != 0, place, torch.where(jittered, NO_HUE, NO_JITTER))
        return cls(
            blend=blends,
            factor=factors.gather(1, blends),
            to_mean=(blends == CONTRAST).to(torch.float32),
            to_grayscale=(blends == SATURATION).to(torch.float32),
            hue=params.hue,
            place=place,
        )


class ColorOps(NamedTuple):
    """The two functions that most of the time goes into, as they are or compiled."""

    enhance: Callable[[Tensor, Tensor, Tensor, Tensor, bool, int | None], Tensor] = enhance
    shift_hue: Callable[[Tensor, Tensor, bool], Tensor] = shift_hue


def apply_jitter(
    x: Tensor,
    plan: JitterPlan,
    exact: bool,
    place: int | None = None,
    blends: tuple[int, ...] | None = None,
    ops: ColorOps = ColorOps(),  # noqa: B008 - immutable
) -> Tensor:
    """Jitter the colors.

    Args:
        x: (R, 3, H, W) float32 levels.
        plan: of R rows.
        exact: whole levels after every step.
        place: the ``plan.place`` that all rows share; None where they differ, and the hue is then
            computed at every place and kept where it belongs.
        blends: the ``plan.blend`` that all rows share, or None.
        ops: how to do it.

    Returns:
        (R, 3, H, W) float32 levels; rows that are not jittered are unchanged.
    """
    if place == NO_JITTER:
        return x
    for step in range(4):
        if place is None:
            here = (plan.place == step)[:, None, None, None]
            x = torch.where(here, ops.shift_hue(x, plan.hue, exact), x)
        elif place == step:
            x = ops.shift_hue(x, plan.hue, exact)
        if step < 3:
            flags = plan.to_mean[:, step], plan.to_grayscale[:, step]
            kind = None if blends is None else blends[step]
            x = ops.enhance(x, plan.factor[:, step], *flags, exact, kind)
    return x
