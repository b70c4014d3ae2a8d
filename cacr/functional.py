"""CACR's attraction and repulsion as functions: per sample, exact across ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from bcl.core.checks import (
    TensorLike,
    as_features,
    check_choice,
    check_chunk_size,
    check_positive,
    check_together,
)
from bcl.core.distributed import gather_rows, rank, row_counts, sum_over_ranks, world_size
from bcl.core.errors import InputError
from bcl.losses.nt_xent import Reduction, reduce_samples
from bcl.losses.precision import at_least_float32, full_precision, unit_rows
from cacr.cost import soft_nearest, softmin_cost

Cost = Literal["euclidean", "rbf"]
Weights = Literal["conditional", "uniform"]
Constant = Literal["none", "queue", "all"]
Views = tuple[Tensor, ...]
Distances = dict[tuple[int, int], Tensor]  # of view v to view u of the same sample, (B,)


class CACRTerms(NamedTuple):
    """The two parts of the loss.

    Attributes:
        attraction: () or (B,), not negative; smaller when positives are closer.
        repulsion: () or (B,); smaller when negatives are farther.

    Example:
        >>> z = torch.eye(3).expand(2, 3, 3)  # positives coincide, negatives are orthogonal
        >>> attraction, repulsion = cacr_terms(z, reduction="none")
        >>> attraction + repulsion
        tensor([-2., -2., -2.])
    """

    attraction: Tensor
    repulsion: Tensor


@dataclass(eq=False)
class CACRSettings:
    r"""Settings of both terms.

    Args:
        attraction_temperature: :math:`t^+ \ge 0`.
        repulsion_temperature: :math:`t^- \ge 0`, or (B,) one per sample, for which the whole matrix
            of pairs is held.
        cost: ``"euclidean"`` or ``"rbf"``, the cost of repulsion; attraction is always Euclidean.
        rbf_scale: s > 0. With views or a queue, above about 20 the cost :math:`e^{-4s}` of opposite
            rows underflows in float32 and the loss may become NaN; float64 reaches 170.
        attraction: ``"conditional"`` or ``"uniform"`` weights (the paper's ablation).
        repulsion: the same for the repulsion.
        debias: :math:`\tau^+` in [0, 1), for the Euclidean cost; the paper uses 0.1.
        constant_weights: which weights are constants in the backward pass: ``"none"`` (the paper),
            ``"all"`` (released for MoCo v3), or ``"queue"``: those of the attraction, and the
            queue's part of the repulsion's (released for MoCo).
        normalize: False if the rows already have length one.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (one number per sample).
        gather: compare with the samples of all ranks.
        chunk_size: rows per block; 0 for plain PyTorch; None for a choice by size.

    Raises:
        InputError: a name or number out of range.

    Example:
        >>> CACRSettings(repulsion_temperature=0.9).cost
        'euclidean'
    """

    attraction_temperature: float = 1.0
    repulsion_temperature: float | Tensor = 2.0
    cost: Cost = "euclidean"
    rbf_scale: float = 2.0
    attraction: Weights = "conditional"
    repulsion: Weights = "conditional"
    debias: float = 0.0
    constant_weights: Constant = "none"
    normalize: bool = True
    reduction: Reduction = "mean"
    gather: bool = True
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        """Check every value once."""
        check_choice("cost", self.cost, get_args(Cost))
        check_choice("attraction", self.attraction, get_args(Weights))
        check_choice("repulsion", self.repulsion, get_args(Weights))
        check_choice("constant_weights", self.constant_weights, get_args(Constant))
        check_choice("reduction", self.reduction, get_args(Reduction))
        check_positive("attraction_temperature", self.attraction_temperature, zero=True)
        check_repulsion_temperature(self.repulsion_temperature)
        check_positive("rbf_scale", self.rbf_scale)
        check_chunk_size(self.chunk_size)
        if not 0 <= self.debias < 1:
            raise InputError(f"debias must lie in [0, 1), got {self.debias!r}; the paper uses 0.1.")
        if self.debias and self.cost != "euclidean":
            raise InputError("debias is defined only for cost='euclidean'; pass debias=0.0.")

    @property
    def pull(self) -> float:
        """The temperature of the attraction's weights, 0 for uniform ones."""
        return self.attraction_temperature if self.attraction == "conditional" else 0.0

    @property
    def push(self) -> float | Tensor:
        """The temperature of the repulsion's weights, 0 for uniform ones."""
        return self.repulsion_temperature if self.repulsion == "conditional" else 0.0

    @property
    def scale(self) -> float | None:
        """The rate s of the RBF cost, None for the Euclidean cost."""
        return self.rbf_scale if self.cost == "rbf" else None


def check_repulsion_temperature(value: float | Tensor) -> None:
    """Refuse all but numbers, and a row of numbers, of at least 0."""
    if callable(value) and not isinstance(value, Tensor):
        raise InputError(
            "a schedule gives a temperature by the epoch; give it to cacr.CACRLoss as temperature, "
            "and the epoch to its call, or pass repulsion_temperature=0.5 / schedule(epoch)."
        )
    if isinstance(value, Tensor) and value.ndim > 1:
        raise InputError(
            f"repulsion_temperature must be a number or of shape (B,), got {tuple(value.shape)}."
        )
    check_positive("repulsion_temperature", value, zero=True, several=True)


def cacr_terms(
    views: TensorLike,
    negatives: TensorLike | None = None,
    *,
    keys: TensorLike | None = None,
    settings: CACRSettings | None = None,
    **changes: Any,
) -> CACRTerms:
    r"""Contrastive attraction and contrastive repulsion: far positives pull, near negatives push.

    With unit rows, :math:`c(a, b) = \lVert a - b \rVert^2` and a query q,

    .. math::
        \text{attraction} = \sum_{p} \pi^+_p\, c(q, p), \qquad
            \pi^+ = \mathrm{softmax}_p\bigl(t^+ c(q, p)\bigr) \\
        \text{repulsion} = -\sum_{n} \pi^-_n\, c(q, n), \qquad
            \pi^- = \mathrm{softmax}_n\bigl(-t^- c(q, n)\bigr)

    averaged over the queries. The temperatures multiply distances: at 0 the weights are uniform,
    at infinity the farthest positive and the nearest negative remain. There are three forms.

    - ``views`` alone: every view of a sample is a query whose positives are the other V - 1.
      Negatives are the other samples in another view, for all pairs of views a < b with the
      queries from a, as released; the loss depends on the order of the views.
    - with ``negatives``, a queue (MoCo): positives are the other views, or their ``keys``
      where given; negatives are the queue and the other samples in the query's own view.
    - with ``keys`` alone (MoCo v3): the anchor is a key and its positives are the queries of the
      other views; V may exceed the number of keys G by local views, which are compared with all
      keys. Negatives of a query are the other samples' keys in the anchor's view, and
      :math:`\pi^+` weighs repulsion as well as attraction, as released.

    **RBF cost.** The repulsion is :math:`\log` of the batch mean of
    :math:`\sum_n \pi^-_n e^{-s c(q, n)}`, one pair of views at a time. The logarithm is
    outside the mean, so numbers per sample are a convention: here
    sample i gets :math:`\log \bar r + r_i / \bar r - 1`, whose mean is the loss, whose mean
    gradient is the loss's gradient, and which grows with :math:`r_i`. With ``keys`` alone it is, as
    released, :math:`\tfrac1s \log \sum_n e^{-s c(q, n)}` over all keys, the positive included:
    attraction and repulsion together are then InfoNCE at temperature 1 / (2s), times 1 / s.

    **Debiased.** Negatives drawn blindly share the query's class with probability
    :math:`\tau^+` = ``debias``; the repulsion becomes :math:`(\text{repulsion} + \tau^+ c^+) /
    (1 - \tau^+)` with :math:`c^+` the (mean) distance to the positives. The released code
    subtracts here, which pushes positives apart; the derivation gives the plus.

    **Across ranks.** With a process group, the views (and keys) are gathered and a sample is
    compared with those of all ranks; the queue must be the same on all, as `MomentumQueue` keeps
    it. The value on each rank is the mean over its own samples; the gathered features get their
    gradient by an all-reduce in the backward pass, so DDP's average of the parameters'
    gradients is exactly the whole batch's gradient. Batches may be of unequal size:
    ``"mean"`` then weighs a rank by its share of the samples. All ranks must call it; pass
    ``gather=False`` where only one does.

    **Memory, precision, transforms.** As in `bcl.nt_xent`: linear in B, float32 for half precision,
    exact second derivatives with the whole matrix, ``chunk_size=0`` for forward mode.

    Args:
        views: (V, B, D) features, V at least 2, of any length unless ``normalize=False``.
        negatives: (Q, D) a queue, without gradient.
        keys: (V, B, D) momentum features of the same samples and views; without ``negatives`` also
            (G, B, D) with G < V, of the first G views.
        settings: temperatures, cost, reduction and the rest; the defaults if None.
        changes: fields of `CACRSettings`, instead of ``settings``.

    Returns:
        The two terms, each () or (B,). Their weighted sum is the loss (`CACRLoss`).

    Raises:
        InputError: shapes, types, devices, names or numbers out of range, or no negatives (one
            sample without a queue).

    Source: CACR (arXiv 2105.03746), the forms of its small-scale, MoCo and MoCo v3 experiments.

    Example:
        >>> z = torch.eye(3).expand(2, 3, 3)  # positives coincide, negatives are orthogonal
        >>> cacr_terms(z)
        CACRTerms(attraction=tensor(0.), repulsion=tensor(-2.))
    """
    if settings is not None and changes:
        raise InputError(f"pass settings or single ones, not both; got {', '.join(changes)} too.")
    settings = settings or CACRSettings(**changes)
    views = as_features("views", views, "(V, B, D)")
    if negatives is not None:
        negatives = as_features("negatives", negatives, "(Q, D)")
    if keys is not None:
        keys = as_features("keys", keys, "(V, B, D)")
    _check_shapes(views, negatives, keys)
    own = settings.repulsion_temperature
    if isinstance(own, Tensor) and own.shape not in ((), views.shape[1:2]):
        raise InputError(
            f"repulsion_temperature must be a number or of shape (B,) = ({views.shape[1]},), got "
            f"{tuple(own.shape)}."
        )
    with full_precision(views):
        batch = _Batch.of(views, negatives, keys, settings)
        if keys is not None and negatives is None:
            pull, push = _teacher(batch, settings)  # (G, B) each
        else:
            distance = _distances(batch.z, batch.positives)
            pull = _attraction(distance, len(batch.z), settings)  # (V, B)
            compare = _pairs if negatives is None else _queue
            push = torch.cat(list(compare(batch, settings, distance)), 1).T  # (R, B)
            if settings.scale is not None:
                push = _log_mean(push, batch)
        return CACRTerms(
            reduce_samples(pull, settings.reduction, batch.counts),
            reduce_samples(push, settings.reduction, batch.counts),
        )


@dataclass
class _Batch:
    """This rank's features and those of all ranks, a tensor a view.

    Apart, since the gradient of a part of a tensor is a tensor of the whole, mostly zero.
    """

    z: Views  # V of (B, D), this rank's queries
    every: Views  # V of (N, D), all ranks' queries; with keys alone G, all ranks' keys
    positives: Views  # V or G of (B, D), this rank's keys, or its queries where there are none
    bank: Tensor | None  # (Q, D)
    counts: list[int]  # samples of each rank that was gathered, together N
    start: int  # place of this rank's first sample among the N

    @classmethod
    def of(
        cls, views: Tensor, negatives: Tensor | None, keys: Tensor | None, settings: CACRSettings
    ) -> "_Batch":
        prepare = unit_rows if settings.normalize else at_least_float32
        queries = prepare(views)
        targets = queries if keys is None else prepare(keys).to(queries.dtype)
        bank = None if negatives is None else prepare(negatives).to(queries.dtype)
        z = queries.unbind(0)
        positives = z if keys is None else targets.unbind(0)
        spread = settings.gather and world_size() > 1
        counts = row_counts(z[0]) if spread else [len(z[0])]
        if sum(counts) < (2 if negatives is None else 1):
            raise InputError(
                f"a batch of {sum(counts)} sample has no negatives; CACR needs at least 2, or 1 "
                "and a queue. Use drop_last=True in the loader, or a larger batch."
            )
        every = positives if negatives is None else z
        if spread:
            rows = targets if negatives is None else queries
            every = gather_rows(rows.transpose(0, 1), counts).unbind(1)
        return cls(z, every, positives, bank, counts, sum(counts[: rank()]) if spread else 0)


def _others(view: int, count: int) -> list[int]:
    return [u for u in range(count) if u != view]


def _distances(x: Views, y: Views) -> Distances:
    """Squared distances between the views of each sample.

    Args:
        x: V of (B, D).
        y: U of (B, D); the same as ``x`` has each pair computed once.

    Returns:
        (v, u), v not u, to (B,).
    """
    known: Distances = {}
    for a in range(len(x)):
        for b in _others(a, len(y)):
            if x is y and b < a:
                known[a, b] = known[b, a]
            else:
                difference = x[a] - y[b]  # (B, D); exact where views coincide
                known[a, b] = (difference * difference).sum(-1)
    return known


def _attraction(distance: Distances, views: int, settings: CACRSettings) -> Tensor:
    """Weighted distance of each view to its positives, (V, B)."""
    parts = []
    for v in range(views):
        near = torch.stack([distance[v, u] for u in _others(v, views)])  # (V - 1, B)
        parts.append((_pull_weights(near, settings) * near).sum(0))
    return torch.stack(parts)


def _pull_weights(near: Tensor, settings: CACRSettings) -> Tensor:
    """(P, B) distances of an anchor to its positives, to their weights."""
    logits = settings.pull * near
    return (logits if settings.constant_weights == "none" else logits.detach()).softmax(0)


def _pairs(batch: _Batch, settings: CACRSettings, distance: Distances) -> Iterator[Tensor]:
    """Repulsion from the other samples in the later views: (B, comparisons) at a time."""
    for a in range(len(batch.z) - 1):
        others = range(a + 1, len(batch.z))
        near = [distance[a, b] for b in others]
        yield _repulsion(batch.z[a], [batch.every[b] for b in others], near, batch, settings)


def _queue(batch: _Batch, settings: CACRSettings, distance: Distances) -> Iterator[Tensor]:
    """Repulsion from the queue and the own view's other samples: (B, 1) at a time."""
    for v, query in enumerate(batch.z):
        near = torch.stack([distance[v, u] for u in _others(v, len(batch.z))]).mean(0)  # (B,)
        yield _repulsion(query, [batch.every[v]], [near], batch, settings)


def _repulsion(
    query: Tensor, columns: list[Tensor], near: list[Tensor], batch: _Batch, settings: CACRSettings
) -> Tensor:
    """Repulsion of one view's rows from segments of columns.

    Args:
        query: (B, D).
        columns: S of (N, D).
        near: S of (B,), distances to the positives, for debiasing.
        batch: for the queue, and the place of the rows among the columns.
        settings: as given.

    Returns:
        (B, S); with the RBF cost before the logarithm.
    """
    value = softmin_cost(
        query,
        torch.stack(columns),
        batch.bank,
        skip=batch.start,
        temperature=settings.push,
        rbf_scale=settings.scale,
        constant=settings.constant_weights,
        chunk_size=settings.chunk_size,
        even=batch.bank is not None or batch.positives is batch.z or len(batch.z) == 2,
    )
    if settings.scale is not None:
        return value
    if not settings.debias:
        return -value
    return (settings.debias * torch.stack(near, 1) - value) / (1 - settings.debias)


def _log_mean(values: Tensor, batch: _Batch) -> Tensor:
    """(R, B) values above 0, to numbers whose mean is the log of the mean; see `cacr_terms`."""
    total = values.sum(1, keepdim=True)
    total = sum_over_ranks(total) if len(batch.counts) > 1 else total
    mean = total / sum(batch.counts)  # (R, 1)
    return mean.log() + (values - mean) / mean


def _teacher(batch: _Batch, settings: CACRSettings) -> tuple[Tensor, Tensor]:
    """Momentum-teacher form: keys are anchors and weigh the queries of the other views.

    Returns:
        Attraction and repulsion, (G, B) each.
    """
    z, keys = batch.z, batch.positives
    distance = _distances(z, keys)
    known: Distances = {}  # repulsion of query v from key view g
    for v, query in enumerate(z):
        others = _others(v, len(keys))
        if not others:  # the only key is of the query's own view
            continue
        columns = [batch.every[g] for g in others]
        if settings.scale is None:
            near = [distance[v, g] for g in others]
            values = _repulsion(query, columns, near, batch, settings)  # (B, others)
        else:
            rate, size = settings.scale, settings.chunk_size
            values = soft_nearest(query, torch.stack(columns), rate, size)
        known.update({(v, g): values[:, i] for i, g in enumerate(others)})
    pulled, pushed = [], []
    for g in range(len(keys)):
        rows = _others(g, len(z))
        near_keys = torch.stack([distance[v, g] for v in rows])  # (P, B)
        weights = _pull_weights(near_keys, settings)
        pulled.append((weights * near_keys).sum(0))
        pushed.append((weights * torch.stack([known[v, g] for v in rows])).sum(0))
    return torch.stack(pulled), torch.stack(pushed)


def _check_shapes(views: Tensor, negatives: Tensor | None, keys: Tensor | None) -> None:
    if views.shape[0] < 2:
        raise InputError(
            f"views must hold at least 2 views, (V, B, D) with V >= 2, got {tuple(views.shape)}; "
            "a single view has no positives."
        )
    if negatives is not None:
        if len(negatives) == 0:
            raise InputError(
                f"negatives must hold at least one key, got {tuple(negatives.shape)}; pass None "
                "for a loss without a queue."
            )
        if negatives.requires_grad:
            raise InputError("negatives must not require a gradient; pass negatives.detach().")
    if keys is not None:
        fewer = negatives is None and 1 <= keys.shape[0] <= views.shape[0]
        if keys.shape[1] != views.shape[1] or not (fewer or keys.shape[0] == views.shape[0]):
            raise InputError(
                f"keys must be the momentum features of the same {views.shape[1]} samples and "
                f"{views.shape[0]} views (without negatives: of the first G views), got "
                f"{tuple(keys.shape)}."
            )
    check_together(("views", views), {"negatives": negatives, "keys": keys})
