"""Views for contrastive learning, a whole batch at a time on its device."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bcl.augment.boost import BoostedRandAugment
from bcl.augment.checks import as_images, check_ids, check_integer, check_pixels, check_scores
from bcl.augment.kernels.launch import path_for
from bcl.augment.params import ViewParams
from bcl.augment.sampling import Arithmetic, ChainSettings, ViewSettings, sides
from bcl.core.checks import TensorLike, check_count
from bcl.core.errors import InputError


class Group(NamedTuple):
    """Views of one size: their numbers, and how they are drawn and made."""

    views: range
    chain: ChainSettings
    settings: ViewSettings


class ContrastiveViews(nn.Module):
    r"""Random views of a batch: the SimCLR chain, then ops whose strength follows each score.

    Random resized crop (antialiased bicubic), flip, color jitter, gray, optional blur and
    solarize, then `BoostedRandAugment` if ``boost`` is given. The draws are a function of
    (seed, epoch, id, view) alone: the same on every device, rank and resume.

    Where Triton is installed a GPU runs our kernels; elsewhere the views are made in plain PyTorch
    on the CPU. The kernels never make the host wait, so a score or a float image outside [0, 1] is
    not refused there: its views are NaN, which the losses and the tracker refuse.

    Args:
        size: side of a view in pixels, or (rows, columns).
        num_views: V.
        chain: ranges and probabilities of crop, flip, jitter, gray, blur and solarize.
        boost: the boosted ops, or None for the plain chain.
        num_local: number of additional, smaller views (multi-crop).
        local_size: their side, or (rows, columns).
        local_scale: their ``scale``, instead of the chain's.
        mean: subtracted from each channel at the end, or None.
        std: divides each channel at the end, or None.
        arithmetic: ``"exact"`` rounds to 8-bit levels after every step as Pillow does, ``"fast"``
            computes the base chain in float without rounding.
        seed: seed of the draws.

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
        chain: ChainSettings = ChainSettings(),  # noqa: B008 - immutable
        boost: BoostedRandAugment | None = None,
        num_local: int = 0,
        local_size: int | tuple[int, int] | None = None,
        local_scale: tuple[float, float] = (0.05, 0.3),
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        arithmetic: Arithmetic = "exact",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("num_views", num_views)
        check_count("num_local", num_local, at_least=0)
        if boost is not None and not isinstance(boost, BoostedRandAugment):
            raise InputError(f"boost must be a BoostedRandAugment or None, got {boost!r}.")
        if not isinstance(chain, ChainSettings):
            raise InputError(f"chain must be a ChainSettings, got {chain!r}.")
        if num_local and local_size is None:
            raise InputError("num_local needs local_size, the side of the local views, often 96.")
        settings = ViewSettings(size, arithmetic, mean, std)  # type: ignore[arg-type]
        self.size, self.mean, self.std = settings.size, settings.mean, settings.std
        self.num_views = num_views
        self.num_local = num_local
        self.chain = chain
        self.boost = boost
        self.seed = check_integer("seed", seed)
        self._groups = [Group(range(num_views), chain, settings)]
        if num_local:
            numbers = range(num_views, num_views + num_local)
            local = replace(settings, size=sides("local_size", local_size))  # type: ignore[arg-type]
            self._groups.append(Group(numbers, replace(chain, scale=local_scale), local))

    def sample(
        self,
        ids: TensorLike,
        image_size: tuple[int, int],
        scores: TensorLike | None = None,
        epoch: int = 0,
    ) -> list[ViewParams]:
        """Draw the parameters of all views of images of ``image_size`` (rows, columns).

        The other arguments and the errors are those of `forward`.

        Returns:
            The parameters of num_views * B views, row ``v * B + b`` for view v of image b; with
            local views a second item for the num_local * B local ones.
        """
        return self._draw(check_ids(ids), image_size, scores, epoch)

    @torch.no_grad()
    def transform(self, images: TensorLike, params: list[ViewParams]) -> Tensor | list[Tensor]:
        """Make the views of `forward` from parameters of `sample`, or from stored ones.

        Raises:
            InputError: bad images, or parameters that do not belong to this batch and these views.
        """
        images = as_images(images)
        self._check_params(images, params)
        return self._make(images, params)

    @torch.no_grad()
    def forward(
        self,
        images: TensorLike,
        scores: TensorLike | None = None,
        ids: TensorLike | None = None,
        epoch: int = 0,
    ) -> Tensor | list[Tensor]:
        """Make the views of a batch.

        Args:
            images: (B, 3, H, W) uint8, or float in [0, 1]; any size.
            scores: (B,) memorization scores in [0, 1], needed by ``boost``; a score of 0 leaves
                the base chain's view unchanged, bit for bit.
            ids: (B,) integer sample ids, on which the draws depend.
            epoch: number of the epoch.

        Returns:
            (V, B, 3, *size) float32 in [0, 1], before ``mean`` and ``std``; with local views a
            list of V + num_local tensors (B, 3, rows, columns).

        Raises:
            InputError: bad shapes or values, no ids, or no scores where ``boost`` needs them.
        """
        images = as_images(images)
        ids = check_ids(ids, images)
        rows, cols = images.shape[2:]
        return self._make(images, self._draw(ids, (rows, cols), scores, epoch))

    def _draw(
        self, ids: Tensor, image_size: tuple[int, int], scores: TensorLike | None, epoch: int
    ) -> list[ViewParams]:
        path, keys = path_for(ids), (self.seed, check_integer("epoch", epoch))
        drawn = [
            path.draw_chain(group.chain, ids, image_size, *keys, group.views)
            for group in self._groups
        ]
        if self.boost is None:
            return drawn
        scores = check_scores(scores, ids, values=path.waits)
        return [
            replace(
                params, boost=path.draw_ops(self.boost.strength, scores, ids, *keys, group.views)
            )
            for params, group in zip(drawn, self._groups, strict=True)
        ]

    def _make(self, images: Tensor, params: list[ViewParams]) -> Tensor | list[Tensor]:
        path = path_for(images)
        if path.waits:
            check_pixels(images)
        policy = "reference" if self.boost is None else self.boost.policy
        made = [
            path.make_views(images, drawn, group.settings, policy)
            for drawn, group in zip(params, self._groups, strict=True)
        ]
        made = [views.view(-1, len(images), *views.shape[1:]) for views in made]
        return made[0] if len(made) == 1 else [view for views in made for view in views]

    def _check_params(self, images: Tensor, params: list[ViewParams]) -> None:
        """Refuse stored parameters that are not of this batch and these views."""
        right = isinstance(params, list | tuple) and len(params) == len(self._groups)
        if not right or not all(isinstance(drawn, ViewParams) for drawn in params):
            raise InputError(
                f"params must be the list that sample() returns, here {len(self._groups)} "
                f"ViewParams, got {type(params).__name__}: {params!r:.80}"
            )
        rows, cols = images.shape[2:]
        for drawn, group in zip(params, self._groups, strict=True):
            if drawn.boost is not None and self.boost is None:
                raise InputError(
                    "the parameters hold boosted ops, but these views have no boost, whose policy "
                    "says what a magnitude means; pass the boost that drew them."
                )
            drawn.check(len(group.views) * len(images), images.device)
            drawn.check_values(group.views, (rows, cols))

    def extra_repr(self) -> str:
        """Describe the module when it is printed."""
        return f"size={self.size}, num_views={self.num_views}, {self.chain}, seed={self.seed}"
