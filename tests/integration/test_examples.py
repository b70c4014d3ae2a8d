"""The scripts that the documentation shows, each run in a folder of its own."""

import importlib.util
import json
import runpy
import subprocess
import sys

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


@pytest.mark.slow
def test_the_loop_of_several_ranks_runs_on_two(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = str(ROOT / "docs" / "examples" / "ddp_loop.py")
    subprocess.run([*launcher, "--nproc_per_node", "2", script], cwd=tmp_path, check=True)
    assert (tmp_path / "w.pt").exists()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "docs/examples/own_images.ipynb").read_text(encoding="utf-8"))
    names = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert len(names["found"]) == len(names["images"])
    assert (tmp_path / "rare/discover.html").exists()
