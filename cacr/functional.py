"""CACR's attraction and repulsion as a function: per sample, exact across ranks."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bcl._rows import unit_rows
from bcl.distributed import gather_rows, rank, row_counts, sum_over_ranks, world_size
from bcl.errors import InputError, unknown_name
from bcl.functional import Reduction, reduce_samples

Cost = Literal["euclidean", "rbf"]
Weights = Literal["conditional", "uniform"]


class CACRTerms(NamedTuple):
    """The two parts of the loss, each () or (B,)."""

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
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: bool = True,
    chunk_size: int | None = None,
) -> CACRTerms:
    """CACR's two terms."""
    if reduction not in REDUCTIONS:
        raise unknown_name("reduction", reduction, REDUCTIONS)
    if views.ndim != 3 or views.shape[0] < 2:
        raise InputError(f"views must be of shape (V, B, D) with V >= 2, got {tuple(views.shape)}.")
    spread = gather and world_size() > 1
    with torch.autocast(views.device.type, enabled=False):
        z = unit_rows(views) if normalize else views
        V, B, _ = z.shape
        counts = row_counts(z.transpose(0, 1)) if spread else [B]
        total, start = sum(counts), sum(counts[: rank()]) if spread else 0
        every = gather_rows(z.transpose(0, 1), counts).transpose(0, 1) if spread else z
        positives = z if keys is None else (unit_rows(keys) if normalize else keys)
        own = (
            torch.arange(total, device=z.device)
            == start + torch.arange(B, device=z.device)[:, None]
        )
        t_plus = attraction_temperature if attraction == "conditional" else 0.0
        t_minus = repulsion_temperature if repulsion == "conditional" else 0.0
        pull = []
        for v in range(V):
            others = [u for u in range(V) if u != v]
            distance = (z[v] - positives[others]).square().sum(-1)  # (K, B)
            pull.append(((t_plus * distance).softmax(0) * distance).sum(0))
        attract = torch.stack(pull).mean(0)  # (B,)
        push = []
        if negatives is None:
            for a in range(V):
                for b in range(a + 1, V):
                    push.append(_push(z[a], every[b], own, t_minus, cost, rbf_scale))
                    if debias:
                        c_pos = (z[a] - z[b]).square().sum(-1)
                        push[-1] = (push[-1] + debias * c_pos) / (1 - debias)
        else:
            bank = unit_rows(negatives) if normalize else negatives
            mask = torch.cat([own, own.new_zeros(B, bank.shape[0])], 1)
            for v in range(V):
                push.append(
                    _push(z[v], torch.cat([every[v], bank]), mask, t_minus, cost, rbf_scale)
                )
        repel = torch.stack(push)  # (P, B)
        if cost == "rbf":
            # (P, 1): the log stands outside the mean over the batch.
            mean = (
                sum_over_ranks(repel.sum(1, keepdim=True)) / total
                if spread
                else repel.mean(1, keepdim=True)
            )
            repel = mean.log() + (repel - mean) / mean
        repel = repel.mean(0)
        known = total if spread else None
        return CACRTerms(
            reduce_samples(attract, reduction, total), reduce_samples(repel, reduction, total)
        )


def _push(x: Tensor, y: Tensor, own: Tensor, t: float, cost: Cost, scale: float) -> Tensor:
    norms = x.square().sum(-1)[:, None] + y.square().sum(-1)
    distance = norms - 2 * x @ y.T  # (n, m)
    weight = (-t * distance).masked_fill(own, -math.inf).softmax(-1)
    if cost == "rbf":
        return (weight * (-scale * distance).exp()).sum(-1)
    return -(weight * distance).sum(-1)
