"""Figures of the pages: ``{{ name("argument", ...) }}`` becomes what the function returns.

Numbers come from benchmarks/results.json, benchmarks/evidence/ and the named configurations, so a
page cannot contradict them. A call that fits nothing, or more than one thing, fails the build.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import field_page  # noqa: E402
import page  # noqa: E402
import results_page  # noqa: E402
import signals_page  # noqa: E402

CALL = re.compile(r"\{\{ (\w+)\((.*?)\) \}\}", re.DOTALL)
TITLES = {
    "cifar10_lt": "CIFAR-10-LT",
    "cifar100_lt": "CIFAR-100-LT",
    "digits_lt": "digits",
    "image_folder": "folders",
    "imagenet_lt": "ImageNet-LT",
    "imagenet100_lt": "ImageNet-100-LT",
    "places_lt": "Places-LT",
}


def expand(markdown: str) -> str:
    """Replace every call in a page by its text.

    Example:
        >>> expand("no call, no change: {{ config }}")
        'no call, no change: {{ config }}'
    """

    def text(match: re.Match[str]) -> str:
        if match[1] not in MACROS:
            raise LookupError(f"{match[0]}: no such figure; there are {', '.join(MACROS)}")
        try:
            return MACROS[match[1]](*ast.literal_eval(f"({match[2]},)" if match[2] else "()"))
        except (AttributeError, LookupError, SyntaxError, TypeError, ValueError) as error:
            raise LookupError(f"{match[0]}: {error}") from error

    return CALL.sub(text, markdown)


# --- benchmarks -----------------------------------------------------------------------------


@cache
def benchmarks() -> list[dict[str, Any]]:
    """The committed results of all jobs."""
    found: list[dict[str, Any]] = json.loads((ROOT / "benchmarks/results.json").read_text("utf-8"))
    return found


def row(job: str, case: str, contender: str) -> dict[str, Any]:
    """The one row of a job whose case and contender match; both may be shortened with ``*``."""
    rows = [each for result in benchmarks() if result["job"] == job for each in result["rows"]]
    found = [
        each
        for each in rows
        if fnmatchcase(each["case"], case) and fnmatchcase(each["contender"], contender)
    ]
    if len(found) != 1:
        names = "; ".join(f"{each['case']}: {each['contender']}" for each in found or rows)
        raise LookupError(f"{len(found)} rows fit, of {names or 'no job'}")
    return found[0]


def median(job: str, case: str, contender: str) -> str:
    """A median without its unit."""
    return page.number(row(job, case, contender)["median"])


def amount(job: str, case: str, contender: str) -> str:
    """A median with its unit and any extra: "2.60 ms, 2 MB"."""
    found = row(job, case, contender)
    extra = f", {found['extra']}" if found.get("extra") else ""
    return f"{page.number(found['median'])} {found['unit']}{extra}"


def extra(job: str, case: str, contender: str) -> str:
    """A row's extra."""
    return str(row(job, case, contender)["extra"])


def ratio(job: str, case: str, contender: str) -> str:
    """How many times as fast as a contender ours is."""
    return page.number(row(job, case, contender)["ratio"])


def inverse(job: str, case: str, contender: str) -> str:
    """How many times as fast as ours a contender is."""
    return page.number(1 / row(job, case, contender)["ratio"])


def benchmark(name: str) -> str:
    """Table and commands of a benchmark."""
    found = [result for result in benchmarks() if result["benchmark"] == name]
    if not found:
        raise LookupError("no such benchmark")
    return page.section(found)


def op_distances(*ops: str) -> str:
    """Rows of a table: mean distance of an op's result from the image, by policy and magnitude."""
    import numpy as np
    import torch

    from bcl.augment import OPS, op_grid

    with np.load(ROOT / "tests" / "golden" / "randaugment.npz") as golden:
        images = torch.from_numpy(golden["images"]).permute(0, 3, 1, 2)
    means = {}
    for policy in ("reference", "monotone"):
        grids = [op_grid(image, [0, 10, 20, 30], policy) * 255 - image for image in images]
        means[policy] = torch.stack([grid.abs().mean((2, 3, 4)) for grid in grids]).mean(0)
    lines = []
    for op in ops:
        cells = [
            " | ".join(f"{value:.1f}" for value in means[policy][OPS.index(op)].tolist())
            for policy in ("reference", "monotone")
        ]
        lines.append(f"| {op}, reference | {cells[0]} | monotone | {cells[1]} |")
    return "\n".join(lines)


# --- configurations -------------------------------------------------------------------------


def setting(name: str, path: str) -> Any:
    """A value of a named configuration, or the default of the class that would take it."""
    from bcl.cli.configuration import find_config

    node: Any = find_config(name)
    for key in path.split("."):
        if isinstance(node, dict) and "class_path" in node:
            given = (node.get("init_args") or {}).get(key)
            default = _default(node["class_path"], key)
            if isinstance(given, dict) and dataclasses.is_dataclass(default):
                given = {**vars(default), **given}
            node = default if given is None else given
        else:
            node = node[key] if isinstance(node, dict) else getattr(node, key)
    return node


def _default(class_path: str, key: str) -> Any:
    module, _, name = class_path.rpartition(".")
    for each in getattr(importlib.import_module(module), name).__mro__:
        found = inspect.signature(each).parameters.get(key)
        if found is not None:
            return found.default
    raise LookupError(f"{class_path} takes no {key}")


def config(name: str, path: str) -> str:
    """A value of a named configuration: ``"places_lt/simclr"`` and ``"trainer.max_epochs"``."""
    return _written(setting(name, path))


def configs(method: str, path: str) -> str:
    """A method's value in most recipes and those that differ: "0.2; 0.3 on ImageNet-100-LT"."""
    usual, *others = sorted(_by_value(method, path).items(), key=lambda item: -len(item[1]))
    return "; ".join([usual[0], *(f"{value} on {_listed(names)}" for value, names in others)])


def recipes(method: str, path: str, value: str) -> str:
    """The recipes in which a method has a value."""
    return _listed(_by_value(method, path)[value])


def _by_value(method: str, path: str) -> dict[str, list[str]]:
    from bcl.cli.configuration import config_names

    found: dict[str, list[str]] = {}
    for recipe, title in TITLES.items():
        if f"{recipe}/{method}" in config_names():
            found.setdefault(config(f"{recipe}/{method}", path), []).append(title)
    return found


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _written(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return re.sub(r"e-0?", "e-", f"{value:.0e}" if 0 < abs(value) < 1e-3 else f"{value:g}")
    return str(value)


MACROS: dict[str, Callable[..., str]] = {
    "median": median,
    "amount": amount,
    "extra": extra,
    "ratio": ratio,
    "inverse": inverse,
    "benchmark": benchmark,
    "results": results_page.page,
    "results_overview": results_page.overview,
    "results_table": results_page.table,
    "signals_predicted": signals_page.predictions,
    "signals_found": signals_page.found,
    "signals_networks": signals_page.networks,
    "signals_steering": signals_page.steering,
    "field_tables": field_page.tables,
    "op_distances": op_distances,
    "config": config,
    "configs": configs,
    "recipes": recipes,
}
