"""Names that are imported on first use."""

import math
import subprocess
import sys

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


def test_a_name_of_the_other_package_is_told_with_its_package():
    with pytest.raises(AttributeError, match=r"did you mean 'cacr\.CACRLoss'"):
        _ = bcl.CACRLoss
    with pytest.raises(ImportError, match=r"from 'cacr'; did you mean 'bcl\.NTXentLoss'"):
        exec("from cacr import NTXentLoss")


@pytest.mark.parametrize("package", [bcl, cacr, datamodules])
def test_an_import_of_a_misspelt_name_tells_the_nearest(package):
    name = package.__all__[0]
    with pytest.raises(ImportError, match=f"from '{package.__name__}'; did you mean '{name}'"):
        exec(f"from {package.__name__} import {name}s")
    with pytest.raises(ImportError, match="zzzz"):
        exec(f"from {package.__name__} import zzzz")
    assert not hasattr(package, f"{name}s")


def test_a_module_whose_name_is_like_a_public_one_is_imported():
    exec("from bcl.evaluation import tail")  # beside tail_discovery
    exec("from cacr import queue, loss")


@pytest.mark.parametrize(
    "use",
    [
        "import scipy.signal; scipy.signal.windows.hann(4)",
        "from scipy import signal; signal.windows.hann(4)",
        "from scipy.signal import windows; windows.hann(4)",
        "import scipy.signal.windows; scipy.signal.windows.hann(4)",
        "from scipy.signal.windows import hann; hann(4)",
        "from scipy.signal import *; windows.hann(4)",
    ],
)
def test_a_command_loads_the_signals_of_scipy_when_they_are_used(use):
    """Torchmetrics, which Lightning loads at the start, asks for them for a name they lack."""
    code = f"""
import importlib.util, sys
from bcl.core.machine import loaded, own_process
own_process()
import torchmetrics
assert importlib.util.find_spec("scipy.signal").origin
assert "scipy.stats" not in sys.modules
if sys.argv[1] == "after":
    loaded()
    assert "scipy.signal" not in sys.modules
{use}
assert "scipy.stats" in sys.modules
import scipy.signal
assert scipy.signal.__file__ and scipy.signal is sys.modules["scipy.signal"]
"""
    for when in ("before", "after"):
        subprocess.run([sys.executable, "-c", code, when], check=True, timeout=120)


def test_the_window_that_torchmetrics_adds_to_the_signals_of_scipy_works():
    code = """
from bcl.core.machine import own_process
own_process()
from scipy.signal import hamming
import scipy.signal
assert hamming(3).tolist() == scipy.signal.windows.hamming(3).tolist()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("scipy", ["", "importlib.util.find_spec = lambda name: None"])
def test_a_command_starts_without_loading_scipy_or_if_there_is_none(scipy):
    code = f"""
import importlib.util, sys
from bcl.core.machine import own_process
{scipy}
own_process()
assert not {{"numpy", "scipy"}} & {{*sys.modules}}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
