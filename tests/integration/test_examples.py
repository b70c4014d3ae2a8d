"""The scripts that the documentation shows, each in a folder of its own."""

import importlib.util
import os
import subprocess
import sys

import pytest
from places import ROOT

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
NEEDS = {"lightly_loop": "lightly", "wandb_run": "wandb"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    library = NEEDS.get(path.stem)
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install 'bcl-cacr[examples,wandb]'")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_SILENT": "true"}
    answer = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr[-2000:]


def test_the_pages_show_every_example():
    pages = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs").rglob("*.md"))
    assert EXAMPLES
    for path in EXAMPLES:
        assert f'--8<-- "{path.name}:' in pages, f"no page shows {path.name}"
