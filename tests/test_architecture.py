"""Every import obeys the tables of docs/architecture.md, which are read from the page."""

import ast
import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = ("bcl", "cacr", "datamodules")
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def rows(heading):
    """The cells of the table under a heading row, by the page."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\|\n)+)", PAGE, re.MULTILINE)
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table[1].strip().splitlines()
    ]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


@dataclass
class Floor:
    number: int
    top: set[str]
    lazy: set[str] | None  # None: any


FLOORS = {}
for name, rooms, top, lazy in rows("floor"):
    floor = Floor(int(name[0]), set(quoted(top)), None if lazy == "any" else set(quoted(lazy)))
    FLOORS |= dict.fromkeys(quoted(rooms), floor)
# Package or file to what it may import of the other packages: their path, and up to which floor.
NEIGHBOURS = {}
for package, allowed in rows("package"):
    limit = re.search(r"floor (\d)", allowed)
    NEIGHBOURS[quoted(package)[0]] = (quoted(allowed), int(limit[1]) if limit else 9)


def longest(table, path):
    """The entry of the longest path that a file lies in."""
    fits = [
        room for room in table if path == room or (room.endswith("/") and path.startswith(room))
    ]
    return table[max(fits, key=len)]


def source(module):
    """Path of a module of ours, as the tables write it; None for other names."""
    base = ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return str(path.relative_to(ROOT))
    return None


def home(module, name):
    """Module that a name comes from: a submodule, a lazily loaded name's own, or the module."""
    if source(f"{module}.{name}"):
        return f"{module}.{name}"
    if Path(source(module) or "").name == "__init__.py":
        lazy = getattr(importlib.import_module(module), "_HOMES", {})
        return lazy.get(name, module)
    return module


def run_by_python(node):
    """Branches of an ``if TYPE_CHECKING`` or ``if not TYPE_CHECKING`` that are ever run."""
    told = ast.unparse(node.test).replace("typing.", "")
    return {"TYPE_CHECKING": node.orelse, "not TYPE_CHECKING": node.body}.get(told)


def imports(tree):
    """(line, module, whether inside a function) of every import and lazily loaded attribute."""
    found = []

    def visit(node, inside):
        if isinstance(node, ast.If) and (branch := run_by_python(node)) is not None:
            for child in branch:
                visit(child, inside)
            return
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            ours = node.module.partition(".")[0] in PACKAGES
            found.extend(
                (node.lineno, home(node.module, alias.name) if ours else node.module, inside)
                for alias in node.names
            )
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in PACKAGES:
            found.append((node.lineno, home(node.value.id, node.attr), inside))
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(tree, False)
    return found


def faults(path, text):
    """What a file's imports break, in words."""
    own, package = longest(FLOORS, path), path.partition("/")[0]
    others, limit = longest(NEIGHBOURS, path)
    for line, module, inside in imports(ast.parse(text)):
        top = module.partition(".")[0]
        place = f"{path}:{line} imports {module}"
        if top not in PACKAGES:
            allowed = own.top | (own.lazy or set()) if inside else own.top
            free = top in sys.stdlib_module_names or (inside and own.lazy is None)
            if not free and top not in allowed:
                where = "inside a function" if inside else "at the top"
                yield f"{place} {where}; floor {own.number} may not"
            continue
        target = source(module)
        assert target, f"{place}, which does not exist"
        floor = longest(FLOORS, target).number
        if floor > own.number:
            yield f"{place}: floor {own.number} may not know floor {floor}"
        if top != package and (f"{top}/" not in others or floor > limit):
            yield f"{place}: of the other packages it may import {others} up to floor {limit}"


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in FILES])
def test_imports_obey_the_floors(path):
    assert list(faults(path, (ROOT / path).read_text(encoding="utf-8"))) == []


def test_every_room_exists_and_every_floor_has_files():
    assert all((ROOT / room).exists() for room in [*FLOORS, *NEIGHBOURS])
    lived_in = {longest(FLOORS, str(path.relative_to(ROOT))).number for path in FILES}
    assert lived_in == {floor.number for floor in FLOORS.values()} == set(range(5))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("bcl/losses.py", "import pytorch_lightning"),
        ("bcl/losses.py", "def f():\n    import timm"),  # inside a function as well
        ("bcl/losses.py", "from bcl import SimCLR"),  # a name that is loaded lazily
        ("bcl/losses.py", "import bcl\nx = bcl.evaluate"),
        ("bcl/losses.py", "from bcl.learners import simclr"),
        ("bcl/encoders.py", "import timm"),  # at the top, where it may stand in functions alone
        ("bcl/learners/simclr.py", "from bcl.evaluation.linear import ProbeResult"),
        ("bcl/evaluation/suite.py", "from datamodules import DigitsLT"),
        ("bcl/learners/simclr.py", "from cacr import CACRLoss"),
        ("bcl/cli/fit.py", "from cacr import CACRLoss"),
        ("cacr/loss.py", "from bcl.encoders import Projector"),
        ("cacr/loss.py", "from cacr import CACR"),
        ("datamodules/base.py", "from bcl.learners import SimCLR"),
        ("datamodules/base.py", "from cacr import CACRLoss"),
        ("bcl/losses.py", "if TYPE_CHECKING:\n    import json\nelse:\n    import timm"),
        ("bcl/losses.py", "if not TYPE_CHECKING:\n    import timm"),
        ("bcl/losses.py", "if TYPE_CHECKING or json:\n    import timm"),
    ],
)
def test_the_rules_catch(path, text):
    assert len(list(faults(path, text))) >= 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("bcl/losses.py", "import json, torch"),
        ("bcl/encoders.py", "def f():\n    import timm"),
        ("bcl/cli/fit.py", "from datamodules import DigitsLT"),
        ("cacr/learner.py", "from bcl import SimCLR"),
        ("bcl/losses.py", "if TYPE_CHECKING:\n    from bcl.learners import SimCLR"),
        ("bcl/losses.py", "if not typing.TYPE_CHECKING:\n    import json\nelse:\n    import timm"),
    ],
)
def test_the_rules_allow(path, text):
    assert list(faults(path, text)) == []
