"""What all tests share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
