"""SogCLR: the denominator of every sample is remembered, so that a batch may be small."""

import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from bcl.core.checks import TensorLike, check_choice, check_chunk_size, check_positive
from bcl.core.errors import InputError
from bcl.losses.blocks import row_stats
from bcl.losses.dense import Sums
from bcl.losses.nt_xent import Reduction, as_two_views, counts_of, gather_views, reduce_samples
from bcl.losses.precision import full_precision, unit_rows
from bcl.losses.state import SampleState

_CLIP = 3.0  # of the temperature's gradient, as released
_LOWEST = 1 / 80  # exp(1 / temperature) must fit in float32


class SogCLRLoss(nn.Module):
    r"""SogCLR, and with learned temperatures iSogCLR: contrast with a moving denominator.

    For a view of sample i, with cosines :math:`s_j` to its M = 2 (N - 1) negatives and
    :math:`s^+` to its positive,

    .. math:: g = \tfrac1M \sum_j e^{s_j / \tau_i}, \qquad
        d = (1 - \gamma)\, d_i + \gamma\, g, \qquad
        \ell = \tfrac1M \sum_j \frac{e^{s_j / \tau_i}}{d}\, s_j - s^+

    where the weights have no gradient, and d = g in a sample's first step. The loss of a sample is
    the sum over its two views; :math:`d_i` becomes the mean of the two d. A temperature learns by

    .. math:: G = \log d + \rho - \tfrac1M \sum_j \frac{e^{s_j / \tau_i}}{d} \frac{s_j}{\tau_i},
        \qquad m_i \leftarrow (1 - b)\, m_i + b\, G, \qquad
        \tau_i \leftarrow \operatorname{clip}(\tau_i - \eta\, m_i)

    with the mean G of the two views, clipped to [-3, 3]. It grows while a sample's weights are more
    concentrated than :math:`\rho`, and shrinks otherwise. The state changes in training mode
    alone, after each call. With a process group, negatives are those of all ranks and the state is
    the same on every rank.

    Args:
        num_samples: N, the number of training samples; a method sets it, if None.
        learn_temperature: iSogCLR; False for SogCLR with one temperature for all.
        temperature: the first temperature.
        gamma: :math:`\gamma` in (0, 1], weight of the step in the denominator.
        rho: :math:`\rho \ge 0` in nats.
        momentum: b in (0, 1], weight of the step in the momentum.
        learning_rate: :math:`\eta`.
        bounds: lowest and highest temperature, at least 1/80 (float32).
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (one loss per sample).
        gather: compare with the samples of all ranks.
        chunk_size: as in `bcl.nt_xent`.

    Raises:
        InputError: a number out of its range; in calls no ids, or such as do not fit.

    Source: SogCLR (arXiv 2202.12387) and iSogCLR (arXiv 2305.11965), with the settings of the
    latter's recipe for CIFAR-100; the defaults of its code's options are others (rho 6, eta 0.001,
    b 0.9). The released code fills denominators in the first epoch, here in a sample's first step.

    Example:
        >>> loss_of = SogCLRLoss(num_samples=10)
        >>> loss_of(torch.eye(3).expand(2, 3, 3), ids=torch.tensor([4, 0, 9]))
        tensor(-2.)
        >>> loss_of.temperatures[:2]
        tensor([0.0940, 0.1000])
    """

    def __init__(
        self,
        num_samples: int | None = None,
        learn_temperature: bool = True,
        *,
        temperature: float = 0.1,
        gamma: float = 0.8,
        rho: float = 0.4,
        momentum: float = 0.5,
        learning_rate: float = 0.03,
        bounds: tuple[float, float] = (0.05, 1.0),
        reduction: Reduction = "mean",
        gather: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_positive("rho", rho, zero=True)
        check_positive("learning_rate", learning_rate)
        for name, value in (("gamma", gamma), ("momentum", momentum)):
            check_positive(name, value)
            if value > 1:
                raise InputError(f"{name} must lie in (0, 1], got {value!r}.")
        if not isinstance(bounds, Sequence) or len(bounds) != 2:
            raise InputError(
                f"bounds must be two temperatures, got {bounds!r}; give the lowest and the highest."
            )
        low, high = bounds
        check_positive("low of bounds", low)
        check_positive("high of bounds", high)
        if not _LOWEST <= low <= temperature <= high < math.inf:
            raise InputError(
                f"bounds must have {_LOWEST} <= low <= temperature <= high, got low={low!r}, "
                f"temperature={temperature!r}, high={high!r}; move the bounds, or the temperature "
                "between them."
            )
        check_choice("reduction", reduction, get_args(Reduction))
        check_chunk_size(chunk_size)
        self.learn_temperature, self.temperature, self.bounds = (
            learn_temperature,
            temperature,
            bounds,
        )
        self.gamma, self.rho, self.momentum = gamma, rho, momentum
        self.learning_rate, self.reduction = learning_rate, reduction
        self.gather, self.chunk_size = gather, chunk_size
        self.state = SampleState(num_samples, first=[0.0, temperature, 0.0])

    @property
    def denominators(self) -> Tensor:
        """(N,) denominators; 0 for samples that were never seen."""
        return self.state.known().values[:, 0]

    @property
    def temperatures(self) -> Tensor:
        """(N,) temperatures."""
        return self.state.known().values[:, 1]

    @property
    def momenta(self) -> Tensor:
        """(N,) momenta of the temperatures' gradients."""
        return self.state.known().values[:, 2]

    def forward(self, views: TensorLike, ids: TensorLike | None = None) -> Tensor:
        """(2, B, D) features, of any length, of the samples ``ids`` (B,), to () or (B,)."""
        views = as_two_views(views)
        ids = self.state.check(ids, views.shape[1])
        counts = counts_of(views, self.gather)
        with full_precision(views):
            u = unit_rows(views)
            before, seen = self.state.read(ids)  # (B, 3), (B,)
            old, temperature, momentum = before.to(u).unbind(1)  # (B,) each
            g, cosine = self._negatives(u, temperature, counts)  # (2, B) each
            denominator = torch.where(seen, (1 - self.gamma) * old + self.gamma * g, g)
            negative = g / denominator * cosine  # mean of weight times cosine
            losses = negative - torch.linalg.vecdot(u, u.flip(0))
            if self.training:
                slope = denominator.log() + self.rho - negative.detach() / temperature
                slope = slope.mean(0).clamp(-_CLIP, _CLIP)
                momentum = momentum.lerp(slope, self.momentum)
                if self.learn_temperature:
                    temperature = (temperature - self.learning_rate * momentum).clamp(*self.bounds)
                after = torch.stack([denominator.mean(0), temperature, momentum], 1)
                self.state.write(ids, after, self.gather)
            return reduce_samples(losses.sum(0, keepdim=True), self.reduction, counts)

    def _negatives(
        self, u: Tensor, temperature: Tensor, counts: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Mean exponential of the negatives, and their mean cosine under constant weights.

        Both (2, B); only the cosine has a gradient.
        """
        columns, start = gather_views(u, counts)  # (2, N, D): a segment per view
        sums = Sums(skip=start, cost=True, constant=0)  # without a sample's own two
        means, cosines = [], []
        for rows in (u / temperature[:, None]).unbind(0):
            mass, cost = row_stats(rows, columns, sums, self.chunk_size)  # (B, 2) each
            total = mass.detach().logsumexp(1)  # (B,)
            means.append((total - math.log(2 * (sum(counts) - 1))).exp())
            cosines.append((mass.detach().softmax(1) * cost).sum(1) * temperature)
        return torch.stack(means), torch.stack(cosines)

    def learned(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the learned temperatures and the samples seen, for reports."""
        if not self.learn_temperature or self.state.values is None:
            return {}
        return {"temperature": (self.temperatures, self.state.seen)}

    def figures(self, epoch: int, epochs: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the mean temperature of the samples seen, for the logs."""
        seen = self.state.known().seen
        total = torch.where(seen, self.temperatures, 0).sum()
        return {"temperature": total / seen.sum().clamp(min=1)}

    def extra_repr(self) -> str:
        """Describe the loss when a model is printed."""
        return f"learn_temperature={self.learn_temperature}, reduction='{self.reduction}'"
