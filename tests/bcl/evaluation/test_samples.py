"""The tracker's samples in the report: tail discovery, and the images that are shown."""

import pytest
import torch
from fakes import FakeData, encode

import bcl
from bcl.core.errors import InputError


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
