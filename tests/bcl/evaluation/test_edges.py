"""Inputs at the edge: narrow label types, coarse significance, results that must not be lost."""

import json
import math

import pytest
import torch
from fakes import QUICK, FakeData, FakeSet, encode

import bcl
from bcl import fit_linear_probe
from bcl.cli import main
from bcl.core.errors import InputError
from bcl.evaluation import EvaluationOptions, ProbeOptions, ProbeReport
from bcl.evaluation.features import FeatureCache, extract_features
from bcl.evaluation.measures import tail_discovery
from bcl.report import render_report
from bcl.report.compare import compare, difference_notes
from bcl.report.page import check_out
from bcl.report.significance import paired_t


def blobs(seed):
    labels = torch.arange(60) % 3
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(3)[labels] + 0.3 * torch.randn(60, 3, generator=generator), labels


def small_report(name="run"):
    return bcl.evaluate(encode, FakeData(), "full", QUICK, record={"name": name})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_type(dtype):
    x, y = blobs(0)
    test_x, test_y = blobs(1)
    narrow = fit_linear_probe(x, y.to(dtype), test_x, test_y.to(dtype))
    assert narrow.accuracy == fit_linear_probe(x, y, test_x, test_y).accuracy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": math.nan}, "positive and finite"),
        ({"l2": [1e-3, math.inf]}, "positive and finite"),
        ({"l2": []}, "positive and finite"),
        ({"selection": "best"}, "unknown selection 'best'"),
        ({"train_labels": [0, 1, 2] * 20}, "must be tensors"),
        ({"train_features": torch.zeros(60, 0), "test_features": torch.zeros(60, 0)}, r"\(N, D\)"),
        ({"train_features": blobs(0)[0] * 1e20}, "too huge"),
        ({"test_features": blobs(0)[0].double() * 1e60}, "too huge"),
    ],
)
def test_what_a_probe_cannot_use(change, message):
    x, y = blobs(0)
    arguments = {
        "train_features": x, "train_labels": y, "test_features": x, "test_labels": y, **change
    }  # fmt: skip
    with pytest.raises(InputError, match=message):
        fit_linear_probe(**arguments)


@pytest.mark.parametrize("counts", [[90, 10], [40, 30, 20, 10], [40, 30, 20]])
def test_rarer_half_of_the_classes(counts):
    frequency = torch.tensor(counts)
    labels = torch.repeat_interleave(torch.arange(len(counts)), frequency)
    half = len(counts) // 2
    loss = (labels >= len(counts) - half).float()  # high in the rarer half alone
    seen = torch.ones_like(labels, dtype=torch.bool)
    assert tail_discovery(loss, loss, seen, labels, frequency)["auroc_tail"] == 1


def test_equal_differences_are_no_proof():
    assert paired_t([0.50, 0.60], [0.55, 0.65]) is None
    assert paired_t([0.500001, 0.6], [0.55, 0.649999]) is None


def test_neighbors_name_absent_classes():
    data = FakeData()
    data._probe.labels = data._probe.labels.clamp(max=3)
    data._test.labels = data._test.labels.clamp(min=1)
    report = bcl.evaluate(encode, data, "knn", QUICK)
    first, second = report.protocols[0].notes
    assert first.startswith("no test image of classes 0")
    assert second.startswith("no training image of classes 4, 5")


@pytest.mark.parametrize("features", [torch.full((30, 2), torch.nan), torch.zeros(30, 2).long()])
def test_cache_of_useless_values_is_made_again(features, tmp_path):
    images, cache = FakeSet(torch.arange(30) % 6, 3), FeatureCache(tmp_path, "key")
    expected = extract_features(encode, images, cache=cache)
    torch.save({"features": features}, cache.path(images, None))
    assert extract_features(encode, images, cache=cache).equal(expected)


def test_a_comparison_never_replaces_results(tmp_path, capsys):
    report = small_report()
    path = report.save(tmp_path)
    before = path.read_text()
    words = ["report", str(tmp_path), "--out", str(tmp_path / "report.html"), "--overwrite"]
    assert main([*words, "--formats", "json"]) == 2
    assert "comparison" in capsys.readouterr().err
    with pytest.raises(InputError, match="never replaced"):
        render_report(report, tmp_path / "report.html", formats=["json"])
    assert path.read_text() == before
    assert not (tmp_path / "report.html").exists()
    assert main(words) == 0


def test_page_and_table_have_their_own_files(tmp_path):
    with pytest.raises(InputError, match=r"page\.md would be both"):
        check_out(tmp_path / "page.md", True, ["md"])
    assert len(check_out(tmp_path / "page.html", True, ["md", "md"])) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"record": None},
        {"groups": {}},
        {"protocols": []},
        {"protocols": [1]},
        {"images": [{"id": 1}]},
        {"images": ["text"]},
        {"data": {}},
        {"protocols": [{"name": "full", "kind": "linear"}]},
    ],
)
def test_edited_reports_are_refused_in_one_line(change, tmp_path):
    path = small_report().save(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match="cut short or edited"):
        ProbeReport.load(tmp_path)


@pytest.mark.parametrize("content", [torch.zeros(3), {"labels": torch.zeros(3)}])
def test_predictions_of_another_report_are_refused(content, tmp_path):
    small_report().save(tmp_path)
    torch.save(content, tmp_path / "predictions.pt")
    with pytest.raises(InputError, match="does not belong to"):
        ProbeReport.load(tmp_path)


def test_small_numbers_survive_saving(tmp_path):
    report = bcl.evaluate(
        encode, FakeData(), "full", EvaluationOptions(probe=ProbeOptions(l2=3e-7)),
        record={"name": "small", "config": {"weight_decay": 1.5e-8}},
    )  # fmt: skip
    gap = report.protocols[0].draws[0].chosen["gap"]
    report.save(tmp_path)
    again = ProbeReport.load(tmp_path)
    chosen = again.protocols[0].draws[0].chosen
    assert chosen["l2"] == 3e-7
    assert chosen["gap"] == pytest.approx(gap, rel=1e-4)
    assert again.record["config"]["weight_decay"] == 1.5e-8


def test_neighbors_asked_for_twice_are_reported_once():
    report = bcl.evaluate(encode, FakeData(), "knn,knn@10,knn@3", QUICK)
    names = [entry.name for entry in report.protocols]
    assert names == ["knn@1", "knn@10", "knn@200", "knn@3"]


@pytest.mark.parametrize("option", ["batch_size", "finetune_epochs"])
def test_counts_must_be_positive(option):
    with pytest.raises(InputError, match=f"{option} .* at least 1, got 0"):
        EvaluationOptions(**{option: 0})


def test_names_stay_on_one_line():
    assert small_report("two\nlines |").name == "two lines |"


def test_cache_that_is_a_file_is_refused_first(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    words = ["probe", str(file), "--out", str(tmp_path / "out"), "--cache", str(file)]
    assert main(words) == 2
    assert "--cache" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bad_checkpoint_leaves_no_folder(tmp_path, capsys):
    file = tmp_path / "last.ckpt"
    file.write_bytes(b"no checkpoint")
    assert main(["probe", str(file), "--out", str(tmp_path / "new" / "out")]) == 2
    assert "not a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_other_class_counts_are_said_and_their_draws_not_paired():
    def run(name, counts, content_hash):
        data = FakeData(counts)
        data.content_hash = content_hash
        return bcl.evaluate(encode, data, "balanced-lt,10-shot", QUICK, record={"name": name})

    first, again = (run(name, (60, 30, 20, 10, 5, 3), "one") for name in ("a", "b"))
    other = run("c", (3, 5, 10, 20, 30, 60), "two")
    assert not any("class counts" in note for note in difference_notes([first, again]))
    assert any("Other class counts than a" in note for note in difference_notes([first, other]))
    assert [table["test"] is None for table in compare([first, again])] == [False, False]
    assert [table["test"] is None for table in compare([first, other])] == [True, False]


def test_a_report_without_protocols_cannot_be_shown(tmp_path):
    empty = bcl.evaluate(encode, FakeData(), [], QUICK)
    with pytest.raises(InputError, match="has no protocol"):
        render_report(empty, tmp_path / "page.html")


def test_cache_tells_pixels_apart_where_names_are_the_same(tmp_path):
    one, two = (FakeSet(torch.arange(30) % 6, seed) for seed in (3, 4))
    two.content_hash = one.content_hash  # as of two folders with the same file names
    cache = FeatureCache(tmp_path, "key")
    first, second = (extract_features(encode, images, cache=cache) for images in (one, two))
    assert not first.equal(second)
    assert second.equal(extract_features(encode, two))


def test_the_seed_of_the_probe_is_part_of_the_report(tmp_path):
    report = bcl.evaluate(encode, FakeData(), "full", EvaluationOptions(probe=ProbeOptions(seed=7)))
    assert report.record["probe_seed"] == 7
    page = render_report(report, tmp_path / "page.html").read_text()
    assert "<dt>Probe seed</dt><dd>7</dd>" in page
