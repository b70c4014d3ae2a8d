"""Names that are imported on first use."""

import math

import pytest

from bcl.core.lazy import lazy_names


def test_a_name_is_looked_up_in_its_module_and_others_are_no_attributes():
    get = lazy_names("package", {"tau": "math"})
    assert get("tau") == math.tau
    with pytest.raises(AttributeError, match="'package' has no attribute 'pi'"):
        get("pi")
