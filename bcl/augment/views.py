"""Views for contrastive learning, a whole batch at a time on its device."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from bcl.augment.boost import BoostedRandAugment
from bcl.augment.chain import chain_at_once, chain_in_blocks
from bcl.augment.checks import (
    CheckValues,
    ValueChecks,
    bad_pixels,
    bad_scores,
    check_boxes,
    check_drawn,
    check_ids,
    check_images,
    check_key,
    check_pixels,
    check_rows,
    check_scores,
)
from bcl.augment.kernels.launch import chain_fits, fused_chain, fused_draw, fused_finish
from bcl.augment.ops.blocks import device_blocks, waits_for_nothing, without_autocast
from bcl.augment.ops.color import enhance, shift_hue
from bcl.augment.ops.constants import constant
from bcl.augment.ops.crop import ORDERS
from bcl.augment.ops.jitter import ColorOps
from bcl.augment.params import BoostParams, ViewParams
from bcl.augment.sampling import ChainSettings, sample_chain
from bcl.augment.settings import (
    check_count,
    check_normalization,
    check_settings,
    check_size,
)
from bcl.core.errors import InputError, unknown_name
from bcl.core.triton import runs_triton

Arithmetic = Literal["exact", "fast"]
ARITHMETICS: tuple[Arithmetic, ...] = ("exact", "fast")
ResizeOrder = Literal["pillow-13", "pillow-12"]


class ContrastiveViews(nn.Module):
    r"""Random views of a batch: the SimCLR chain, then ops as strong as each score says.

    Random resized crop (antialiased bicubic), flip, color jitter, gray, optional blur and
    solarize, then `BoostedRandAugment` if ``boost`` is given. What is drawn is a function of
    (seed, epoch, id, view) alone: the same on every device, rank and resume.

    Args:
        size: side of a view in pixels, or (rows, columns).
        num_views: V.
        scale: least and largest share of the image's area in a crop.
        ratio: least and largest width over height of a crop.
        flip: probability of mirroring.
        jitter: reach of brightness, contrast, saturation and hue.
        jitter_probability: of jittering.
        grayscale_probability: of taking the color away.
        blur_probability: of a Gaussian blur.
        blur_sigma: least and largest standard deviation of the blur, in pixels.
        solarize_probability: of inverting the levels from 128 up.
        boost: the boosted ops, or None for the plain chain.
        num_local: further, smaller views (multi-crop).
        local_size: their side, or (rows, columns).
        local_scale: their share of the area.
        mean: subtracted from each channel at the end, or None.
        std: divides each channel at the end, or None.
        arithmetic: ``"exact"`` rounds to 8-bit levels after every step as Pillow does, ``"fast"``
            computes the base chain in float without rounding.
        resize_order: whether crops that lose far more rows than columns are resized rows first,
            as by Pillow 13, or columns first like all others, as up to Pillow 12.
        check_values: scores outside [0, 1], float images outside [0, 1] and NaN are refused
            always on a CPU, and on a device in the ``"first"`` batch or ``"always"``, for which
            the host waits, or ``"never"`` on either. Where they are not looked at, the views of
            such an image are NaN.
        seed: of the draws.

    Raises:
        InputError: an argument out of its range.

    Example:
        >>> views = ContrastiveViews(32, boost=BoostedRandAugment())
        >>> images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        >>> out = views(images, scores=torch.rand(4), ids=torch.arange(4), epoch=1)
        >>> out.shape, out.dtype
        (torch.Size([2, 4, 3, 32, 32]), torch.float32)
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        num_views: int = 2,
        scale: tuple[float, float] = (0.1, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        jitter_probability: float = 0.8,
        grayscale_probability: float = 0.2,
        blur_probability: float = 0.0,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        solarize_probability: float = 0.0,
        boost: BoostedRandAugment | None = None,
        num_local: int = 0,
        local_size: int | tuple[int, int] | None = None,
        local_scale: tuple[float, float] = (0.05, 0.3),
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        arithmetic: Arithmetic = "exact",
        seed: int = 0,
        resize_order: ResizeOrder = "pillow-13",
        check_values: CheckValues = "first",
    ) -> None:
        super().__init__()
        if arithmetic not in ARITHMETICS:
            raise unknown_name("arithmetic", arithmetic, ARITHMETICS)
        if resize_order not in ORDERS:
            raise unknown_name("resize_order", resize_order, ORDERS)
        self.size = check_size("size", size)
        self.num_views = num_views
        self.num_local = num_local
        self.boost = boost
        self.arithmetic: Arithmetic = arithmetic
        self.seed = seed
        self.resize_order: ResizeOrder = resize_order
        self._checks = ValueChecks(check_values)
        self._ops = ColorOps()
        check_key("seed", seed)
        check_count("num_views", num_views, 1)
        check_count("num_local", num_local, 0)
        if boost is not None and not isinstance(boost, BoostedRandAugment):
            raise InputError(
                f"boost must be a BoostedRandAugment or None, got {boost!r}; for instance "
                "BoostedRandAugment(rule='bcl-d')."
            )
        if num_local and local_size is None:
            raise InputError(
                "num_local needs local_size, the side of the local views; 96 is usual."
            )
        self.local_size = None if local_size is None else check_size("local_size", local_size)
        check_normalization(mean, std)
        self.mean, self.std = mean, std
        self.settings = ChainSettings(
            scale=scale,
            ratio=ratio,
            flip=flip,
            jitter=jitter,
            jitter_probability=jitter_probability,
            grayscale_probability=grayscale_probability,
            blur_probability=blur_probability,
            blur_sigma=blur_sigma,
            solarize_probability=solarize_probability,
        )
        self.local_settings = ChainSettings(**{**vars(self.settings), "scale": local_scale})
        check_settings(self.settings)
        check_settings(self.local_settings)

    def sample(
        self,
        ids: Tensor,
        image_size: tuple[int, int],
        scores: Tensor | None = None,
        epoch: int = 0,
    ) -> list[ViewParams]:
        """Draw the parameters of all views.

        Args:
            ids: (B,) integer sample ids.
            image_size: rows and columns of the images.
            scores: (B,) in [0, 1], needed by ``boost``.
            epoch: number of the epoch.

        Returns:
            The parameters of the num_views * B views, row ``v * B + b`` for view v of image b;
            with local views a second item with those of the num_local * B local ones.

        Raises:
            InputError: bad ids or scores, or no scores where ``boost`` needs them.
        """
        ids = check_ids(ids, ids)
        check_key("epoch", epoch)
        image_size = check_size("image_size", image_size)
        if self.boost is not None:
            look = self._checks.looks_at(ids, scores)
            scores = check_scores(scores, ids, look, mark=not self._draws_at_once(ids, epoch))
        first = self._draw(range(self.num_views), self.settings, ids, image_size, scores, epoch)
        if not self.num_local:
            return [first]
        local = range(self.num_views, self.num_views + self.num_local)
        return [first, self._draw(local, self.local_settings, ids, image_size, scores, epoch)]

    def _draw(
        self,
        views: range,
        settings: ChainSettings,
        ids: Tensor,
        image_size: tuple[int, int],
        scores: Tensor | None,
        epoch: int,
    ) -> ViewParams:
        if self._draws_at_once(ids, epoch):
            drawn = fused_draw(settings, ids, image_size, self.seed, epoch, views)
            if self.boost is None or scores is None:
                return drawn
            ops = self.boost.draw_views(scores, ids, epoch, views, seed=self.seed)
            return replace(drawn, boost=ops)
        number = torch.arange(views.start, views.stop, device=ids.device)
        view = number.repeat_interleave(ids.shape[0], output_size=len(views) * ids.shape[0])
        ids = ids.repeat(len(views))  # (V B,)
        params = sample_chain(settings, ids, image_size, seed=self.seed, epoch=epoch, view=view)
        if self.boost is None or scores is None:
            return replace(params, view=view)
        scores = scores.repeat(len(views))
        return replace(
            params, view=view, boost=self.boost.draw(scores, ids, epoch, view, seed=self.seed)
        )

    def _draws_at_once(self, ids: Tensor, epoch: int) -> bool:
        # A tensor's value would have to be waited for.
        return runs_triton(ids) and not any(isinstance(x, Tensor) for x in (epoch, self.seed))

    @torch.no_grad()
    def transform(self, images: Tensor, params: list[ViewParams]) -> Tensor | list[Tensor]:
        """Make the views that ``params`` describe (from `sample`, or stored ones).

        Args:
            images: (B, 3, H, W) uint8, or float in [0, 1].
            params: as `sample` returns them.

        Returns:
            As `forward`.
        """
        check_images(images)
        self._check_groups(params, images)
        look = self._checks.looks_at(images)
        if look:
            check_pixels(images)
        numbers = range(self.num_views), range(self.num_views, self.num_views + self.num_local)
        views = []
        for drawn, size, group in zip(params, (self.size, self.local_size), numbers, strict=False):
            if size is not None:
                check_boxes(drawn, images, look)
                if look:
                    check_drawn(drawn, group, images.shape[0])
                if self._fuses(images, size):
                    views.append(self._fused(images, drawn, size, look))
                    continue
                bad = None if look else self._bad(images, drawn)
                with without_autocast(images):
                    views.append(self._finish(self._levels(images, drawn, size), bad))
        self._checks.passed(images)
        if len(views) == 1:
            return views[0]
        return [view for group in views for view in group.unbind(0)]

    def forward(
        self,
        images: Tensor,
        scores: Tensor | None = None,
        ids: Tensor | None = None,
        epoch: int = 0,
    ) -> Tensor | list[Tensor]:
        """Make the views of a batch.

        Args:
            images: (B, 3, H, W) uint8, or float in [0, 1]; any size.
            scores: (B,) memorization scores in [0, 1], needed by ``boost``; a score of 0 leaves
                the base chain's view as it is, bit for bit.
            ids: (B,) integer sample ids, on which the draws depend.
            epoch: number of the epoch.

        Returns:
            (V, B, 3, *size) float32 in [0, 1], before ``mean`` and ``std``; with local views a
            list of V + num_local tensors (B, 3, rows, columns).

        Raises:
            InputError: bad shapes or values, no ids, or no scores where ``boost`` needs them.
        """
        check_images(images)
        ids = check_ids(ids, images)
        rows, cols = images.shape[2:]
        return self.transform(images, self.sample(ids, (rows, cols), scores, epoch))

    def _check_groups(self, params: list[ViewParams], images: Tensor) -> None:
        """Refuse parameters that these views would not follow to the letter."""
        groups = 2 if self.num_local else 1
        listed = isinstance(params, list | tuple)
        if (
            not listed
            or len(params) != groups
            or any(not isinstance(drawn, ViewParams) for drawn in params)
        ):
            kinds = ", ".join(type(drawn).__name__ for drawn in params) if listed else ""
            got = f"{len(params)} ({kinds})" if listed else type(params).__name__
            raise InputError(
                f"params must be the list that sample() returns, here of {groups} ViewParams (the "
                f"views, then the local ones if there are any), got {got}."
            )
        if self.boost is None and any(drawn.boost is not None for drawn in params):
            raise InputError(
                "the parameters hold boosted ops, and these views have no boost to apply them; "
                "give them the one that drew them, whose policy says what a magnitude means."
            )
        count = images.shape[0]
        for drawn, number in zip(params, (self.num_views, self.num_local), strict=False):
            what = f"{number} views of each of {count} images"
            check_rows(drawn, number * count, images, what)

    def _fuses(self, images: Tensor, size: tuple[int, int]) -> bool:
        """Whether kernels make these views; what was compiled is used where it is wanted."""
        return runs_triton(images) and chain_fits(images, size) and self._ops == ColorOps()

    def _fused(
        self, images: Tensor, params: ViewParams, size: tuple[int, int], look: bool
    ) -> Tensor:
        """(V, B, 3, *size) as they are handed out, by `bcl.augment.kernels.chain`."""
        exact = self.arithmetic == "exact"
        out = fused_chain(images, params, size, exact, self.resize_order == "pillow-13")
        out = self._boosted(out, params.boost)
        pixels = bad_pixels(images) if images.is_floating_point() and not look else None
        magnitude = None if look or params.boost is None else params.boost.magnitude
        out = fused_finish(out, pixels, magnitude, self.mean, self.std)
        return out.view(-1, *images.shape[:2], *size)

    @staticmethod
    def _bad(images: Tensor, params: ViewParams) -> Tensor:
        """(V, B) bool, views of an image or a score with values that it must not have."""
        bad = bad_pixels(images)[None].expand(params.top.shape[0] // images.shape[0], -1)
        if params.boost is None:
            return bad
        return bad | bad_scores(params.boost.magnitude).view_as(bad)

    def _levels(self, images: Tensor, params: ViewParams, size: tuple[int, int]) -> Tensor:
        """(V, B, 3, *size) levels 0 .. 255."""
        exact = self.arithmetic == "exact"
        if not waits_for_nothing(images):
            out = chain_in_blocks(images, params, size, exact, self.resize_order, self._ops)
            out = self._boosted(out, params.boost)
        else:
            parts, levels = [], 3 * size[0] * size[1]
            for rows in device_blocks(params.top.shape[0], levels, images[0].numel()):
                part = chain_at_once(
                    images, params, rows, size, exact, self.resize_order, self._ops
                )
                boost = None if params.boost is None else params.boost.rows(rows)
                parts.append(self._boosted(part, boost))
            out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out.view(-1, *images.shape[:2], *size)

    def _boosted(self, x: Tensor, params: BoostParams | None) -> Tensor:
        if self.boost is None or params is None:
            return x
        return self.boost.apply_levels(x, params, whole=self.arithmetic == "exact")

    def _finish(self, views: Tensor, bad: Tensor | None) -> Tensor:
        """Levels to [0, 1], then ``mean`` and ``std``; the ``bad`` ones to NaN."""
        # By a tensor: a GPU would turn 255 into a product with 1 / 255, whose last bit differs.
        full = views.new_full((*views.shape[:2], 1, 1, 1), 255)
        if bad is not None:
            full = full.masked_fill_(bad[:, :, None, None, None], float("nan"))
        views = views.div_(full)
        if self.mean is not None and self.std is not None:
            views = views.sub_(constant(self.mean, views)[:, None, None])
            views = views.div_(constant(self.std, views)[:, None, None])
        return views

    def compile_parts(self) -> "ContrastiveViews":
        """Compile the color operations with ``torch.compile`` and return the module.

        On a CPU this is faster than compiling the module as a whole, since each image still
        gets only the ops that it needs; on a GPU use ``torch.compile(views)``.
        """
        self._ops = ColorOps(
            enhance=torch.compile(enhance, dynamic=True),
            shift_hue=torch.compile(shift_hue, dynamic=True),
        )
        return self

    def extra_repr(self) -> str:
        """Describe the module in the model's print-out."""
        return f"size={self.size}, num_views={self.num_views}, {self.settings}, seed={self.seed}"
