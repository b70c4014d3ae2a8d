"""Public names that are imported when they are first used."""

import importlib
from collections.abc import Callable, Mapping


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Build a package's ``__getattr__`` so that importing it loads no heavy dependency.

    Args:
        package: the package's ``__name__``.
        homes: public name to the module that defines it.

    Returns:
        A function for the package's ``__getattr__`` (PEP 562).
    """

    def getattr_(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(homes[name]), name)

    return getattr_
