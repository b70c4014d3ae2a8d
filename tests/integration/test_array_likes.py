"""Lists and arrays where a tensor is meant: the same numbers as of tensors."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bcl import (
    BoostedRandAugment,
    ContrastiveViews,
    MemorizationTracker,
    NTXentLoss,
    SogCLRLoss,
    contrastive_signals,
    fit_linear_probe,
    macl_loss,
    nt_xent,
    signal_weights,
    tail_discovery,
)
from bcl.evaluation import feature_signals
from bcl.evaluation.knn import knn_predict
from bcl.evaluation.metrics import class_accuracy, group_accuracy, top_k_accuracy
from bcl.evaluation.shots import shot_groups
from bcl.memorization.scores import memorization_scores
from cacr import CACRLoss, MomentumQueue, cacr_terms

torch.manual_seed(0)
Z1, Z2 = torch.randn(2, 6, 4)
VIEWS = torch.stack([Z1, Z2])
IDS, LOSSES, LABELS = torch.arange(6), torch.rand(6), torch.tensor([0, 0, 0, 1, 1, 2])
IMAGES = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)


def track(ids, losses):
    tracker = MemorizationTracker(6)
    tracker.update(ids, losses)
    tracker.refresh()
    return tracker.scores


def enqueue(keys):
    queue = MomentumQueue(8, 4)
    queue.enqueue(keys)
    return queue.keys


def boosted(images, scores, ids):
    return ContrastiveViews(8, boost=BoostedRandAugment())(images, scores=scores, ids=ids)


CALLS = [
    (nt_xent, (Z1, Z2)),
    (NTXentLoss(), (VIEWS,)),
    (NTXentLoss(reduction="none"), (Z1, Z2)),
    (macl_loss, (Z1, Z2)),
    (lambda *z: contrastive_signals(*z, num_neighbors=2).tailness, (Z1, Z2)),
    (lambda z, ids: SogCLRLoss(num_samples=6)(z, ids), (VIEWS, IDS)),
    (lambda *z: cacr_terms(*z).repulsion, (VIEWS, Z1)),
    (CACRLoss(), (VIEWS,)),
    (enqueue, (Z1,)),
    (track, (IDS, LOSSES)),
    (memorization_scores, (LOSSES, IDS > 1)),
    (signal_weights, (LOSSES,)),
    (boosted, (IMAGES, LOSSES, IDS)),
    (lambda *x: BoostedRandAugment()(*x), (IMAGES, LOSSES, IDS)),
    (lambda *xy: fit_linear_probe(*xy).predictions, (Z1, LABELS, Z2, LABELS)),
    (lambda *xy: knn_predict(*xy, ks=(1,))[1], (Z1, LABELS, Z2)),
    (lambda *xy: torch.tensor(tail_discovery(*xy, resamples=9).auc), (LOSSES, LABELS)),
    (lambda x: feature_signals(x, ("neighbors_1",))["neighbors_1"], (Z1,)),
    (lambda *x: class_accuracy(*x, 3), (LABELS.flip(0), LABELS)),
    (lambda *x: torch.tensor(top_k_accuracy(*x, 2)), (Z1, LABELS)),
    (
        lambda x: torch.tensor(list(group_accuracy(x, shot_groups([9, 5, 1])).values())),
        (torch.tensor([0.5, 0.25, 0.0]),),
    ),
]


@pytest.mark.parametrize("form", [Tensor.numpy, Tensor.tolist], ids=["array", "list"])
@pytest.mark.parametrize(("call", "given"), CALLS)
def test_lists_and_arrays_are_as_good_as_tensors(form, call, given):
    if form is Tensor.tolist and any(each.dtype == torch.uint8 for each in given):
        given = (given[0].float() / 255, *given[1:])  # lists of integers are no levels
    torch.testing.assert_close(call(*map(form, given)), call(*given))


def test_float64_arrays_are_computed_in_float64():
    assert nt_xent(Z1.double().numpy(), Z2.double().numpy()).dtype == torch.float64


def test_two_views_are_as_good_as_one_stack():
    z1, z2 = Z1.clone().requires_grad_(), Z2.clone().requires_grad_()
    for loss in (NTXentLoss(), NTXentLoss(temperature=0.5, focal=2.0, reduction="sum")):
        assert loss(z1, z2).equal(loss(VIEWS))
        assert loss([z1, z2]).equal(loss(VIEWS))
        assert loss(Z1, Z2, temperature=0.7).equal(loss(VIEWS, temperature=0.7))
    pair = torch.autograd.grad(NTXentLoss()(z1, z2), [z1, z2])
    listed = torch.autograd.grad(NTXentLoss()([z1, z2]), [z1, z2])
    alone = torch.autograd.grad(nt_xent(z1, z2), [z1, z2])
    for found in (pair, listed):
        torch.testing.assert_close(found, alone)
        assert found[0].abs().sum() > 0


def test_names_are_labels_too():
    names = np.array(["ant", "bee", "cat"])[LABELS]
    by_name = fit_linear_probe(Z1, names, Z2, names.tolist())
    assert by_name.predictions.equal(fit_linear_probe(Z1, LABELS, Z2, LABELS).predictions)
    found = tail_discovery(LOSSES, names, resamples=9)
    assert found == tail_discovery(LOSSES, LABELS, resamples=9)
