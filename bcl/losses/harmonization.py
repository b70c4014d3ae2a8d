"""Geometric harmonization: the views of a sample agree on a cluster, of whatever size."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.checks import TensorLike, as_features, as_tensor, check_count, check_positive
from bcl.core.distributed import gather_rows, rank
from bcl.core.errors import InputError, InputWarning
from bcl.losses.context import AroundLoss, call_loss, check_begins, in_epochs, need_epoch
from bcl.losses.nt_xent import counts_of, reduce_samples
from bcl.losses.precision import at_least_float32, full_precision, unit_rows
from bcl.losses.state import KeepsFloat32, SampleState

# Momentum of the samples' scores before and after the start, as released.
_EARLY, _LATE = 0.9, 0.999


def simplex_etf(num_clusters: int, features: int, seed: int | None = None) -> Tensor:
    r"""K unit vectors, all at the same and largest possible angle: a simplex.

    .. math:: M = \sqrt{\tfrac{K}{K - 1}} \Bigl(I - \tfrac1K 1 1^\top\Bigr) U, \qquad
        M M^\top = \tfrac{K}{K - 1} I - \tfrac1{K - 1} 1 1^\top

    with K orthonormal rows U. K = features + 1 vectors fit too, in another basis.

    Args:
        num_clusters: K, from 2 to ``features + 1``.
        features: D, the width of the vectors.
        seed: of a random rotation; None for the first K unit vectors as U.

    Returns:
        (K, D) float32.

    Raises:
        InputError: more vectors than the space holds.

    Source: GH (arXiv 2310.17622); its released generator does not parse.

    Example:
        >>> simplex_etf(3, 2) @ simplex_etf(3, 2).T
        tensor([[ 1.0000, -0.5000, -0.5000],
                [-0.5000,  1.0000, -0.5000],
                [-0.5000, -0.5000,  1.0000]])
    """
    check_count("num_clusters", num_clusters, at_least=2)
    check_count("features", features)
    if num_clusters > features + 1:
        raise InputError(
            f"{features} features hold at most {features + 1} vectors at equal angles, got "
            f"num_clusters={num_clusters}; take fewer clusters or a wider projector."
        )
    size = num_clusters
    centered = torch.eye(size, dtype=torch.float64) - 1 / size
    if size == features + 1:  # a basis of what is orthogonal to 1
        centered = centered @ torch.linalg.svd(centered).Vh[: size - 1].T
    simplex = torch.zeros(size, features, dtype=torch.float64)
    simplex[:, : centered.shape[1]] = centered * math.sqrt(size / (size - 1))
    if seed is not None:
        check_count("seed", seed, at_least=0)
        noise = torch.Generator().manual_seed(seed)
        square = torch.randn(features, features, generator=noise, dtype=torch.float64)
        simplex = simplex @ torch.linalg.qr(square).Q
    return simplex.float()


def sinkhorn(
    scores: TensorLike,
    marginal: TensorLike,
    epsilon: float = 0.05,
    iterations: int = 300,
    relax: float | None = None,
) -> Tensor:
    r"""Assign B samples softly to K clusters of given sizes (entropic optimal transport).

    .. math:: Q = \arg\max_Q \langle Q, S \rangle + \epsilon H(Q), \qquad
        Q 1 = 1, \qquad \tfrac1B Q^\top 1 = \pi

    by turns of column and row scalings in the log domain, which ends with the rows. With ``relax``
    a column may miss its size at a cost of :math:`\gamma\, \mathrm{KL}`: its scaling is then taken
    to the power :math:`\gamma / (\gamma + \epsilon)`. Nothing has a gradient.

    Args:
        scores: (B, K) floating point.
        marginal: (K,) sizes :math:`\pi` of the clusters, above 0, that sum to 1.
        epsilon: :math:`\epsilon > 0`, in the unit of the scores.
        iterations: turns.
        relax: :math:`\gamma > 0`; None for exact sizes.

    Returns:
        (B, K), rows summing to 1, float32 for half precision.

    Raises:
        InputError: shapes that differ, a size of 0, or sizes that do not sum to 1. On a GPU sizes
            are not looked at, which would stop it.

    Source: GH (arXiv 2310.17622), which exponentiates the scores; ``relax`` as in P2OT
    (ICLR 2024), whose virtual cluster is left out.

    Example:
        >>> scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.0], [1.0, 0.0]])
        >>> sinkhorn(scores, torch.tensor([0.75, 0.25]))
        tensor([[0.8532, 0.1468],
                [0.8532, 0.1468],
                [0.4403, 0.5597],
                [0.8532, 0.1468]])
    """
    scores = as_features("scores", scores, "(B, K)")
    marginal = as_tensor("marginal", marginal).detach()
    check_positive("epsilon", epsilon)
    check_count("iterations", iterations)
    if relax is not None:
        check_positive("relax", relax)
    if not len(scores):
        raise InputError("scores must be of one sample or more, got (0, K).")
    if marginal.shape != scores.shape[1:]:
        raise InputError(
            f"marginal must have a size for each of the {scores.shape[1]} clusters, got "
            f"{tuple(marginal.shape)}."
        )
    if marginal.device.type == "cpu":
        least = int(marginal.argmin())  # that of NaN, if there is one
        step = "count an empty cluster as one sample"
        check_positive(f"marginal[{least}]", float(marginal[least]), step=step)
        if abs(float(marginal.sum()) - 1) > 1e-4:
            raise InputError(
                f"marginal must sum to 1, got {float(marginal.sum()):.6g}; pass marginal / "
                "marginal.sum()."
            )
    return _sinkhorn(scores, marginal, epsilon, iterations, relax)


@torch.no_grad()
def _sinkhorn(
    scores: Tensor, marginal: Tensor, epsilon: float, iterations: int, relax: float | None
) -> Tensor:
    """`sinkhorn` of (..., B, K) scores."""
    with full_precision(scores):
        logits = at_least_float32(scores) / epsilon
        sizes = marginal.to(logits).log()
        power = 1.0 if relax is None else relax / (relax + epsilon)
        each = math.log(logits.shape[-2])  # a row has the mass 1 / B
        row = torch.full_like(logits[..., :1], -each)
        for _ in range(iterations):
            column = power * (sizes - (logits + row).logsumexp(-2, keepdim=True))
            row = -(logits + column).logsumexp(-1, keepdim=True) - each
        return (logits + column).softmax(-1)


class GeometricHarmonization(AroundLoss, KeepsFloat32):
    r"""Add geometric harmonization to a contrastive loss.

    With a simplex M of K fixed directions (`simplex_etf`), :math:`P_v` the scores
    :math:`z_v M^\top` of a view, scaled to length one, and :math:`Q_v` their assignments to
    clusters of the sizes :math:`\pi` (`sinkhorn`, without gradient), each view predicts the
    assignment of the other:

    .. math:: \ell_i = \text{loss}_i + w \sum_{v \ne v'} -Q_{v, i} \cdot
        \log \operatorname{softmax}(P_{v', i} / \gamma), \qquad
        w = \operatorname{clip}\Bigl(\frac{e - e_0}{r}, 0, 1\Bigr)

    summed over the two directions; of V views, 2 / (V (V - 1)) of the sum over all ordered pairs.
    Every sample keeps a moving mean of its :math:`P_1`. At the start :math:`e_0`, and then at every
    refresh, :math:`\pi` becomes the shares of clusters, by the argmax of these means; a cluster
    that has no sample counts as one with one. With a process group, assignments and shares are
    those of all ranks.

    Args:
        loss: any loss of (V, B, D) features, whose reduction and gathering hold here too.
        num_samples: N, the number of training samples; a method sets it, if None.
        num_clusters: K, at most D + 1, and best at most a quarter of the batch.
        features: D, the width of the projections.
        start: :math:`e_0`, epochs before harmonization begins; below 1 a share of the run.
        ramp: r, epochs until its full weight; below 1 a share of the run; 0 for at once.
        refresh: epochs between two computations of the sizes.
        epsilon: of `sinkhorn`.
        temperature: :math:`\gamma`.
        iterations: of `sinkhorn`.
        relax: of `sinkhorn`.
        seed: of the simplex's rotation; None for none.

    Raises:
        InputError: a number out of its range; in calls no ids or epoch, features of another
            width, or a run that ends before the start.

    Source: GH (arXiv 2310.17622). In the released code the moving means start from memory that is
    not initialized, sizes are computed again in every step of an epoch that is due, and a cluster
    without samples gets none forever.

    Example:
        >>> from bcl import NTXentLoss
        >>> loss_of = GeometricHarmonization(NTXentLoss(), 10, num_clusters=2, features=3, start=5)
        >>> loss_of(torch.eye(3).expand(2, 3, 3), ids=torch.tensor([4, 0, 9]), epoch=0)
        tensor(0.0266)
        >>> loss_of.weight(epoch=10)
        0.5
    """

    marginal: Tensor  # (K,)
    refreshed: Tensor  # (), epoch of the last refresh, -1 before the first
    simplex: Tensor  # (K, D)

    def __init__(
        self,
        loss: nn.Module,
        num_samples: int | None = None,
        num_clusters: int = 100,
        features: int = 128,
        start: float = 500,
        ramp: float = 10,
        refresh: int = 20,
        epsilon: float = 0.05,
        temperature: float = 0.1,
        iterations: int = 300,
        relax: float | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__(loss)
        check_positive("start", start, zero=True)
        check_positive("ramp", ramp, zero=True)
        check_count("refresh", refresh)
        check_positive("epsilon", epsilon)
        check_positive("temperature", temperature)
        check_count("iterations", iterations)
        if relax is not None:
            check_positive("relax", relax)
        self.start, self.ramp, self.refresh = start, ramp, refresh
        self.epsilon, self.temperature = epsilon, temperature
        self.iterations, self.relax = iterations, relax
        self.register_buffer("simplex", simplex_etf(num_clusters, features, seed))
        self.register_buffer("marginal", torch.full((num_clusters,), 1 / num_clusters))
        self.register_buffer("refreshed", torch.tensor(-1))
        self._refreshed = -1  # the same on the host
        self._called = self._warned = False
        self.state = SampleState(num_samples, first=[0.0] * num_clusters)

    def weight(self, epoch: float, epochs: int | None = None) -> float:
        """Weight w of harmonization after ``epoch`` epochs, of ``epochs`` of the run."""
        since = need_epoch("the weight", epoch) - in_epochs("start", self.start, epochs)
        ramp = in_epochs("ramp", self.ramp, epochs)
        if since < 0 or ramp == 0:
            return float(since >= 0)
        return min(since / ramp, 1.0)

    def shares(self) -> Tensor:
        """(K,) shares of the clusters among the samples seen, by the argmax of their means."""
        values, seen = self.state.known().values, self.state.seen
        counts = torch.zeros_like(self.marginal)
        counts.index_add_(0, values.argmax(1), seen.to(counts))
        return counts / counts.sum().clamp(min=1)

    def forward(
        self,
        views: TensorLike,
        *more: Any,
        ids: TensorLike | None = None,
        epoch: float | None = None,
        epochs: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Compute the loss.

        Args:
            views: (V, B, D) features, of any length.
            more: further arguments of the inner loss.
            ids: (B,) sample ids.
            epoch: epochs done, 0 in the first.
            epochs: epochs of the run, where ``start`` or ``ramp`` is a share of it.
            options: further arguments of the inner loss.

        Returns:
            What the inner loss returns, () or (B,).
        """
        views = self._check(views)
        epoch = need_epoch("harmonization", epoch)
        ids = self.state.check(ids, views.shape[1])
        check_begins("start", self.start, epochs)
        loss = call_loss(self.loss, views, *more, ids=ids, epoch=epoch, epochs=epochs, **options)
        weight = self.weight(epoch, epochs)
        if weight or not self._called:  # the start may be far
            self._called, counts = True, counts_of(views, self.gather)
            self._warn_if_small(counts)
        start = in_epochs("start", self.start, epochs)
        with full_precision(views):
            scores = unit_rows(at_least_float32(views) @ self.simplex.to(at_least_float32(views)).T)
            if self.training:
                if epoch >= start and self._due(epoch, start):
                    self._refresh(epoch)
                self._remember(ids, scores[0], _LATE if epoch >= start else _EARLY)
            if weight == 0:
                return loss
            extra = self._harmonize(scores, counts)  # (B,)
            return loss + weight * reduce_samples(extra[None], self.reduction, counts)

    def _check(self, given: TensorLike) -> Tensor:
        views = as_features("views", given, "(V, B, D)")
        if len(views) < 2 or views.shape[-1] != self.simplex.shape[1]:
            raise InputError(
                f"harmonization takes two views or more of width {self.simplex.shape[1]}, got "
                f"{tuple(views.shape)}; build it with features={views.shape[-1]}."
            )
        return views

    def _due(self, epoch: float, start: float) -> bool:
        return self._refreshed < int(start) or epoch - self._refreshed >= self.refresh

    @torch.no_grad()
    def _refresh(self, epoch: float) -> None:
        """Take the clusters' sizes from the samples' means."""
        counts = (self.shares() * self.state.seen.sum()).clamp(min=1)
        self.marginal.copy_(counts / counts.sum())
        self._refreshed = int(epoch)
        self.refreshed.fill_(self._refreshed)

    def _remember(self, ids: Tensor, scores: Tensor, momentum: float) -> None:
        """Move the means of the samples; the first scores of a sample are its first mean."""
        scores = scores.detach().float()
        before, seen = self.state.read(ids)
        means = torch.where(seen[:, None], scores.lerp(before, momentum), scores)
        self.state.write(ids, means, self.gather)

    def _harmonize(self, scores: Tensor, counts: list[int]) -> Tensor:
        """(V, B, K) scores of unit length to (B,)."""
        views, batch, _ = scores.shape
        with torch.no_grad():
            everyone, first = scores.transpose(0, 1), 0  # (B, V, K)
            if len(counts) > 1:
                everyone, first = gather_rows(everyone, counts), sum(counts[: rank()])
            settings = self.epsilon, self.iterations, self.relax
            whole = _sinkhorn(everyone.transpose(0, 1), self.marginal, *settings)  # (V, N, K)
            assigned = whole[:, first : first + batch]
        predicted = (scores / self.temperature).log_softmax(-1)
        own = (assigned * predicted).sum((0, 2))  # (B,), each view with itself
        pairs = (assigned.sum(0) * predicted.sum(0)).sum(1) - own
        return pairs * (-2 / (views * (views - 1)))

    def _warn_if_small(self, counts: list[int]) -> None:
        clusters = len(self.simplex)
        if sum(counts) < clusters and not self._warned:
            self._warned = True
            warnings.warn(
                f"a batch of {sum(counts)} samples cannot fill {clusters} clusters; take a larger "
                "batch or fewer clusters (num_clusters), best a quarter of the batch.",
                InputWarning,
                stacklevel=5,  # the caller of the module
            )

    def figures(self, epoch: int, epochs: int) -> dict[str, float]:
        """Return the weight of harmonization, for the logs."""
        return {"harmonization": self.weight(epoch, epochs)}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._refreshed = int(self.refreshed)

    def extra_repr(self) -> str:
        """Describe the loss when a model is printed."""
        clusters, features = self.simplex.shape
        return f"num_clusters={clusters}, features={features}, start={self.start}"
