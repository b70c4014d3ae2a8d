"""What the sets of an evaluation must hold."""

import pytest
from fakes import FakeData, encode

import bcl
from bcl.core.errors import InputError


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
