"""Signals of the tail: numbers per sample from the similarities that NT-Xent compares."""

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bcl.core.checks import TensorLike, as_features, check_count, check_positive
from bcl.core.distributed import row_counts, world_size
from bcl.core.errors import InputError
from bcl.losses.blocks import rows_per_block
from bcl.losses.dense import LOG2_E
from bcl.losses.nt_xent import (
    NTXentLoss,
    Temperature,
    as_pair,
    as_two_views,
    check_samples,
    gather_views,
    nt_xent,
)
from bcl.losses.precision import at_least_float32, full_precision, unit_rows


class Signals(NamedTuple):
    """What `contrastive_signals` returns; higher means more likely tail.

    Attributes:
        loss: (B,) NT-Xent in nats.
        misalignment: (B,) minus the similarity of the two views, over the temperature.
        isolation: (B,) minus the log of the negatives' exponentials.
        tailness: (B,) minus the probability of the nearest negatives, in [-1, 0].
    """

    loss: Tensor
    misalignment: Tensor
    isolation: Tensor
    tailness: Tensor


def contrastive_signals(
    z1: TensorLike,
    z2: TensorLike,
    temperature: float = 0.2,
    *,
    num_neighbors: int = 10,
    normalize: bool = True,
    gather: bool = True,
) -> Signals:
    r"""Take NT-Xent apart into what may tell tail samples from head samples.

    With :math:`s^+` the cosine of a sample's two views and :math:`s_j` those of a view with its
    2 (N - 1) negatives, both views of all other samples, each view of a sample has

    .. math:: \text{misalignment} = -s^+ / \tau, \qquad
        \text{isolation} = -\log \textstyle\sum_j \exp(s_j / \tau), \\
        \text{loss} = \log\bigl(e^{s^+ / \tau} + e^{-\text{isolation}}\bigr) - s^+ / \tau

    and a sample the mean of its two views. The loss is high for a sample that is not memorized
    (misaligned) and low for one with few similar samples (isolated), so that on a tail sample its
    two parts may pull in opposite directions. Last,

    .. math:: \text{tailness} = -\sum_{j \in \text{top } k} \tfrac12 (p_{1j} + p_{2j}), \qquad
        p_{vj} = \exp(s_{vj} / \tau) \cdot p_v^+ / \exp(s^+ / \tau)

    with :math:`p_v^+` the probability of the positive: the k largest negative probabilities, which
    are averaged over the two views first.

    With a process group a sample is compared with those of all ranks, as in `bcl.nt_xent`; all
    ranks must call it. Memory is linear in B. Nothing has a gradient.

    Args:
        z1: (B, D) features of one view, of any length.
        z2: (B, D) features of the other view of the same samples.
        temperature: :math:`\tau > 0` of the signals, apart from that of a loss, so that a schedule
            does not move them.
        num_neighbors: k, at most 2 (N - 1).
        normalize: False if the rows already have length one.
        gather: compare with the samples of all ranks.

    Returns:
        (B,) each, higher for samples that are more likely tail.

    Raises:
        InputError: as `bcl.nt_xent`, or more neighbors than negatives.

    Source: loss as in BCL (arXiv 2205.12693); tailness as in COLT (arXiv 2306.04934).

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> contrastive_signals(z, z, temperature=1.0, num_neighbors=2).isolation
        tensor([-2.0064, -2.0064, -1.3863])
    """
    views = as_pair(z1, z2)
    _check_settings(temperature, num_neighbors)
    return _signals(views, temperature, num_neighbors, normalize, gather)[0]


@torch.no_grad()
def expected_loss(views: TensorLike, temperature: float = 0.2, gather: bool = True) -> Tensor:
    r"""Average NT-Xent over all pairs of V views, which one draw of views would leave noisy.

    .. math:: \ell_i = \frac{2}{V (V - 1)} \sum_{v < w} \text{NT-Xent}_i(z_v, z_w)

    Args:
        views: (V, B, D) features of V ≥ 2 views, of any length.
        temperature: :math:`\tau > 0`.
        gather: compare with the samples of all ranks.

    Returns:
        (B,) nats, without gradient.

    Raises:
        InputError: as `bcl.nt_xent`, or one view alone.

    Source: ECLE of MAK (arXiv 2111.01004), with V = 10. There every pair is averaged over ten
    random batches too.

    Example:
        >>> expected_loss(torch.eye(3).expand(4, 3, 3), temperature=1.0)
        tensor([0.9048, 0.9048, 0.9048])
    """
    views = as_features("views", views, "(V, B, D)")
    if len(views) < 2:
        raise InputError("an expected loss compares views; pass two or more, (V, B, D).")
    options: dict[str, Any] = {"reduction": "none", "gather": gather}
    pairs = itertools.combinations(views, 2)
    return torch.stack([nt_xent(a, b, temperature, **options) for a, b in pairs]).mean(0)


def nt_xent_with_signals(
    loss: NTXentLoss,
    views: TensorLike,
    temperature: Temperature | None = None,
    *,
    signal_temperature: float = 0.2,
    num_neighbors: int = 10,
) -> tuple[Tensor, Signals]:
    """Compute ``loss(views, temperature)`` and `contrastive_signals` of the same views.

    On one process, at equal temperatures and with normalized rows, the signals' pass over all
    pairs serves the loss too; else each takes its own.

    Args:
        loss: the loss, whose settings hold for both.
        views: (2, B, D).
        temperature: of the loss, instead of the module's.
        signal_temperature: of the signals.
        num_neighbors: as in `contrastive_signals`.

    Returns:
        The loss, () or (B,), and signals without gradient.

    Raises:
        InputError: as both.

    Example:
        >>> loss, signals = nt_xent_with_signals(
        ...     NTXentLoss(0.2), torch.eye(3).expand(2, 3, 3), num_neighbors=4
        ... )
        >>> torch.allclose(loss, signals.loss.mean())
        True
    """
    _check_settings(signal_temperature, num_neighbors)
    views = as_two_views(views)
    settings = signal_temperature, num_neighbors, loss.normalize, loss.gather
    signals, log_mass = _signals(views.detach(), *settings)
    used = loss.temperature if temperature is None else temperature
    shared = not isinstance(used, Tensor) and used == signal_temperature
    used_mass = log_mass if shared else None
    return loss(views, temperature=temperature, log_mass=used_mass), signals


def _check_settings(temperature: float, num_neighbors: int) -> None:
    if isinstance(temperature, Tensor):
        raise InputError(
            "the temperature of signals is one number for all samples and epochs, got a tensor of "
            f"shape {tuple(temperature.shape)}; pass a float, such as 0.2."
        )
    check_positive("temperature", temperature)
    check_count("num_neighbors", num_neighbors)


@torch.no_grad()
def _signals(
    views: Tensor, temperature: float, num_neighbors: int, normalize: bool, gather: bool
) -> tuple[Signals, Tensor]:
    """Signals of views (2, B, D), and the log-sum-exp of each row with its positive, (2, B)."""
    batch = views.shape[1]
    counts = row_counts(views[0]) if gather and world_size() > 1 else [batch]
    check_samples(counts)
    negatives = 2 * (sum(counts) - 1)
    if num_neighbors > negatives:
        raise InputError(
            f"num_neighbors must be at most the {negatives} negatives of {sum(counts)} samples, "
            f"got {num_neighbors}; pass fewer, or a larger batch."
        )
    with full_precision(views):
        u = unit_rows(views) if normalize else at_least_float32(views)
        columns, first = gather_views(u, counts)  # (2, N, D)
        columns = columns.flatten(0, 1) * (LOG2_E / temperature)
        pairs = rows_per_block(2 * batch, len(columns), u.device, None) or 2 * batch
        size = max(1, pairs // 2)
        parts = []
        for start in range(0, max(1, batch), size):  # a rank without samples has an empty block
            rows = u[:, start : start + size]  # (2, r, D)
            logits = (rows.flatten(0, 1) @ columns.T).view(*rows.shape[:2], 2, sum(counts))
            parts.append(_block_signals(logits, first + start, num_neighbors))
    *signals, totals = zip(*parts, strict=True)
    return Signals._make(map(torch.cat, signals)), torch.cat(totals, 1)


def _block_signals(logits: Tensor, first: int, num_neighbors: int) -> tuple[Tensor, ...]:
    """Compute the signals of samples from ``first`` on.

    Args:
        logits: (2, r, 2, N) to the base 2, which are overwritten: of the samples' views with both
            views of all samples.
        first: place of the first sample among the N.
        num_neighbors: k.

    Returns:
        (r,) each, and the log-sum-exp of all rows, (2, r).
    """
    own = logits.diagonal(first, 1, 3)  # (2, 2, r), of two views of the same sample
    positive = own[[0, 1], [1, 0]]  # (2, r)
    own.fill_(-torch.inf)
    logits = logits.flatten(2)  # (2, r, 2 N)
    top = logits.amax(-1, keepdim=True)
    weights = logits.sub_(top).exp2_()
    density = top.squeeze(-1) + weights.sum(-1).log2()  # (2, r)
    total = torch.logaddexp2(positive, density)
    shares = weights.mul_((top - total[..., None]).exp2_() / 2)  # half the probabilities
    near = shares[0].add_(shares[1]).topk(num_neighbors, sorted=False).values  # (r, k)
    loss = torch.logaddexp2(density - positive, torch.zeros_like(positive))
    rows = torch.stack([loss, -positive, -density]).mean(1) / LOG2_E  # (3, r), in nats
    return *rows, -near.sum(-1), total / LOG2_E
