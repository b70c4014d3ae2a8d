"""The tracker's samples in the report: tail discovery, and the images that are shown."""

import pytest
import torch
from fakes import FakeData, encode

import bcl
from bcl.core.errors import InputError
from bcl.evaluation import EvaluationOptions, samples
from bcl.evaluation.samples import summarize, training_sample, wrong_images
from bcl.evaluation.sets import Sets
from bcl.memorization.history import write_epoch


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


def test_wrong_answers_are_shown_each_confusion_in_turn(monkeypatch):
    data = FakeData()
    labels, counts = torch.as_tensor(data.test_set().labels), (60, 30, 20, 10, 5, 3)
    predictions = torch.zeros_like(labels)  # all but the images of class 0 are wrong
    sets = Sets(data, [], None, 0, "cpu")
    shown = wrong_images(predictions, sets)
    assert {image.which for image in shown} == {"wrong"}
    # One of each class first, the rarest class before others, then a second one.
    assert [image.label for image in shown[:7]] == [5, 4, 3, 2, 1, 5, 4]
    assert [counts[image.label] for image in shown[:5]] == [3, 5, 10, 20, 30]
    assert len({image.id for image in shown}) == len(shown) == 100
    assert all(image.label == labels[image.id] for image in shown)
    assert shown[0].content[8:12] == b"WEBP"
    monkeypatch.setattr(samples, "WRONG", 3)
    assert len(wrong_images(predictions, sets)) == 3
    assert wrong_images(labels, sets) == []


def test_a_sample_has_some_of_each_class_and_is_the_same_anywhere(tracker, monkeypatch):
    monkeypatch.setattr(samples, "SAMPLE", 60)
    data = FakeData()
    sets, options = Sets(data, [], None, 0, "cpu"), EvaluationOptions(batch_size=7)
    found = training_sample(encode, tracker, sets, options)
    assert len(found.ids) == len(found.names) == len(found.thumbnails) == 60
    assert found.ids.equal(found.ids.unique())  # sorted, each once
    counts = torch.bincount(found.labels, minlength=6).tolist()
    assert counts[5] == 3  # all that there are
    assert min(counts[:5]) == 5
    labels = torch.as_tensor(data.train_set().labels)
    assert found.labels.equal(labels[found.ids])
    assert found.scores.equal(tracker.scores[found.ids])
    expected = torch.nn.functional.normalize(encode(data.train_set().images(found.ids)), dim=1)
    assert torch.allclose(found.features.float(), expected, atol=1e-3)
    again = training_sample(encode, None, sets, EvaluationOptions())
    assert again.ids.equal(found.ids)
    assert again.scores.numel() == 0


def test_a_sample_of_more_classes_than_it_can_hold(monkeypatch):
    monkeypatch.setattr(samples, "SAMPLE", 8)
    found = training_sample(encode, None, Sets(FakeData(), [], None, 0, "cpu"), EvaluationOptions())
    assert len(found.ids) == 8


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


@pytest.mark.slow
def test_every_signal_is_judged_at_the_end_and_by_epoch(tmp_path):
    counts = FakeData().class_counts
    labels = torch.as_tensor(FakeData().train_set().labels)
    rarity = 1 / torch.as_tensor(counts)[labels].float()
    trackers = {"loss": bcl.MemorizationTracker(128), "isolation": bcl.MemorizationTracker(128)}
    for epoch, sign in enumerate((-1, 1, 1)):
        for name, tracker in trackers.items():
            good = rarity if name == "isolation" else -rarity
            tracker.update(torch.arange(128), good * (1 if name == "loss" else sign))
            write_epoch(tmp_path / ("" if name == "loss" else name), epoch, tracker)
            tracker.refresh()
    trackers["isolation"].momentum_loss.copy_(rarity)
    found = bcl.evaluate(encode, FakeData(), tracker=trackers, history=tmp_path).tracker
    assert found["signal"] == "loss"
    assert found["discovery"]["auc"][0] == 0
    signals = found["signals"]
    assert [signals[name]["discovery"]["auc"][0] for name in trackers] == [0, 1]
    assert [row["epoch"] for row in signals["loss"]["epochs"]] == [0, 1, 2]
    assert {row["auc"] for row in signals["loss"]["epochs"]} == {0}
    assert signals["isolation"]["epochs"][0]["auc"] == 0
    alone = bcl.evaluate(encode, FakeData(), tracker=trackers["loss"]).tracker
    assert alone["signals"]["loss"]["epochs"] == []
