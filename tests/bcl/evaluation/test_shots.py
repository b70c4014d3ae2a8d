import pytest
import torch

from bcl import shot_groups
from bcl.core.errors import InputError


@pytest.mark.parametrize(
    ("classes", "sizes"), [(100, (34, 33, 33)), (10, (4, 3, 3)), (3, (1, 1, 1))]
)
def test_thirds_give_the_leftover_to_many(classes, sizes):
    counts = torch.arange(classes, 0, -1) * 3
    groups = shot_groups(counts[torch.randperm(classes)], "thirds")
    assert tuple(ids.numel() for ids in groups.as_dict().values()) == sizes
    assert groups.class_counts[groups.many].min() > groups.class_counts[groups.medium].max()
    assert groups.class_counts[groups.medium].min() > groups.class_counts[groups.few].max()


def test_thresholds_at_their_bounds():
    groups = shot_groups([101, 100, 20, 19], "thresholds")
    assert groups.many.tolist() == [0]
    assert groups.medium.tolist() == [1, 2]
    assert groups.few.tolist() == [3]
    assert groups.of_class() == ["many", "medium", "medium", "few"]
    assert "1/2/1 classes" in groups.description


def test_cifar_counts_of_the_papers():
    # Facts of both published rules on CIFAR-100-LT with 500 to 5 images.
    counts = [int(500 * 0.01 ** (i / 99)) for i in range(100)]
    assert sum(counts) == 10847
    groups = shot_groups(counts, "thresholds")
    assert [ids.numel() for ids in groups.as_dict().values()] == [35, 35, 30]


@pytest.mark.parametrize(
    ("classes", "sizes"), [(100, (20, 60, 20)), (11, (2, 7, 2)), (5, (1, 3, 1))]
)
def test_fifths_leave_the_leftover_to_medium(classes, sizes):
    counts = torch.arange(classes, 0, -1) * 3
    groups = shot_groups(counts, "fifths")
    assert tuple(ids.numel() for ids in groups.as_dict().values()) == sizes
    assert groups.many.tolist() == [*range(sizes[0])]
    assert groups.few.tolist() == [*range(classes - sizes[2], classes)]


@pytest.mark.parametrize(
    ("counts", "grouping", "message"),
    [
        ([3, 2, 1], "third", "did you mean 'thirds'"),
        ([[3, 2, 1]], "thirds", "one row"),
        ([], "thirds", "one row"),
        ([3, -2, 1], "thirds", "negative"),
        ([0.5, 0.5, 0.1], "thirds", "whole"),
        ([3, 2], "thirds", "three classes"),
        ([3, 2, 2, 1], "fifths", "five classes"),
    ],
)
def test_bad_input(counts, grouping, message):
    with pytest.raises(InputError, match=message):
        shot_groups(counts, grouping)
