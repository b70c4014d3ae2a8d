"""The whole evaluation on a small made-up data set."""

import math
from dataclasses import replace

import pytest
import torch
from fakes import QUICK, FakeData, FakeMethod, encode

import bcl
from bcl.core.errors import InputError
from bcl.evaluation import EvaluationOptions, ProbeOptions
from bcl.evaluation.crops import crop_and_flip
from bcl.evaluation.probe.gradient import train_heads
from bcl.evaluation.probe.options import gradient_settings


@pytest.fixture(scope="module")
def tracker():
    tracker = bcl.MemorizationTracker(128)
    tracker.update(torch.arange(128), torch.linspace(1, 2, 128))
    tracker.refresh()
    return tracker


@pytest.fixture(scope="module")
def report(tracker):
    history = [{"epoch": epoch, "loss": 5 - epoch / 10} for epoch in range(10)]
    return bcl.evaluate(
        encode,
        FakeData(),
        protocols=["full", "10-shot", "10%", "long-tailed", "knn", "knn-euclidean"],
        record={"name": "one", "history": history, "config": {"a": 1}, "seed": 0},
        options=EvaluationOptions(batch_size=50),
        tracker=tracker,
    )


@pytest.mark.slow
def test_report_holds_every_protocol(report):
    names = [entry.name for entry in report.protocols]
    assert names[:4] == ["full", "10-shot", "10%", "long-tailed"]
    assert names[4:7] == ["knn@1", "knn@10", "knn@200"]
    assert names[7:] == ["knn-euclidean@1", "knn-euclidean@10", "knn-euclidean@200"]
    full = report.protocol("full")
    assert full.accuracy.mean > 0.5
    assert len(report.protocol("10-shot").draws) == 5
    right = report.predictions["full"][0] == report.predictions["labels"]
    assert full.accuracy.mean == pytest.approx(right.double().mean().item())
    assert set(report.groups) == {"thirds", "thresholds"}
    assert math.isnan(full.groups["thresholds"]["many"].mean)


@pytest.mark.slow
def test_tracker_correlation_matches_the_made_up_losses(report):
    # Losses rise with the id and classes get rarer with the id.
    assert report.tracker["discovery"]["spearman_classes"].value == pytest.approx(-1)
    assert report.tracker["discovery"]["auc"].value == pytest.approx(1)


def test_class_without_training_or_test_images_is_said():
    data = FakeData()
    keep = data.probe_set().labels != 2
    for name in ("labels", "pixels"):
        setattr(data._probe, name, getattr(data._probe, name)[keep])
    keep = data.test_set().labels != 4
    for name in ("labels", "pixels"):
        setattr(data._test, name, getattr(data._test, name)[keep])
    entry = bcl.evaluate(encode, data, protocols="full").protocol("full")
    assert entry.notes == [
        "no test image of classes 4: left out of the means",
        "no training image of classes 2: never predicted",
    ]
    assert entry.per_class[2] == 0
    assert math.isnan(entry.per_class[4])


def test_probe_on_one_cropped_pass():
    seen = []

    def watched(images):
        seen.append(images.shape[0])
        return encode(images)

    data = FakeData()
    report = bcl.evaluate(watched, data, "full,full+crop,10-shot+crop:ridge,knn@3", QUICK)
    assert sum(seen) == 240 + 240 + 120  # plain, cropped, test: each once
    names = [entry.name for entry in report.protocols]
    assert names == ["full", "full+crop", "10-shot+crop:ridge", "knn@3"]
    plain, cropped = (report.protocol(name).draws[0].chosen for name in names[:2])
    assert plain != cropped
    assert "one random crop and flip of each" in report.protocol("full+crop").description


def test_a_probe_with_new_crops_in_every_epoch_sees_what_a_plain_loop_sees():
    data, shown = FakeData(), []

    def watched(images):
        shown.append(images)
        return encode(images)

    probe = ProbeOptions(learning_rate=0.05, epochs=3, seed=4)
    options = EvaluationOptions(measures=False, probe=probe, batch_size=60)
    report = bcl.evaluate(watched, data, "full+crops:sgd,10-shot+crops:sgd", options)
    assert [each.shape[0] for each in shown[:6]] == [60] * 4 + [60] * 2  # plain, and test
    pixels, labels = data._probe.pixels, data._probe.labels
    every = torch.arange(len(pixels))
    passes = [crop_and_flip(pixels, every, 4, epoch) for epoch in range(3)]
    for epoch, images in enumerate(passes):
        whole = torch.cat(shown[6 + 4 * epoch : 10 + 4 * epoch])
        assert whole.equal(images)
    rule = gradient_settings(replace(probe, solver="sgd"))
    w, b, _ = train_heads(
        encode(pixels)[None], labels[None], 6, rule, 0.05, 4,
        fresh=lambda epoch: encode(passes[epoch])[None],
    )  # fmt: skip
    expected = (encode(data._test.pixels) @ w[0] + b[0]).argmax(1)
    assert report.predictions["full+crops:sgd"][0].equal(expected)
    # Few shots encode the images of their draws alone.
    rows = torch.unique(torch.cat([data.few_shot(10, draw) for draw in range(5)]))
    few = torch.cat(shown[18:])
    assert len(few) == 3 * len(rows)
    assert few[: len(rows)].equal(passes[0][rows])


def test_measures_are_in_the_report(report):
    assert -4 < report.measures["uniformity"] < 0
    assert 0 < report.measures["alignment"] < 4
    assert set(report.measures["spread"]) == {"many", "medium", "few", "all"}


def test_neighbors_name_absent_classes():
    data = FakeData()
    data._probe.labels = data._probe.labels.clamp(max=3)
    data._test.labels = data._test.labels.clamp(min=1)
    report = bcl.evaluate(encode, data, "knn", QUICK)
    first, second = report.protocols[0].notes
    assert first.startswith("no test image of classes 0")
    assert second.startswith("no training image of classes 4, 5")


def test_neighbors_asked_for_twice_are_reported_once():
    report = bcl.evaluate(encode, FakeData(), "knn,knn@10,knn@3", QUICK)
    names = [entry.name for entry in report.protocols]
    assert names == ["knn@1", "knn@10", "knn@200", "knn@3"]


@pytest.mark.parametrize("option", ["batch_size", "finetune_epochs"])
def test_counts_must_be_positive(option):
    with pytest.raises(InputError, match=f"{option} .* at least 1, got 0"):
        EvaluationOptions(**{option: 0})


def test_the_seed_of_the_probe_is_part_of_the_report():
    options = EvaluationOptions(probe=ProbeOptions(seed=7), measures=False)
    assert bcl.evaluate(encode, FakeData(), "full", options).record["probe_seed"] == 7


def test_two_classes_have_thresholds_alone():
    data = FakeData()
    data.num_classes, data.class_counts = 2, torch.tensor([60, 3])
    for images in (data._train, data._probe, data._test):
        images.labels = images.labels % 2
    assert list(bcl.evaluate(encode, data, "full", QUICK).groups) == ["thresholds"]


def test_layers_and_fine_tuning_need_the_method():
    method = FakeMethod(torch.nn.Flatten(), torch.nn.Linear(192, 4))
    options = EvaluationOptions(layer="projector", measures=False)
    report = bcl.evaluate(method, FakeData(), "full", options)
    assert report.data["feature_dimensions"] == 4
    with pytest.raises(InputError, match="pass the method"):
        bcl.evaluate(encode, FakeData(), "full", options)
    with pytest.raises(InputError, match="pass the method"):
        bcl.evaluate(encode, FakeData(), "finetune-1%")
