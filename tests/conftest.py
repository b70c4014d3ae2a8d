"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from pytorch_lightning.utilities import rank_zero_only

SHARED = Path(__file__).resolve().parents[2] / "shared"

# A slow or busy machine is no error.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def environment_is_put_back():
    """Lightning keeps MASTER_ADDR, its rank and the like in the process; a later test would wait
    for that host, and log nothing as rank 3.
    """
    before, rank = dict(os.environ), rank_zero_only.rank
    yield
    rank_zero_only.rank = rank
    now = "PYTEST_CURRENT_TEST"  # pytest's own, which it takes away itself
    for name in os.environ.keys() - before.keys() - {now}:
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if name != now})


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of golden values; they lie beside the checkout and are no part of it."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("golden values are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images, likewise."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("real images are not beside this checkout")
    return folder


@pytest.fixture
def one_thread():
    """For small images: threads would wait for one another longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
