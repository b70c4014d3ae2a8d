"""Named configurations: ``RECIPE/METHOD``, composed from one file per recipe and one per method.

A recipe sets data, image size, encoder and schedule; a method sets method, views and loss;
``base.yaml`` holds what all share. Later parts win: base, method, recipe, and what a recipe changes
for one method. A part that ``extends`` another starts from it.
"""

import difflib
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bcl.core.errors import InputError

if TYPE_CHECKING:
    from importlib.abc import Traversable

Config = dict[str, Any]
KEYS = ("seed_everything", "model", "data", "trainer")
MOST_VALUES = 100_000  # of a file; a few aliases of aliases could stand for any number


def _root() -> "Traversable":
    try:
        return importlib.resources.files("bcl.configs")
    except ModuleNotFoundError:  # a source tree that is run without being installed
        return Path(__file__).resolve().parent.parent / "configs"


def _names(folder: str) -> list[str]:
    files = (entry.name for entry in _root().joinpath(folder).iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def _read(*parts: str) -> Config:
    text = _root().joinpath(*parts).read_text(encoding="utf-8")
    content: Config = yaml.safe_load(text) or {}
    return content


def _part(folder: str, name: str) -> Config:
    """Read a part and, below it, the part that it ``extends``."""
    content = _read(folder, f"{name}.yaml")
    other = content.pop("extends", None)
    return content if other is None else merge(_part(folder, other), content)


def merge(first: Mapping[str, Any], *others: Mapping[str, Any]) -> Config:
    """Merge nested mappings; later values win, and what they do not name is kept.

    Example:
        >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
        {'a': {'b': 3, 'c': 2}}
    """
    result: Config = dict(first)
    for other in others:
        for key, value in other.items():
            old: Any = result.get(key)
            both = isinstance(old, Mapping) and isinstance(value, Mapping)
            kept = both and (key in KEYS or not _replaces(value, old))
            result[key] = merge(old, value) if kept else value
    return result


def _replaces(value: Any, old: Any) -> bool:
    """Whether a part takes the place of one of another class, or of settings such as a name."""
    if "class_path" not in value:
        return False
    return bool(old.get("class_path", value["class_path"]) != value["class_path"]) or not (
        {"class_path", "init_args"} & old.keys()
    )


def _class_first(value: Any) -> Any:
    """Put ``class_path`` before ``init_args``, whichever part named it."""
    if not isinstance(value, Mapping):
        return value
    return {key: _class_first(value[key]) for key in sorted(value, key=lambda k: k != "class_path")}


def config_names() -> list[str]:
    """Every named configuration, ``RECIPE/METHOD``.

    Example:
        >>> "digits_lt/bcl_i" in config_names()
        True
    """
    return [f"{recipe}/{method}" for recipe in _names("recipes") for method in _names("methods")]


def parts(folder: str) -> dict[str, str]:
    """What there is of ``"recipes"`` or ``"methods"``, with one line about each."""
    return {name: _part(folder, name)["about"] for name in _names(folder)}


def compose(name: str) -> Config:
    """Compose a named configuration: ``seed_everything``, ``model``, ``data`` and ``trainer``.

    Raises:
        InputError: an unknown name; the error names the nearest one.

    Example:
        >>> compose("digits_lt/bcl_i")["model"]["class_path"]
        'bcl.BCL'
    """
    if name not in config_names():
        raise _unknown(name)
    recipe_name, method_name = name.split("/")
    recipe, method = _part("recipes", recipe_name), _part("methods", method_name)
    changes = recipe.get("methods", {}).get(method_name, {})
    merged = merge({}, _read("base.yaml"), method, recipe, changes)
    return {key: _class_first(merged[key]) for key in KEYS}


def _unknown(name: str) -> InputError:
    recipes, methods = _names("recipes"), _names("methods")
    recipe, _, method = name.partition("/")
    near = difflib.get_close_matches(name.lower().replace("-", "_"), config_names(), n=1)
    begun = [each for each in recipes if name and each.startswith(name)]
    if not method and (begun or name in methods):
        near = [f"digits_lt/{name}" if name in methods else f"{begun[0]}/bcl_i"]
    elif recipe in recipes:
        close = difflib.get_close_matches(method.lower().replace("-", "_"), methods, n=1)
        near = [f"{recipe}/{each}" for each in close]
    hint = f"did you mean '{near[0]}'? " if near else ""
    return InputError(f"unknown configuration '{name}'; {hint}`bcl configs` lists them.")


def find_config(name: str) -> Config:
    """Read a configuration by its name, ``RECIPE/METHOD``, or from a YAML file.

    Raises:
        InputError: neither a name nor a readable YAML file with a mapping.

    Example:
        >>> find_config("digits_lt/bcl_i") == compose("digits_lt/bcl_i")
        True
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        return compose(name)
    content = read_yaml(path)
    if "extends" in content:
        raise InputError(
            f"{path}: a file cannot extend another; name both, the later wins: "
            f"--config {content['extends']} --config {path}."
        )
    return content


def read_yaml(path: Path) -> Config:
    """Read a mapping from a YAML file, without its empty sections."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if _written_out(content, {}) > MOST_VALUES:
            raise ValueError(f"written out, it holds more than {MOST_VALUES:,} values")
        json.dumps(content, default=str)
    except FileNotFoundError:
        raise InputError(
            f"no configuration file {path}; `bcl configs` lists the names that need no file."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise InputError(f"{path}{line}: {problem}; correct the file.") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"cannot read {path}: {error}; it must be YAML in UTF-8, in which keys are text and no "
            "alias contains itself."
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no mapping; it needs keys such as model, data, trainer.")
    # An empty section, as `trainer:` alone on its line, changes nothing.
    return {key: value for key, value in content.items() if value is not None}


def _written_out(value: Any, known: dict[int, int]) -> int:
    """Count the values of a configuration, those behind an alias each time that it occurs."""
    if id(value) not in known:
        known[id(value)] = 1  # while it is counted: an alias may contain itself
        parts = value.values() if isinstance(value, dict) else value
        parts = parts if isinstance(value, dict | list) else ()
        known[id(value)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(value)]
