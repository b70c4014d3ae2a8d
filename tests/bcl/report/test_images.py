"""The images of a page: each once, with its path and its map."""

import base64
import json

import numpy as np
import pytest
import torch
from fakes import FakeData
from probe_reports import recorded, replace

from bcl.evaluation.results import ShownImage
from bcl.report.compare import methods
from bcl.report.images import Images

NAMES = [f"class <{c}>" for c in range(6)]


def numbers(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def shown(which, row, content=b"x", path=""):
    return ShownImage(which, row, 2, "class <2>", 0.5, None, "", path, content)


def test_an_image_has_one_row():
    report, images = recorded("one", 0, 0.1), Images()
    rows = [
        images.add(report, shown("highest", 3, b"small", "a/3.png")),
        images.add(report, shown("wrong", 3)),  # of the test set
        images.add(report, shown("risen", 3, b"larger", "a/3.png")),
        images.add(report, shown("risen", 4, b"", "4")),
    ]
    assert rows == [0, 1, 0, 2]
    assert images.paths == ["a/3.png", "class <2>, test image 3", "class <2>, training image 4"]
    assert images.files == [b"larger", b"x", b""]
    data = json.loads(images.script(NAMES))
    assert numbers(data["label"], "<u2").tolist() == [3, 3, 3]
    assert numbers(data["thumbnails"]["rows"], "<u4").tolist() == [0, 1]
    assert data["labels"] == NAMES


def test_images_are_found_in_their_folders(tmp_path):
    (tmp_path / "train").mkdir()
    report, images = recorded("one", 0, 0.1), Images()
    report.data |= {"root": str(tmp_path / "train"), "test_root": str(tmp_path / "gone")}
    images.add(report, shown("highest", 3))
    images.add(report, shown("wrong", 3))
    data = json.loads(images.script(NAMES))
    roots = [data["roots"][place] for place in numbers(data["root_of"], "u1")]
    assert roots == [(tmp_path / "train").as_uri() + "/", ""]


@pytest.mark.slow
def test_runs_of_the_same_images_share_a_map():
    reports = [recorded(name, 0, strength) for name, strength in (("a", 0.3), ("b", 0.1))]
    other = replace(reports[1], record={"name": "c", "seed": 0}, data={**reports[1].data})
    other.data["content_hash"] = "elsewhere"
    images = Images()
    images.draw(methods([*reports, other]))
    assert [each["name"] for each in images.maps] == ["a", "b"]
    assert len(images.paths) == 128  # once
    first = images.maps[0]
    assert len(numbers(first["places"], "<u2")) == 256
    assert set(first["signals"]) == {"score"}
    near = numbers(first["neighbors"], "<u4").reshape(128, first["width"])
    assert (near != np.arange(128)[:, None]).all()
    scores = torch.from_numpy(numbers(first["signals"]["score"], "u1").astype(np.int64))
    assert scores.argmax() == reports[0].sample.scores.argmax()


def test_no_image_no_data():
    assert Images().script(NAMES) == ""
    report = replace(recorded("one", 0, 0.1), sample=None)
    images = Images()
    images.draw(methods([report]))
    assert images.maps == []


def test_rows_follow_the_classes_of_the_data():
    report, images = recorded("one", 0, 0.1), Images()
    images.draw(methods([report]))
    labels = torch.as_tensor(FakeData().train_set().labels)
    assert images.labels == labels[report.sample.ids].tolist()
