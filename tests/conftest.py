"""Settings and fixtures of all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from lightning_utilities.core.rank_zero import rank_zero_only  # without Lightning itself

SHARED = Path(__file__).resolve().parents[2] / "shared"

# A slow or busy machine is not an error.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def environment_is_restored():
    """Lightning sets MASTER_ADDR, its rank and more; a later test would wait for that host."""
    before, rank = dict(os.environ), getattr(rank_zero_only, "rank", 0)
    yield
    rank_zero_only.rank = rank
    now = "PYTEST_CURRENT_TEST"  # pytest removes its own
    for name in os.environ.keys() - before.keys() - {now}:
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if name != now})


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of golden values, which lie next to the checkout and are not part of it."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("no golden values next to this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images, next to the checkout."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no real images next to this checkout")
    return folder


@pytest.fixture
def one_thread():
    """One thread: on small images, threads wait for one another longer than they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
