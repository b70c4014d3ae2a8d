"""A folder is a floor: an import runs down the table of docs/architecture.md, never up."""

import ast

import pytest
from places import ROOT

PLAIN = {"core", "losses", "memorization", "augment", "models"}
ROOMS = {  # what a room may import of ours, beside itself
    "bcl/core": set(),
    "bcl/losses": {"bcl/core"},
    "bcl/memorization": {"bcl/core"},
    "bcl/augment": {"bcl/core"},
    "bcl/models": {"bcl/core"},
    "bcl/methods": {f"bcl/{room}" for room in PLAIN},
    "bcl/evaluation": {f"bcl/{room}" for room in PLAIN - {"losses"}},
    "bcl/training": {f"bcl/{room}" for room in PLAIN | {"methods", "evaluation"}},
    "bcl/report": {"bcl/core", "bcl/evaluation"},
    "bcl/cli": {"bcl", "datamodules"},
    "bcl": {"bcl"},
    "cacr": {"bcl/core", "bcl/losses"},
    "cacr/method.py": {f"bcl/{room}" for room in PLAIN | {"methods"}} | {"cacr"},
    "datamodules": {"bcl/core"},
}
HEAVY = {"pytorch_lightning", "timm", "torchvision", "wandb", "matplotlib", "sklearn", "datasets"}
FILES = sorted(p for name in ("bcl", "cacr", "datamodules") for p in (ROOT / name).rglob("*.py"))


def room(path):
    """The longest entry of the table that a path lies in."""
    return max((r for r in ROOMS if f"{path}/".startswith(f"{r}/")), key=len)


def imports(node, inside=False):
    """(module, whether inside a function) of every import that Python runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            # `from bcl import x` names a room or a public name, which may come from anywhere.
            names = [f"{child.module}.{a.name}" for a in child.names]
            yield from ((name, inside) for name in names)
        yield from imports(child, inside or isinstance(child, ast.FunctionDef))


def source(module):
    """Path of the file or folder that a module, or a name in it, comes from."""
    path = module.replace(".", "/")
    while "/" in path and not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists():
        path = path.rpartition("/")[0]
    return f"{path}.py" if (ROOT / f"{path}.py").exists() else path


def faults(path, text):
    own = room(path)
    for module, inside in imports(ast.parse(text)):
        top, target = module.partition(".")[0], source(module)
        if top in ("bcl", "cacr", "datamodules"):
            if room(target) != own and not any(
                f"{room(target)}/".startswith(f"{a}/") for a in ROOMS[own]
            ):
                yield f"{path} may not import {module}"
        elif top in HEAVY and not inside and own in {f"bcl/{r}" for r in PLAIN} | {"cacr"}:
            yield f"{path} imports {module} at its top"


@pytest.mark.parametrize("path", [p.relative_to(ROOT).as_posix() for p in FILES])
def test_imports_run_down_the_table(path):
    assert list(faults(path, (ROOT / path).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("bcl/losses/nt_xent.py", "from bcl.memorization import MemorizationTracker"),
        ("bcl/losses/nt_xent.py", "def f():\n    from bcl import SimCLR"),
        ("bcl/models/encoders.py", "import timm"),
        ("bcl/methods/simclr.py", "from bcl.training.loggers import run_loggers"),
        ("bcl/evaluation/suite.py", "from datamodules import DigitsLT"),
        ("cacr/loss.py", "from cacr.method import CACR"),
        ("cacr/loss.py", "from bcl.models import Projector"),
        ("datamodules/base.py", "from bcl.methods import SimCLR"),
    ],
)
def test_the_table_catches(path, text):
    assert len(list(faults(path, text))) == 1


def test_the_root_of_bcl_is_its_face_alone():
    assert {p.name for p in (ROOT / "bcl").iterdir() if p.is_file()} == {"__init__.py", "py.typed"}
