"""The whole evaluation on a small made-up data set."""

import json
import math

import pytest
import torch
from fakes import QUICK, FakeData, encode

import bcl
from bcl.core.errors import InputError
from bcl.evaluation import EvaluationOptions, ProbeReport
from bcl.evaluation.crops import CroppedSet, crop_and_flip
from bcl.report import render_report


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


def test_tracker_correlation_matches_the_made_up_losses(report):
    # Losses rise with the id and classes get rarer with the id.
    assert report.tracker["spearman_classes"] == pytest.approx(-1)
    assert report.tracker["auroc_tail"] == pytest.approx(1)


def test_saves_and_loads(report, tmp_path):
    path = report.save(tmp_path / "a")
    values = json.loads(path.read_text())
    assert values["schema_version"] == 2
    again = ProbeReport.load(tmp_path / "a")
    assert again.to_dict() == report.to_dict()
    assert again.predictions["full"].equal(report.predictions["full"])
    assert [image.png for image in again.images] == [image.png for image in report.images]


def test_renders_one_self_contained_page(report, tmp_path):
    out = render_report([report, report], tmp_path / "report.html")
    text = out.read_text()
    assert "class &lt;0&gt;" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert text.count("data:image/png;base64,") == 64
    with pytest.raises(InputError, match="overwrite"):
        render_report(report, out, overwrite=False)


def test_refuses_other_test_sets(report, tmp_path):
    other = ProbeReport(**{**report.__dict__, "data": {**report.data, "test_hash": "other"}})
    with pytest.raises(InputError, match="different images"):
        render_report([report, other], tmp_path / "report.html")


def test_unknown_protocol_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'long-tailed'"):
        bcl.evaluate(encode, FakeData(), protocols="long-tailled")


def test_fewer_images_than_shots_names_the_class():
    with pytest.raises(InputError, match="needs 41 images of every class, but class 0 has 40"):
        bcl.evaluate(encode, FakeData(), protocols="41-shot")


def test_missing_labels_are_refused():
    data = FakeData()
    data.probe_set().labels = None
    with pytest.raises(InputError, match="probe set has no label for each of its 240"):
        bcl.evaluate(encode, data, protocols="full")
    data = FakeData()
    data.probe_set().labels[7] = -1
    with pytest.raises(InputError, match="image 7 of the probe set has label -1"):
        bcl.evaluate(encode, data, protocols="full")


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


def test_crops_do_not_depend_on_batches():
    images = CroppedSet(FakeData().probe_set(), 3)
    whole = torch.cat([batch["image"] for batch in images.batches(7, "cpu")])
    ids = torch.arange(len(images)).flip(0)
    assert whole.equal(images.images(ids).flip(0))
    assert not whole.equal(images.base.images(ids).flip(0))
    assert CroppedSet(images.base, 4).content_hash != images.content_hash


@pytest.mark.parametrize("size", [(8, 8), (8, 24), (24, 8)])
def test_crops_of_any_shape_are_windows_of_the_padded_image(size):
    images = torch.rand(20, 3, *size, generator=torch.Generator().manual_seed(0))
    made = crop_and_flip(images, torch.arange(20), 0, 0)
    assert made.shape == images.shape
    y, x = size[0] // 8, size[1] // 8
    padded = torch.nn.functional.pad(images, (x, x, y, y))
    windows = padded.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (B, 3, tops, lefts, H, W)
    for crop, every in zip(made, windows, strict=True):
        both = torch.cat([every, every.flip(-1)], 1)
        assert (both == crop[:, None, None]).flatten(3).all(-1).all(0).any()


def test_samples_that_moved_most(tracker):
    earlier = torch.zeros(128)
    earlier[5] = 1.0
    report = bcl.evaluate(encode, FakeData(), tracker=tracker, earlier_scores=earlier)
    fallen = [image for image in report.images if image.which == "fallen"]
    assert fallen[0].id == 5
    assert fallen[0].change == pytest.approx(float(tracker.scores[5]) - 1)
    with pytest.raises(InputError, match="earlier_scores has 3 samples"):
        bcl.evaluate(encode, FakeData(), tracker=tracker, earlier_scores=torch.zeros(3))


def test_measures_are_in_the_report(report):
    assert -4 < report.measures["uniformity"] < 0
    assert 0 < report.measures["alignment"] < 4
    assert set(report.measures["spread"]) == {"many", "medium", "few", "all"}


def test_tracker_of_other_data_is_refused():
    with pytest.raises(InputError, match="tracker has 3 samples"):
        bcl.evaluate(encode, FakeData(), tracker=bcl.MemorizationTracker(3))
