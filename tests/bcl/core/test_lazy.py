"""Names that are imported on first use."""

import math

import pytest

import bcl
import cacr
import datamodules
from bcl.core.lazy import lazy_names


def test_a_name_is_looked_up_in_its_module_and_others_are_no_attributes():
    get = lazy_names("package", {"tau": "math"})
    assert get("tau") == math.tau
    with pytest.raises(AttributeError, match="'package' has no attribute 'pi'"):
        get("pi")


@pytest.mark.parametrize("package", [bcl, cacr, datamodules])
def test_the_public_names_are_listed_and_the_nearest_is_told(package):
    listed = [name for name in dir(package) if not name.startswith("__")]
    assert listed == sorted(package.__all__)
    name = listed[0]
    with pytest.raises(AttributeError, match=f"did you mean '{name}'"):
        getattr(package, f"{name}s")
