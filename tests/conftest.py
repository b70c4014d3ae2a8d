"""What all tests share."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

SHARED = Path(__file__).resolve().parents[2] / "shared"

# A slow or busy machine is no error.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of golden values; they lie beside the checkout and are no part of it."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("golden values are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real pictures, likewise."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("real pictures are not beside this checkout")
    return folder


@pytest.fixture
def one_thread():
    """For small pictures: threads would wait for one another longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
