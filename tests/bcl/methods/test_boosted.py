"""The memory's scores steer the views."""

import pytest
import torch
from small_runs import SIZE, TINY, train

from bcl import (
    BCL,
    BoostedRandAugment,
    ContrastiveViews,
    SimCLR,
)


@pytest.mark.parametrize(("cls", "fed"), [(SimCLR, False), (BCL, True)])
def test_scores_steer_the_views_only_where_there_is_a_boost(cls, fed):
    calls = []

    class Spy(ContrastiveViews):
        def forward(self, images, scores=None, ids=None, epoch=0):
            calls.append((scores, ids, epoch))
            return super().forward(images, scores=scores, ids=ids, epoch=epoch)

    views = Spy(SIZE, boost=BoostedRandAugment() if fed else None)
    method = cls(TINY, views=views)
    train(method)
    assert [epoch for _, _, epoch in calls] == [0, 0, 0, 1, 1, 1]
    assert torch.cat([ids for _, ids, _ in calls[:3]]).tolist() == list(range(24))
    if not fed:
        assert all(scores is None for scores, _, _ in calls)
    else:
        assert not torch.cat([scores for scores, _, _ in calls[:3]]).any()  # epoch 1: no boost
        assert torch.cat([scores for scores, _, _ in calls[3:]]).any()
