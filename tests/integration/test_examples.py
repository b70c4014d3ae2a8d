"""The scripts that the documentation shows, each run in a folder of its own."""

import importlib.util
import runpy

import pytest
from places import ROOT

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
NEEDS = {"lightly_loop": "lightly", "wandb_run": "wandb"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    library = NEEDS.get(path.stem)
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install 'bcl-cacr[examples,wandb]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    runpy.run_path(str(path), run_name="__main__")


def test_the_pages_show_every_example():
    pages = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs").rglob("*.md"))
    assert EXAMPLES
    for path in EXAMPLES:
        assert f'--8<-- "{path.name}:' in pages, f"no page shows {path.name}"
