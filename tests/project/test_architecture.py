"""A folder is a room: imports run down the table of docs/architecture.md, never up."""

import ast
import re

import pytest
from places import ROOT

ROOMS = {  # room: what it may import of ours, besides itself
    "bcl/core": "",
    "bcl/losses": "bcl/core",
    "bcl/memorization": "bcl/core",
    "bcl/augment": "bcl/core",
    "bcl/models": "bcl/core",
    "bcl/methods": "bcl/core bcl/losses bcl/memorization bcl/augment bcl/models",
    "bcl/evaluation": "bcl/core bcl/memorization bcl/augment bcl/models",
    "bcl/discovery": "bcl/core bcl/evaluation",
    "bcl/training": (
        "bcl/core bcl/losses bcl/memorization bcl/augment bcl/models bcl/methods bcl/evaluation "
        "bcl/discovery"
    ),
    "bcl/report": "bcl/core bcl/evaluation bcl/discovery",
    "bcl/cli": "bcl datamodules",
    "bcl": "bcl",  # the face: every public name
    "cacr": "bcl/core bcl/losses",
    "cacr/__init__.py": "bcl/core cacr",
    "cacr/method.py": (
        "bcl/core bcl/losses bcl/memorization bcl/augment bcl/models bcl/methods cacr"
    ),
    "datamodules": "bcl/core",
}


def room(place):
    """The longest entry of the table that holds a file or a folder."""
    return max((r for r in ROOMS if f"{place}/".startswith(f"{r}/")), key=len)


def imported(path, text):
    """Our modules that a file names in imports, wherever they stand, and in lazy names."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and path.endswith("__init__.py"):
            names = [str(node.value)]
        yield from (name for name in names if re.fullmatch(r"(bcl|cacr|datamodules)(\.\w+)+", name))


def climbs(path, text):
    """Imports of a file that its room does not allow."""
    own = room(path)
    for name in imported(path, text):
        place = name.replace(".", "/")
        while not ((ROOT / place).is_dir() or (ROOT / f"{place}.py").is_file()):
            place = place.rpartition("/")[0]
        target = f"{place}.py" if (ROOT / f"{place}.py").is_file() else place
        allowed = any(f"{room(target)}/".startswith(f"{each}/") for each in ROOMS[own].split())
        if room(target) != own and not allowed:
            yield f"{path}: {name}"


@pytest.mark.slow
def test_imports_run_down_the_table():
    paths = [
        path for name in ("bcl", "cacr", "datamodules") for path in (ROOT / name).rglob("*.py")
    ]
    assert len(paths) > 50
    texts = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in paths}
    assert [fault for path, text in texts.items() for fault in climbs(path, text)] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("bcl/losses/nt_xent.py", "from bcl.memorization import MemorizationTracker"),
        ("bcl/losses/nt_xent.py", "def f():\n    from bcl import SimCLR"),
        ("bcl/methods/simclr.py", "from bcl.training.loggers import LogHistory"),
        ("bcl/methods/simclr.py", "import bcl.cli"),
        ("bcl/evaluation/__init__.py", '_HOMES = {"fit": "bcl.training.fit"}'),
        ("bcl/evaluation/suite.py", "from datamodules import DigitsLT"),
        ("bcl/discovery/page.py", "from datamodules import DigitsLT"),
        ("cacr/loss.py", "from cacr.method import CACR"),
        ("cacr/loss.py", "from bcl.models import Projector"),
        ("datamodules/base.py", "from bcl.methods import SimCLR"),
    ],
)
def test_the_table_catches(path, text):
    assert len(list(climbs(path, text))) == 1


def test_the_root_of_bcl_is_its_face_alone():
    assert {p.name for p in (ROOT / "bcl").iterdir() if p.is_file()} == {"__init__.py", "py.typed"}


def test_tests_mirror_the_source():
    """tests/bcl/x/test_y.py is of bcl/x/y.py, or of the folder bcl/x/y."""
    tests = [
        p
        for name in ("bcl", "cacr", "datamodules")
        for p in (ROOT / "tests" / name).rglob("test_*.py")
    ]
    assert len(tests) > 50
    for path in tests:
        place = ROOT / path.relative_to(ROOT / "tests").parent / path.stem.removeprefix("test_")
        assert place.is_dir() or place.with_suffix(".py").is_file(), f"{path} tests no file"
