"""The tracker's samples in the report: tail discovery, and the images that are shown."""

import pytest
import torch
from fakes import FakeData, encode

import bcl
from bcl.core.errors import InputError
from bcl.evaluation.samples import summarize


@pytest.fixture(scope="module")
def tracker():
    tracker = bcl.MemorizationTracker(128)
    tracker.update(torch.arange(128), torch.linspace(1, 2, 128))
    tracker.refresh()
    return tracker


def test_samples_that_moved_most(tracker):
    earlier = torch.zeros(128)
    earlier[5] = 1.0
    report = bcl.evaluate(encode, FakeData(), tracker=tracker, earlier_scores=earlier)
    fallen = [image for image in report.images if image.which == "fallen"]
    assert fallen[0].id == 5
    assert fallen[0].change == pytest.approx(float(tracker.scores[5]) - 1)
    with pytest.raises(InputError, match="earlier_scores has 3 samples"):
        bcl.evaluate(encode, FakeData(), tracker=tracker, earlier_scores=torch.zeros(3))


def test_tracker_of_other_data_is_refused():
    with pytest.raises(InputError, match="tracker has 3 samples"):
        bcl.evaluate(encode, FakeData(), tracker=bcl.MemorizationTracker(3))


def test_summary_of_losses_that_fall_with_frequency():
    counts = torch.tensor([50, 20, 5])
    labels = torch.repeat_interleave(torch.arange(3), counts)
    loss = 10.0 - counts[labels].float().log() + torch.linspace(0, 0.1, 75)
    seen = torch.ones(75, dtype=torch.bool)
    found = summarize(loss, loss / 20, seen, labels, counts)
    assert found["discovery"]["spearman_classes"].value == pytest.approx(-1)
    assert found["discovery"]["auc"] == (1, 1, 1)
    assert sum(found["score_histogram"]) == 75
    only_head = summarize(loss, loss / 20, labels == 0, labels, counts)
    assert only_head["discovery"] is None
    assert "0 samples are of tail" in only_head["discovery_note"]
    assert only_head["by_class"][2]["mean"] is None
