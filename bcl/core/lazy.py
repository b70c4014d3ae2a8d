"""Public names that are imported on first use."""

import difflib
import importlib
from collections.abc import Callable, Mapping


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Build a package's ``__getattr__`` (PEP 562) from public names and their modules."""

    def getattr_(name: str) -> object:
        if name not in homes:
            close = difflib.get_close_matches(name, homes, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise AttributeError(f"module '{package}' has no attribute '{name}'{hint}")
        return getattr(importlib.import_module(homes[name]), name)

    return getattr_
