"""Boosted RandAugment: every image's ops are as strong and as likely as its score says."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from bcl.augment.checks import (
    CheckValues,
    ValueChecks,
    bad_pixels,
    bad_scores,
    check_ids,
    check_images,
    check_key,
    check_ops,
    check_pixels,
    check_rows,
    check_scores,
)
from bcl.augment.kernels.launch import fused_boost, fused_draw_ops
from bcl.augment.ops import geometry
from bcl.augment.ops.blocks import change_rows, without_autocast
from bcl.augment.ops.color import enhance
from bcl.augment.ops.crop import to_levels
from bcl.augment.params import BoostParams
from bcl.augment.policy import (
    AUTO_CONTRAST,
    COLOR,
    CONTRAST,
    CUTOUT,
    EQUALIZE,
    INVERT,
    OPS,
    POSTERIZE,
    ROTATE,
    SHARPNESS,
    SOLARIZE,
    check_magnitudes,
    check_policy,
    op_values,
)
from bcl.core.errors import InputError, unknown_name
from bcl.core.random import hash64, uniform
from bcl.core.triton import runs_triton

Policy = Literal["reference", "monotone"]
Rule = Literal["bcl-i", "bcl-d", "imagenet"]

# k, magnitude at score 0 and at score 1, and whether zeta scales it.
RULES: dict[str, tuple[int, float, float, bool]] = {
    "bcl-i": (1, 10.0, 30.0, False),
    "bcl-d": (2, 5.0, 30.0, True),
    "imagenet": (2, 0.0, 30.0, True),
}

# Streams of the hash that are not those of the base chain (bcl.augment.sampling).
_ZETA, _FIRST = 1000, 1001


class BoostedRandAugment(nn.Module):
    r"""RandAugment whose strength and probability follow each image's memorization score M.

    .. math:: \Psi(x) = a_1 \circ \dots \circ a_k(x), \qquad
        a_j(x) = A_j(x;\, m) \text{ if } u_j < M \text{ else } x, \qquad
        m = m_{min} + (m_{max} - m_{min})\, M\, \zeta

    The ops :math:`A_j` are drawn with replacement and, like the coins :math:`u_j`, per view;
    :math:`\zeta \sim U(0, 1)` is drawn once an image and shared by its views, and is 1 unless
    ``random_magnitude``. A score of 0 leaves an image as it is, bit for bit.

    Named rules: ``"bcl-i"`` k = 1, m = 10 + 20 M; ``"bcl-d"`` k = 2, m = 5 + 25 M zeta;
    ``"imagenet"`` k = 2, m = 30 M zeta. An argument that is given replaces the rule's.

    Ops work on 8-bit levels with Pillow's arithmetic; in float images those that get an op are
    rounded to levels, the others are not touched.

    Args:
        num_ops: k, ops a view.
        policy: ``"reference"``, the released code's ops, most of which do not grow with magnitude;
            or ``"monotone"``, ours, in which stronger means farther from the image.
        min_magnitude: m at score 0, of 30.
        max_magnitude: m at score 1, of 30.
        random_magnitude: multiply by zeta.
        rule: where the arguments that are not given come from.
        seed: of the draws; `ContrastiveViews` uses its own instead.
        check_values: as for `ContrastiveViews`, and used where the module stands alone. Bytes
            cannot say NaN, so that uint8 images' scores are looked at unless ``"never"``.

    Raises:
        InputError: an unknown name, or a number outside its range.

    Source: BCL (arXiv 2205.12693), equation 4; the strengths are the released code's.

    Example:
        >>> boost = BoostedRandAugment()
        >>> images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
        >>> out = boost(images, scores=torch.tensor([0.0, 1.0]), ids=torch.arange(2))
        >>> out.dtype, out[0].equal(images[0])
        (torch.uint8, True)
    """

    def __init__(
        self,
        num_ops: int | None = None,
        policy: Policy = "reference",
        min_magnitude: float | None = None,
        max_magnitude: float | None = None,
        random_magnitude: bool | None = None,
        rule: Rule = "bcl-i",
        seed: int = 0,
        check_values: CheckValues = "first",
    ) -> None:
        super().__init__()
        if not isinstance(rule, str) or rule not in RULES:
            raise unknown_name("rule", rule, RULES)
        check_policy(policy)
        check_key("seed", seed)
        check_magnitudes(min_magnitude, max_magnitude)
        if random_magnitude is not None and not isinstance(random_magnitude, bool):
            raise InputError(f"random_magnitude must be True or False, got {random_magnitude!r}.")
        k, low, high, zeta = RULES[rule]
        self.num_ops = k if num_ops is None else num_ops
        self.policy: Policy = policy
        self.min_magnitude = float(low if min_magnitude is None else min_magnitude)
        self.max_magnitude = float(high if max_magnitude is None else max_magnitude)
        self.random_magnitude = zeta if random_magnitude is None else random_magnitude
        self.rule: Rule = rule
        self.seed = seed
        self._checks = ValueChecks(check_values)
        if isinstance(self.num_ops, bool) or not isinstance(self.num_ops, int) or self.num_ops < 1:
            raise InputError(f"num_ops must be a positive integer, got {num_ops!r}.")
        check_magnitudes(self.min_magnitude, self.max_magnitude)

    def sample(
        self,
        scores: Tensor,
        ids: Tensor,
        epoch: int = 0,
        view: int | Tensor = 0,
        seed: int | None = None,
    ) -> BoostParams:
        """Draw the parameters: a pure function of seed, epoch, id and view, and of the score.

        Args:
            scores: (B,) in [0, 1].
            ids: (B,) integers.
            epoch: number of the epoch.
            view: number of the view, or (B,) int64.
            seed: instead of the module's.

        Returns:
            Parameters of B rows.

        Raises:
            InputError: no ids or scores, or of another length, or scores outside [0, 1].
        """
        ids = check_ids(ids, ids)
        check_key("epoch", epoch)
        check_key("view", view)
        scores = check_scores(scores, ids, self._checks.looks_at(ids, scores))
        return self.draw(scores, ids, epoch, view, self.seed if seed is None else seed)

    def draw(
        self, scores: Tensor, ids: Tensor, epoch: int, view: int | Tensor, seed: int
    ) -> BoostParams:
        """`sample` without its checks; the magnitudes of a score that is NaN are NaN."""
        magnitude = self.magnitudes(scores, ids, epoch, seed)  # (B,)
        streams = torch.arange(5 * self.num_ops, device=ids.device) + _FIRST
        u = uniform(hash64(seed, epoch, ids, view)[:, None], streams)  # (B, 5 k)
        op, coin, sign, center_x, center_y = u.view(-1, self.num_ops, 5).unbind(2)
        return BoostParams(
            op=(op * len(OPS)).to(torch.int64),
            active=coin < scores[:, None],
            magnitude=magnitude[:, None].expand(-1, self.num_ops),
            sign=torch.where(sign < 0.5, 1.0, -1.0),
            center_x=center_x,
            center_y=center_y,
        )

    def draw_views(
        self, scores: Tensor, ids: Tensor, epoch: int, views: range, seed: int
    ) -> BoostParams:
        """`draw` for several views of a batch, view-major, by one kernel on a GPU."""
        return fused_draw_ops(
            scores,
            ids,
            seed,
            epoch,
            views,
            num_ops=self.num_ops,
            magnitudes=(self.min_magnitude, self.max_magnitude),
            zeta_stream=_ZETA if self.random_magnitude else None,
            first_stream=_FIRST,
        )

    def magnitudes(self, scores: Tensor, ids: Tensor, epoch: int = 0, seed: int = 0) -> Tensor:
        """(B,) magnitudes in [0, 30] that the rule gives these scores."""
        share = scores.to(torch.float32)
        if self.random_magnitude:
            share = share * uniform(hash64(seed, epoch, ids), _ZETA)
        return self.min_magnitude + (self.max_magnitude - self.min_magnitude) * share

    def apply_levels(self, x: Tensor, params: BoostParams, whole: bool = False) -> Tensor:
        """Apply the ops to float levels 0 .. 255.

        Args:
            x: (R, 3, H, W) float32 levels, which may be overwritten; rows that get an op are
                rounded to whole levels.
            params: of R rows.
            whole: the levels are whole already.

        Returns:
            (R, 3, H, W) float32 levels.
        """
        if runs_triton(x):
            return fused_boost(x, params, self.policy, whole)
        for j in range(params.op.shape[1]):
            step = params.map(lambda tensor, j=j: tensor[:, j])  # type: ignore[misc]
            x = apply_op(x, step, self.policy, whole or j > 0)
        return x

    def forward(
        self,
        images: Tensor,
        scores: Tensor,
        ids: Tensor | None = None,
        epoch: int = 0,
        view: int = 0,
    ) -> Tensor:
        """Boost a batch of images.

        Args:
            images: (B, 3, H, W) uint8, or float in [0, 1].
            scores: (B,) memorization scores in [0, 1].
            ids: (B,) integer sample ids, on which the draws depend.
            epoch: number of the epoch.
            view: number of the view.

        Returns:
            Images of the same shape and dtype.

        Raises:
            InputError: bad shapes or values, or no ids.
        """
        check_images(images)
        ids = check_ids(ids, images)
        check_key("epoch", epoch)
        check_key("view", view)
        look = self._looks_at(images)
        params = self.draw(check_scores(scores, ids, look), ids, epoch, view, self.seed)
        return self.transform(images, params)

    def _looks_at(self, images: Tensor) -> bool:
        whole = images.dtype == torch.uint8
        return self._checks.looks_at(images) or (whole and self._checks.when != "never")

    @torch.no_grad()
    def transform(self, images: Tensor, params: BoostParams) -> Tensor:
        """Apply stored parameters to images, uint8 or float in [0, 1]."""
        check_images(images)
        check_rows(params, images.shape[0], images, f"{images.shape[0]} images")
        look = self._looks_at(images)
        if look:
            check_pixels(images)
            check_ops(params)
        with without_autocast(images):
            if images.dtype == torch.uint8:
                levels = self.apply_levels(images.to(torch.float32), params, whole=True)
                return levels.to(torch.uint8)
            boosted = self.apply_levels(to_levels(images), params) / 255
        changed = params.active.any(dim=1)[:, None, None, None]
        out = torch.where(changed, boosted.to(images.dtype), images)
        self._checks.passed(images)
        if look:
            return out
        bad = bad_pixels(images) | bad_scores(params.magnitude)
        return out.masked_fill(bad[:, None, None, None], float("nan"))

    def extra_repr(self) -> str:
        """Describe the module in the model's print-out."""
        return (
            f"rule='{self.rule}', num_ops={self.num_ops}, policy='{self.policy}', "
            f"magnitude={self.min_magnitude:g}..{self.max_magnitude:g}, "
            f"random_magnitude={self.random_magnitude}"
        )


def apply_op(x: Tensor, params: BoostParams, policy: Policy, whole: bool = False) -> Tensor:
    """Apply one op an image, chosen per image.

    Args:
        x: (R, 3, H, W) float32 levels 0 .. 255; on a CPU it is changed in place.
        params: of R rows, each field (R,).
        policy: whose ranges to use.
        whole: the levels are whole already.

    Returns:
        (R, 3, H, W) float32 levels; rows that are not active are unchanged.
    """
    op, active = params.op, params.active
    monotone = policy == "monotone"
    magnitude = params.magnitude.nan_to_num(0.0)
    value = op_values(op, magnitude, policy)  # (R,) float64
    geometric, enhancing = op <= ROTATE, (op >= CONTRAST) & (op <= SHARPNESS)
    sign = params.sign.to(value.dtype)
    if monotone:
        value = torch.where(enhancing, 1 + sign * value, value)
        step = torch.exp2(value)
        share = value.to(torch.float32)
        threshold = value
    else:
        step = torch.exp2(8 - value.floor())
        share = torch.ones_like(magnitude)
        threshold = value * (op != INVERT)
    value = torch.where(geometric, sign * value, value)
    factor = value.to(torch.float32)

    def change(x: Tensor, chosen: Tensor, family: Callable[..., Tensor], *fields: Tensor) -> Tensor:
        return change_rows(x, active & chosen, family, *fields)

    if not whole:
        x = change(x, op >= 0, lambda y: (y + 0.5).floor_().clamp_(0, 255))
    stretching = (op == AUTO_CONTRAST) | (op == EQUALIZE)
    inverting = (op == INVERT) | (op == SOLARIZE)
    x = change(x, geometric, geometry.warp, op, value)
    x = change(x, stretching, geometry.stretch, op == EQUALIZE, share)
    x = change(x, inverting, geometry.invert_from, threshold.ceil().to(torch.float32))
    x = change(x, op == POSTERIZE, geometry.posterize, step.to(torch.float32))
    to_mean, to_grayscale = (op == CONTRAST).to(x.dtype), (op == COLOR).to(x.dtype)
    tinting = enhancing & (op != SHARPNESS)
    x = change(x, tinting, _enhance_whole, factor, to_mean, to_grayscale)
    x = change(x, op == SHARPNESS, geometry.sharpen, factor)
    center_x, center_y = params.center_x * x.shape[3], params.center_y * x.shape[2]
    return change(
        x, op == CUTOUT, geometry.cutout, value, center_x.to(value.dtype), center_y.to(value.dtype)
    )


def _enhance_whole(x: Tensor, factor: Tensor, to_mean: Tensor, to_grayscale: Tensor) -> Tensor:
    return enhance(x, factor, to_mean, to_grayscale, exact=True)
