"""What the sets of an evaluation must hold."""

import pytest
from fakes import FakeData, encode
from PIL import Image

import bcl
from bcl.core.errors import InputError
from bcl.evaluation.protocols import parse_protocols
from bcl.evaluation.sets import Sets, image_root
from datamodules import ImageFolderLT


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


def test_counts_of_another_data_set_are_refused():
    data = FakeData()
    data.num_classes = 5
    with pytest.raises(InputError, match="same data set"):
        bcl.evaluate(encode, data, protocols="full")


def test_a_probe_set_is_called_balanced_only_where_it_is():
    protocols = parse_protocols("full,1-shot,long-tailed")
    even, uneven = FakeData(), FakeData()
    uneven.probe_set().labels[0] = 1
    for data, words in ((even, "balanced probe set"), (uneven, "probe set")):
        said = [Sets(data, protocols, None, 0, "cpu").description(each) for each in protocols]
        assert said == [
            f"whole {words}", f"1 images per class of the {words}, 5 draws",
            "whole long-tailed training set",
        ]  # fmt: skip


def test_the_folder_of_images_is_that_of_their_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / "set" / name / f"{number}.png")
    data = ImageFolderLT(str(tmp_path / "set"), cache_dir=str(tmp_path))
    assert image_root(data.train_set()) == str(tmp_path / "set")
    assert image_root(FakeData().train_set()) == ""
