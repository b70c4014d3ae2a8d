"""Objects from ``class_path`` and ``init_args``, for code that works without the command line."""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from bcl.core.errors import InputError

# A configuration may come from a stranger's checkpoint, so it cannot name just any class.
TRUSTED = ("bcl", "cacr", "datamodules", "torch.nn")


def instantiate(spec: Any, trusted: Iterable[str] = ()) -> Any:
    """Build the object that a configuration describes, nested ones first.

    Args:
        spec: a mapping with ``class_path`` and, if need be, ``init_args``; lists and other
            mappings are searched for such mappings; anything else is returned unchanged.
        trusted: packages whose classes may be built besides this library's and ``torch.nn``'s.

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
    target = _find_class(spec["class_path"], (*TRUSTED, *trusted))
    arguments = instantiate(dict(spec.get("init_args") or {}), trusted)
    try:
        return target(**arguments)
    except TypeError as error:
        raise InputError(f"{spec['class_path']} cannot be built: {error}.") from None


def _find_class(path: Any, trusted: tuple[str, ...]) -> type:
    """Import a class of a trusted package."""
    if not isinstance(path, str) or not any(path.startswith(f"{name}.") for name in trusted):
        raise InputError(
            f"class_path {path!r} lies outside the trusted packages {', '.join(trusted)}; name its "
            "package as trusted if you know where the configuration comes from."
        )
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"class_path '{path}' cannot be imported: {error}.") from None
    if not isinstance(found, type):
        raise InputError(f"class_path '{path}' is not a class.")
    return found
