"""CACR's attraction and repulsion as functions: per sample, exact across ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from bcl.core.checks import (
    check_choice,
    check_chunk_size,
    check_features,
    check_positive,
    check_together,
    faults,
    refuse_faults,
)
from bcl.core.distributed import gather_rows, rank, row_counts, sum_over_ranks, world_size
from bcl.core.errors import InputError
from bcl.losses.blocks import at_least_float32, full_precision, unit_rows
from bcl.losses.logsumexp import row_logsumexp
from bcl.losses.nt_xent import Reduction, reduce_samples
from cacr.cost import dense_weights, softmin_cost

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


class CACRWeights(NamedTuple):
    """The conditional weights, for inspection.

    Attributes:
        attraction: (A, B, P), of anchor a and its P positives; they sum to 1 over the last
            dimension and grow with the distance.
        repulsion: (R, B, M), of one comparison r, a row's M negatives (its own sample has weight
            0); they sum to 1 over the last dimension and grow with closeness.

    Example:
        >>> weights = cacr_weights(torch.rand(3, 4, 8))
        >>> weights.attraction.shape, weights.repulsion.shape
        (torch.Size([3, 4, 2]), torch.Size([3, 4, 4]))
        >>> torch.allclose(weights.repulsion.sum(-1), torch.ones(3, 4))
        True
    """

    attraction: Tensor
    repulsion: Tensor


def cacr_terms(
    views: Tensor,
    negatives: Tensor | None = None,
    *,
    keys: Tensor | None = None,
    attraction_temperature: float = 1.0,
    repulsion_temperature: float = 2.0,
    cost: Cost = "euclidean",
    rbf_scale: float = 2.0,
    attraction: Weights = "conditional",
    repulsion: Weights = "conditional",
    debias: float = 0.0,
    both_directions: bool = False,
    constant_weights: Constant = "none",
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: bool = True,
    chunk_size: int | None = None,
    validate: bool = False,
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
      queries from a, as released; ``both_directions=True`` takes b's queries too, and the loss no
      longer depends on the order of the views.
    - with ``negatives``, a queue (MoCo): positives are the other views, or their ``keys``
      where given; negatives are the queue and the other samples in the query's own view.
    - with ``keys`` alone (MoCo v3): the anchor is a key and its positives are the queries of the
      other views; V may exceed the number of keys G by local views, which are compared with all
      keys. Negatives of a query are the other samples' keys in the anchor's view, and
      :math:`\pi^+` weighs repulsion as well as attraction, as released.

    **RBF cost.** The repulsion is :math:`\log` of the batch mean of
    :math:`\sum_n \pi^-_n e^{-s c(q, n)}`, a comparison of views at a time. The logarithm stands
    outside the mean, so no per-sample numbers have it as their mean except by convention: here
    sample i gets :math:`\log \bar r + r_i / \bar r - 1`, which has the loss as its mean, the loss's
    gradient as its mean gradient, and grows with :math:`r_i`. With ``keys`` alone it is, as
    released, :math:`\tfrac1s \log \sum_n e^{-s c(q, n)}` over all keys, the positive included:
    attraction and repulsion together are then InfoNCE at temperature 1 / (2s), times 1 / s.

    **Debiased.** Negatives drawn blindly share the query's class with probability
    :math:`\tau^+` = ``debias``; the repulsion becomes :math:`(\text{repulsion} + \tau^+ c^+) /
    (1 - \tau^+)` with :math:`c^+` the (mean) distance to the positives. The released code has
    :math:`-\tau^+ c^+` here, which pushes positives apart; the derivation gives the plus.

    **Across ranks.** With a process group, the views (and keys) are gathered and a sample is
    compared with those of all ranks; the queue must be the same on all, as `MomentumQueue` keeps
    it. The value on each rank is the mean over its own samples; the gathered features get their
    gradient by an all-reduce in the backward pass, so that the average that DDP takes of the
    parameters' gradients is exactly the whole batch's gradient. Batches may be of unequal size:
    ``"mean"`` then weighs a rank by its share of the samples. All ranks must call it; pass
    ``gather=False`` where only one does.

    **Memory, precision, transforms.** As `bcl.nt_xent`: linear in B, float32 under half precision,
    second derivatives right but with the whole matrix, ``chunk_size=0`` for forward mode.

    Args:
        views: (V, B, D) features, V at least 2, of any length unless ``normalize=False``.
        negatives: (Q, D) a queue, without gradient.
        keys: (V, B, D) momentum features of the same samples and views; without ``negatives`` also
            (G, B, D) with G < V, of the first G views.
        attraction_temperature: :math:`t^+ \ge 0`.
        repulsion_temperature: :math:`t^- \ge 0`.
        cost: ``"euclidean"`` or ``"rbf"``, the cost of repulsion; attraction is Euclidean always.
        rbf_scale: s > 0. With views or a queue, above some 20 the cost :math:`e^{-4s}` of opposite
            rows leaves float32 and the loss may become NaN; float64 reaches 170.
        attraction: ``"conditional"`` or ``"uniform"`` weights (the paper's ablation).
        repulsion: likewise.
        debias: :math:`\tau^+` in [0, 1), for the Euclidean cost; the paper uses 0.1.
        both_directions: queries from both views of a pair (``views`` alone).
        constant_weights: which weights are constants in the backward pass: ``"none"`` (the paper),
            ``"all"`` (released for MoCo v3), or ``"queue"``: those of the attraction, and the
            queue's part of the repulsion's (released for MoCo).
        normalize: False takes rows of length one as they are.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (one number a sample).
        gather: compare with the samples of all ranks.
        chunk_size: rows of a block; 0 for the dense form; None for a choice by size.
        validate: look for NaN, infinity and (with ``normalize=False``) rows not of length one.

    Returns:
        The two terms, each () or (B,). Their weighted sum is the loss (`CACRLoss`).

    Raises:
        InputError: shapes, types, devices, names or numbers out of range, no negatives (one sample
            without a queue), or (with ``validate``) values that are not finite.

    Source: CACR (arXiv 2105.03746), the forms of its small-scale, MoCo and MoCo v3 experiments.

    Example:
        >>> z = torch.eye(3).expand(2, 3, 3)  # positives coincide, negatives are orthogonal
        >>> cacr_terms(z)
        CACRTerms(attraction=tensor(0.), repulsion=tensor(-2.))
    """
    check_settings(
        attraction_temperature, repulsion_temperature, cost, rbf_scale, attraction, repulsion,
        debias, constant_weights, reduction, chunk_size,
    )  # fmt: skip
    _check_shapes(views, negatives, keys)
    spread = gather and world_size() > 1
    if validate:
        _validate([views, negatives, keys], normalize, spread)
    options = _Options(
        pull=attraction_temperature if attraction == "conditional" else 0.0,
        push=repulsion_temperature if repulsion == "conditional" else 0.0,
        scale=rbf_scale if cost == "rbf" else None,
        debias=debias,
        constant=constant_weights,
        chunk_size=chunk_size,
    )
    with full_precision(views):
        batch = _Batch.of(views, negatives, keys, normalize, spread)
        if keys is not None and negatives is None:
            pull, push = _teacher(batch, options)  # (B,) each
        else:
            distance = _distances(batch.z, batch.positives)
            pull = _attraction(distance, len(batch.z), options)  # (B,)
            compare = _pairs(batch, options, distance, both_directions)
            if negatives is not None:
                compare = _queue(batch, options, distance)
            push = torch.cat(list(compare), 1)  # (B, R)
            if options.scale is not None:
                push = _log_mean(push, batch)
            push = push.mean(1)  # (B,)
        return CACRTerms(
            reduce_samples(pull, reduction, batch.total, batch.ranks),
            reduce_samples(push, reduction, batch.total, batch.ranks),
        )


def cacr_weights(
    views: Tensor,
    negatives: Tensor | None = None,
    *,
    keys: Tensor | None = None,
    attraction_temperature: float = 1.0,
    repulsion_temperature: float = 2.0,
    normalize: bool = True,
) -> CACRWeights:
    r"""Show the conditional weights that `cacr_terms` uses, on this rank's samples alone.

    Takes memory for all pairs; meant for looking, not for training.

    Args:
        views: (V, B, D).
        negatives: (Q, D) or None.
        keys: (V, B, D) or None; with ``keys`` alone (G, B, D), G at most V.
        attraction_temperature: :math:`t^+ \ge 0`.
        repulsion_temperature: :math:`t^- \ge 0`.
        normalize: False takes rows of length one as they are.

    Returns:
        Attraction (V, B, V - 1): of query v, over the other views in order; with ``keys`` alone
        (G, B, V - 1): of key g, over the queries of the other views. Repulsion (R, B, M): for the
        pairs of views a < b in the order (0, 1), (0, 2), ..., over the B samples of view b; with a
        queue R = V, over the B samples of the own view and then the Q of the queue; with ``keys``
        alone for query 0 and its keys, then query 1 and so on, over the B keys.

    Raises:
        InputError: as `cacr_terms`.

    Example:
        >>> weights = cacr_weights(torch.eye(3).expand(2, 3, 3))
        >>> weights.repulsion[0]
        tensor([[0.0000, 0.5000, 0.5000],
                [0.5000, 0.0000, 0.5000],
                [0.5000, 0.5000, 0.0000]])
    """
    check_positive("attraction_temperature", attraction_temperature, zero=True)
    check_positive("repulsion_temperature", repulsion_temperature, zero=True)
    _check_shapes(views, negatives, keys)
    with torch.no_grad(), full_precision(views):
        batch = _Batch.of(views, negatives, keys, normalize, spread=False)
        z, targets, t = batch.z, batch.positives, repulsion_temperature
        distance = _distances(z, targets)
        rows: list[tuple[Tensor, Sequence[Tensor]]]
        if keys is not None and negatives is None:
            anchors = [[distance[v, g] for v in _others(g, len(z))] for g in range(len(targets))]
            rows = [(z[v], [targets[g] for g in _others(v, len(targets))]) for v in range(len(z))]
        else:
            anchors = [[distance[v, u] for u in _others(v, len(z))] for v in range(len(z))]
            rows = [(z[v], z[v + 1 :]) for v in range(len(z) - 1)]
            if negatives is not None:
                rows = [(view, [view]) for view in z]
        pull = [(attraction_temperature * torch.stack(near)).softmax(0).T for near in anchors]
        push = [
            dense_weights(x, torch.stack(list(y)), batch.bank, 0, t)[0].transpose(0, 1)
            for x, y in rows
            if y
        ]
        return CACRWeights(torch.stack(pull), torch.cat(push))


@dataclass
class _Options:
    pull: float  # t+
    push: float  # t-
    scale: float | None  # s, None for the Euclidean cost
    debias: float
    constant: Constant
    chunk_size: int | None


@dataclass
class _Batch:
    """This rank's features and those of all ranks, a tensor a view.

    Apart, since the gradient of a part of a tensor is a tensor of the whole, mostly zero.
    """

    z: Views  # V of (B, D), this rank's queries
    every: Views  # V of (N, D), all ranks' queries; with keys alone G, all ranks' keys
    positives: Views  # V or G of (B, D), this rank's keys, or its queries where there are none
    bank: Tensor | None  # (Q, D)
    total: int  # N
    start: int  # place of this rank's first sample among the N
    ranks: int  # that were gathered, 1 where nothing was
    spread: bool

    @classmethod
    def of(
        cls,
        views: Tensor,
        negatives: Tensor | None,
        keys: Tensor | None,
        normalize: bool,
        spread: bool,
    ) -> "_Batch":
        prepare = unit_rows if normalize else at_least_float32
        queries = prepare(views)
        z = queries.unbind(0)
        targets = queries if keys is None else prepare(keys).to(queries.dtype)
        positives = z if keys is None else targets.unbind(0)
        bank = None if negatives is None else prepare(negatives).to(queries.dtype)
        counts = row_counts(z[0]) if spread else [z[0].shape[0]]
        total, start = sum(counts), sum(counts[: rank()]) if spread else 0
        if total < (2 if negatives is None else 1):
            raise InputError(
                f"a batch of {total} sample has no negatives; CACR needs at least 2, or 1 and a "
                "queue. Use drop_last=True in the loader, or a larger batch."
            )
        every = positives if negatives is None else z
        if spread:
            rows = targets if negatives is None else queries
            every = gather_rows(rows.transpose(0, 1), counts).unbind(1)
        return cls(z, every, positives, bank, total, start, len(counts), spread)


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


def _attraction(distance: Distances, views: int, options: _Options) -> Tensor:
    """Mean over the views of their positives' weighted distance, (B,)."""
    parts = []
    for v in range(views):
        near = torch.stack([distance[v, u] for u in _others(v, views)])  # (V - 1, B)
        parts.append((_pull_weights(near, options) * near).sum(0))
    return torch.stack(parts).mean(0)


def _pull_weights(near: Tensor, options: _Options) -> Tensor:
    """(P, B) distances of an anchor to its positives, to their weights."""
    logits = options.pull * near
    return (logits if options.constant == "none" else logits.detach()).softmax(0)


def _pairs(
    batch: _Batch, options: _Options, distance: Distances, both_directions: bool
) -> Iterator[Tensor]:
    """Repulsion from the other samples in another view: (B, comparisons) at a time."""
    for a in range(len(batch.z)):
        for others in ([*range(a)] if both_directions else [], [*range(a + 1, len(batch.z))]):
            if others:
                columns = [batch.every[b] for b in others]
                near = [distance[a, b] for b in others]
                yield _repulsion(batch.z[a], columns, near, batch, options)


def _queue(batch: _Batch, options: _Options, distance: Distances) -> Iterator[Tensor]:
    """Repulsion from the queue and the own view's other samples: (B, 1) at a time."""
    for v, query in enumerate(batch.z):
        near = torch.stack([distance[v, u] for u in _others(v, len(batch.z))]).mean(0)  # (B,)
        yield _repulsion(query, [batch.every[v]], [near], batch, options)


def _repulsion(
    query: Tensor,
    columns: Sequence[Tensor],
    near: Sequence[Tensor],
    batch: _Batch,
    options: _Options,
    even: bool = True,
) -> Tensor:
    """Repulsion of one view's rows from segments of columns.

    Args:
        query: (B, D).
        columns: S of (N, D).
        near: S of (B,), distances to the positives, for debiasing.
        batch: for the queue, and the place of the rows among the columns.
        options: as given.
        even: whether the samples weigh the same in the mean loss.

    Returns:
        (B, S); with the RBF cost before the logarithm.
    """
    segments = torch.stack(list(columns))  # (S, N, D)
    value = softmin_cost(
        query,
        segments,
        batch.bank,
        skip=batch.start,
        temperature=options.push,
        rbf_scale=options.scale,
        constant_from={"none": None, "queue": segments.shape[1], "all": 0}[options.constant],
        chunk_size=options.chunk_size,
        even=even,
    )
    if options.scale is not None:
        return value
    if not options.debias:
        return -value
    return (options.debias * torch.stack(list(near), 1) - value) / (1 - options.debias)


def _log_mean(values: Tensor, batch: _Batch) -> Tensor:
    """Per-sample numbers whose mean is the logarithm of the mean; see `cacr_terms`.

    Args:
        values: (B, R), above 0.
        batch: for the ranks.

    Returns:
        (B, R).
    """
    mean = values.sum(0)
    mean = (sum_over_ranks(mean) if batch.spread else mean) / batch.total  # (R,)
    return mean.log() + (values - mean) / mean


def _teacher(batch: _Batch, options: _Options) -> tuple[Tensor, Tensor]:
    """Momentum-teacher form: keys are anchors and weigh the queries of the other views.

    Returns:
        Attraction and repulsion, (B,) each.
    """
    z, keys = batch.z, batch.positives
    distance = _distances(z, keys)
    known: Distances = {}  # repulsion of query v from key view g
    for v, query in enumerate(z):
        others = _others(v, len(keys))
        if not others:  # the only key is of the query's own view
            continue
        columns = [batch.every[g] for g in others]
        if options.scale is None:
            near = [distance[v, g] for g in others]
            even = len(z) == 2  # with more views the weights differ from sample to sample
            values = _repulsion(query, columns, near, batch, options, even).unbind(1)
        else:
            values = tuple(_soft_nearest(query, y, options) for y in columns)
        known.update({(v, g): value for g, value in zip(others, values, strict=True)})
    pulled, pushed = [], []
    for g in range(len(keys)):
        rows = _others(g, len(z))
        near_keys = torch.stack([distance[v, g] for v in rows])  # (P, B)
        weights = _pull_weights(near_keys, options)
        pulled.append((weights * near_keys).sum(0))
        pushed.append((weights * torch.stack([known[v, g] for v in rows])).sum(0))
    return torch.stack(pulled).mean(0), torch.stack(pushed).mean(0)


def _soft_nearest(query: Tensor, keys: Tensor, options: _Options) -> Tensor:
    """(B,): 1 / s log sum exp(-s c) of each query over all keys (N, D)."""
    s = options.scale or 1.0
    # -s c = (2 s q, -s) . (k, |k|^2) - s |q|^2, so that a product of rows has it all.
    ones = query.new_full((len(query), 1), -s)
    rows = torch.cat([2 * s * query, ones], 1)
    columns = torch.cat([keys, keys.square().sum(-1, keepdim=True)], 1)
    return row_logsumexp(rows, columns, None, options.chunk_size) / s - query.square().sum(-1)


def check_settings(
    attraction_temperature: float,
    repulsion_temperature: float,
    cost: str,
    rbf_scale: float,
    attraction: str,
    repulsion: str,
    debias: float,
    constant_weights: str,
    reduction: str,
    chunk_size: int | None,
) -> None:
    """Refuse settings of `cacr_terms` that are wrong for any features.

    Raises:
        InputError: a name or number out of range.
    """
    check_choice("cost", cost, get_args(Cost))
    check_choice("attraction", attraction, get_args(Weights))
    check_choice("repulsion", repulsion, get_args(Weights))
    check_choice("constant_weights", constant_weights, get_args(Constant))
    check_choice("reduction", reduction, get_args(Reduction))
    check_positive("attraction_temperature", attraction_temperature, zero=True)
    check_positive("repulsion_temperature", repulsion_temperature, zero=True)
    check_positive("rbf_scale", rbf_scale)
    check_chunk_size(chunk_size)
    if not 0 <= debias < 1:
        raise InputError(f"debias must lie in [0, 1), got {debias!r}; the paper uses 0.1.")
    if debias and cost != "euclidean":
        raise InputError("debias is defined for cost='euclidean' alone; pass debias=0.0.")


def _check_shapes(views: Tensor, negatives: Tensor | None, keys: Tensor | None) -> None:
    check_features("views", views, "(V, B, D)")
    if views.shape[0] < 2:
        raise InputError(
            f"views must hold at least 2 views, (V, B, D) with V >= 2, got {tuple(views.shape)}; "
            "a single view has no positives."
        )
    if negatives is not None:
        check_features("negatives", negatives, "(Q, D)")
        if len(negatives) == 0:
            raise InputError(
                f"negatives must hold at least one key, got {tuple(negatives.shape)}; pass None "
                "for a loss without a queue."
            )
        if negatives.requires_grad:
            raise InputError("negatives are a queue without gradient; pass negatives.detach().")
    if keys is not None:
        check_features("keys", keys, "(V, B, D)")
        fewer = negatives is None and 1 <= keys.shape[0] <= views.shape[0]
        if keys.shape[1] != views.shape[1] or not (fewer or keys.shape[0] == views.shape[0]):
            raise InputError(
                f"keys must be the momentum features of the same {views.shape[1]} samples and "
                f"{views.shape[0]} views (without negatives: of the first G views), got "
                f"{tuple(keys.shape)}."
            )
    check_together(("views", views), {"negatives": negatives, "keys": keys})


def _validate(tensors: list[Tensor | None], normalize: bool, spread: bool) -> None:
    counts = torch.stack([faults(x, unit=not normalize) for x in tensors if x is not None]).sum(0)
    refuse_faults(sum_over_ranks(counts) if spread else counts)
