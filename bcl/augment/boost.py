"""Boosted RandAugment: each image's ops are as strong and as likely as its score says."""

from dataclasses import asdict
from typing import Literal

import torch
from torch import Tensor, nn

from bcl.augment.checks import as_images, check_ids, check_integer, check_pixels, check_scores
from bcl.augment.kernels.launch import path_for
from bcl.augment.ops.crop import to_levels
from bcl.augment.params import BoostParams
from bcl.augment.policy import POLICIES, Policy
from bcl.augment.sampling import Strength
from bcl.core.checks import TensorLike, check_choice

Scheme = Literal["bcl-i", "bcl-d", "imagenet"]

SCHEMES: dict[str, Strength] = {
    "bcl-i": Strength(1, 10.0, 30.0, random_magnitude=False),
    "bcl-d": Strength(2, 5.0, 30.0, random_magnitude=True),
    "imagenet": Strength(2, 0.0, 30.0, random_magnitude=True),
}


class BoostedRandAugment(nn.Module):
    r"""RandAugment whose strength and probability follow each image's memorization score M.

    .. math:: \Psi(x) = a_1 \circ \dots \circ a_k(x), \qquad
        a_j(x) = A_j(x;\, m) \text{ if } u_j < M \text{ else } x, \qquad
        m = m_{min} + (m_{max} - m_{min})\, M\, \zeta

    The ops :math:`A_j` are drawn with replacement and, like the coins :math:`u_j`, per view;
    :math:`\zeta \sim U(0, 1)` is drawn once per image and shared by its views, and is 1 unless
    ``random_magnitude``. A score of 0 leaves an image unchanged, bit for bit.

    Ops work on 8-bit levels with Pillow's arithmetic. Float images are rounded to
    levels only if they get an op.

    Args:
        scheme: defaults of the strength: ``"bcl-i"`` k = 1, m = 10 + 20 M; ``"bcl-d"`` k = 2,
            m = 5 + 25 M zeta; ``"imagenet"`` k = 2, m = 30 M zeta.
        policy: ``"reference"``, the released code's ops, most of which do not grow with magnitude;
            or ``"monotone"``, ours, in which a larger magnitude changes the image more.
        num_ops: k, ops per view, instead of the scheme's.
        min_magnitude: m at score 0, in [0, 30], instead of the scheme's.
        max_magnitude: m at score 1, in [0, 30], instead of the scheme's.
        random_magnitude: whether zeta is drawn, instead of the scheme's.
        seed: seed of the draws; `ContrastiveViews` uses its own.

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
        scheme: Scheme = "bcl-i",
        policy: Policy = "reference",
        num_ops: int | None = None,
        min_magnitude: float | None = None,
        max_magnitude: float | None = None,
        random_magnitude: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choice("scheme", scheme, list(SCHEMES))
        check_choice("policy", policy, POLICIES)
        given = {
            "num_ops": num_ops, "min_magnitude": min_magnitude, "max_magnitude": max_magnitude,
            "random_magnitude": random_magnitude,
        }  # fmt: skip
        own = {name: value for name, value in given.items() if value is not None}
        self.strength = Strength(**{**asdict(SCHEMES[scheme]), **own})
        self.scheme: Scheme = scheme
        self.policy: Policy = policy
        self.seed = check_integer("seed", seed)

    def sample(
        self, scores: TensorLike, ids: TensorLike, epoch: int = 0, view: int = 0
    ) -> BoostParams:
        """Draw the parameters of B rows, a function of seed, epoch, id and view, and of the score.

        Arguments and errors are those of `forward`.
        """
        ids = check_ids(ids)
        scores = check_scores(scores, ids, values=True)
        epoch, view = check_integer("epoch", epoch), check_integer("view", view)
        views = range(view, view + 1)
        return path_for(ids).draw_ops(self.strength, scores, ids, self.seed, epoch, views)

    def forward(
        self,
        images: TensorLike,
        scores: TensorLike,
        ids: TensorLike | None = None,
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
        images = as_images(images)
        ids = check_ids(ids, images)
        return self.transform(images, self.sample(scores, ids, epoch, view))

    @torch.no_grad()
    def transform(self, images: TensorLike, params: BoostParams) -> Tensor:
        """Apply parameters from `sample`, or stored ones, to images."""
        images = as_images(images)
        check_pixels(images)
        params.check(len(images), images.device)
        params.check_values()
        apply_ops = path_for(images).apply_ops
        if not images.is_floating_point():
            levels = apply_ops(to_levels(images), params, self.policy, whole=True)
            return levels.to(images.dtype)
        boosted = apply_ops(to_levels(images), params, self.policy, whole=False) / 255
        changed = params.active.any(dim=1)[:, None, None, None]
        return torch.where(changed, boosted.to(images.dtype), images)

    def extra_repr(self) -> str:
        """Describe the module when it is printed."""
        return f"scheme='{self.scheme}', policy='{self.policy}', {self.strength}"
