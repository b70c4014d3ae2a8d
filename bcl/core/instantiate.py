"""Objects from ``class_path`` and ``init_args``, for code that works without the command line."""

import dataclasses
import importlib
import sys
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from bcl.core.errors import InputError

# A configuration may come from a stranger's checkpoint, so it cannot name just any class.
TRUSTED = ("bcl", "cacr", "datamodules", "torch.nn")


def instantiate(spec: Any, trusted: Iterable[str] = ()) -> Any:
    """Build the object that a configuration describes, nested ones first.

    Args:
        spec: a mapping with ``class_path`` and, if need be, ``init_args``; lists and other
            mappings are searched for such mappings. A plain mapping for an argument that takes a
            settings dataclass becomes one. Anything else is returned unchanged.
        trusted: packages of which any class may be built. Of this library's and ``torch.nn``'s
            classes, configurations reach methods, losses, views, datamodules and settings.

    Returns:
        The object.

    Raises:
        InputError: a class outside the trusted packages, one that does not exist, or arguments
            that it does not take.

    Example:
        >>> instantiate({"class_path": "bcl.Projector", "init_args": {"in_features": 8}})[0]
        Linear(in_features=8, out_features=8, bias=True)
    """
    trusted = tuple(trusted)
    if isinstance(spec, list | tuple):
        return type(spec)(instantiate(item, trusted) for item in spec)
    if not isinstance(spec, Mapping):
        return spec
    if "class_path" not in spec:
        return {key: instantiate(value, trusted) for key, value in spec.items()}
    target = _find_class(spec["class_path"], trusted)
    arguments = spec.get("init_args") or {}
    if not isinstance(arguments, Mapping):
        raise InputError(f"init_args of {spec['class_path']} must be a mapping, got {arguments!r}.")
    arguments = instantiate(dict(arguments), trusted)
    try:
        return target(**_with_settings(target, arguments))
    except TypeError as error:
        raise InputError(f"{spec['class_path']} cannot be built: {error}.") from None


def _with_settings(target: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Build the settings dataclasses that the signature asks for from plain mappings."""
    mappings = {key: value for key, value in arguments.items() if isinstance(value, dict)}
    hints: dict[str, Any] = {}
    for each in reversed(target.__mro__ if mappings else ()):  # options are handed on to parents
        hints |= typing.get_type_hints(each.__init__)  # type: ignore[misc]
    for key, value in mappings.items():
        kinds = (hints.get(key), *typing.get_args(hints.get(key)))
        settings = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if isinstance(settings, type):
            arguments[key] = settings(**_with_settings(settings, value))
    return arguments


def _find_class(path: Any, trusted: tuple[str, ...]) -> type:
    """Import a class of a trusted package, of ours only one that a configuration describes."""
    allowed = (*TRUSTED, *trusted)
    # Importing a module such as bcl.cli.__main__ would run it.
    if not isinstance(path, str) or "__" in path or not _within(path, allowed):
        raise InputError(
            f"class_path {path!r} is not in the trusted packages {', '.join(allowed)}; name its "
            "package as trusted if you know where the configuration comes from."
        )
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        # A folder `datamodules` of one's own may stand in the way of ours.
        origin = getattr(sys.modules.get(module), "__file__", None)
        where = f"; {module} is {origin}" if origin else ""
        raise InputError(f"class_path '{path}' cannot be imported: {error}{where}.") from None
    if not isinstance(found, type):
        raise InputError(f"class_path '{path}' is not a class.")
    if not _within(path, trusted) and not _is_part(found):
        raise InputError(
            f"class_path '{path}' is no method, loss, views, datamodule or settings; a "
            "configuration can name only those."
        )
    return found


def _within(path: str, packages: tuple[str, ...]) -> bool:
    return any(path.startswith(f"{name}.") for name in packages)


def _is_part(found: type) -> bool:
    """Whether a class is our own or ``torch.nn``'s, not one they import, and part of a run."""
    from pytorch_lightning import LightningDataModule

    settings = dataclasses.is_dataclass(found) and found.__name__.endswith("Settings")
    part = settings or issubclass(found, nn.Module | LightningDataModule)
    return part and _within(found.__module__, TRUSTED)
