"""Public names that are imported on first use."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Build a package's ``__getattr__`` (PEP 562) from public names and their modules."""

    def getattr_(name: str) -> object:
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        close = _of_sibling(package, name) or difflib.get_close_matches(name, homes, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        # `from package import name` puts a text of its own in place of an AttributeError's. It
        # asks from this function of importlib, and goes on to look for a module of that name.
        by_import = sys._getframe(1).f_code.co_name == "_handle_fromlist"
        if close and by_import and importlib.util.find_spec(f"{package}.{name}") is None:
            raise ImportError(f"cannot import name '{name}' from '{package}'{hint}", name=name)
        # With an object to look in, Python would print a guess of its own after this one.
        text = f"module '{package}' has no attribute '{name}'{hint}"
        raise AttributeError(text, name=name, obj=None)

    return getattr_


def _of_sibling(package: str, name: str) -> list[str]:
    """The full name, if the other package of losses and methods has it: ``cacr.CACRLoss``."""
    others = [importlib.import_module(each) for each in ("bcl", "cacr") if each != package]
    return [f"{other.__name__}.{name}" for other in others if name in other.__all__]


class _Signal(ModuleType):
    """Stands for ``scipy.signal`` until something of it is used."""

    @staticmethod
    def hamming(*args: Any, **options: Any) -> Any:
        """As torchmetrics, which loads the module for that, sets it where it is missing."""
        return importlib.import_module("scipy.signal.windows").hamming(*args, **options)

    def __getattr__(self, name: str) -> object:
        # `inspect` asks all modules for a file.
        if name.startswith("__") and name not in ("__path__", "__all__"):
            raise AttributeError(name)
        end_deferral()
        return getattr(importlib.import_module(self.__name__), name)


def defer_scipy_signal() -> None:
    """Do not load ``scipy.signal`` until `end_deferral`, unless something of it is used.

    Lightning loads torchmetrics, which loads it for a name that nothing here uses.
    """
    scipy = importlib.util.find_spec("scipy")
    if scipy is None or "scipy.signal" in sys.modules:
        return
    module = _Signal("scipy.signal")
    # find_spec of the full name would load SciPy.
    module.__spec__ = PathFinder.find_spec("scipy.signal", scipy.submodule_search_locations)
    sys.modules["scipy.signal"] = module


def end_deferral() -> None:
    """Load the module as usual from now on."""
    if isinstance(sys.modules.get("scipy.signal"), _Signal):
        del sys.modules["scipy.signal"]
