"""One clear line from the option parser's many."""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable

from bcl.core.errors import InputError, unknown_name


def readable_error(message: str, options: Iterable[str]) -> InputError:
    """Reduce jsonargparse's message to its innermost cause, with the nearest right name.

    Example:
        >>> print(readable_error("unrecognized arguments: --trainer.max_epoch 3",
        ...                      ["--trainer.max_epochs", "--name"]))
        unknown option '--trainer.max_epoch'; did you mean '--trainer.max_epochs'?
    """
    # The innermost class or key is the one that has the problem.
    *_, path, cause = ["", "", *re.split(r"Problem with given class_path '([^']+)':", message)]
    if path.endswith(("LightningModule", "LightningDataModule")):  # none was named
        kind = "data" if path.endswith("DataModule") else "model"
        return InputError(
            f"the configuration's {kind} names no class; put a complete configuration before yours "
            f"(--config image_folder/bcl_i --config my.yaml), or write {kind}.class_path into it."
        )
    if re.search(r"arguments are required:.*\b(model|data)\b", cause):
        return InputError(
            "a run needs a model and data; name a configuration with --config, such as "
            "digits_lt/bcl_i (`bcl configs` lists them)."
        )
    if match := re.search(r"unrecognized arguments: ([^\s=]+)", cause):
        return _unknown_option(match[1], list(options))
    if match := re.search(r"[Oo]ption '(\S+)' is not accepted", cause):
        if path:
            return unknown_name(f"option of {path}", match[1], _parameters(path))
        return _unknown_option(f"--{match[1]}", [*options, "--model", "--data", "--trainer"])
    if match := re.search(r"module '(\S+)' has no attribute '(\w+)'", cause):
        return unknown_name(f"name in {match[1]}", match[2], _public(match[1]))
    *_, key, problem = ["", *re.split(r'Parser key "([^"]+)":', cause)]
    if path and not key:  # what follows belongs to the option around it
        problem = re.split(r"\s+- Expected|\s+Given value", problem)[0]
    where = " of ".join(name for name in (key, path) if name)
    return InputError(": ".join(filter(None, [where, _problem(problem)])) + ".")


def _unknown_option(option: str, options: list[str]) -> InputError:
    head, dot, rest = option.partition(".")
    heads = sorted({name.partition(".")[0] for name in options})
    if dot and head not in heads:
        near = [name + dot + rest for name in difflib.get_close_matches(head, heads, n=1)]
    else:
        near = difflib.get_close_matches(option, options, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "; `bcl fit --help-all` lists them all."
    return InputError(f"unknown option '{option}'{hint}")


def _problem(text: str) -> str:
    """``expected int or null, got 'few'`` from the list of types that a value was tried as."""
    kinds = re.findall(r"Expected an? (?:<class '|typing\.Literal\[)(.+?)(?:'>|\])", text)
    value = re.search(r"(?:Got value|Given value): (.*)", text)
    if not kinds or value is None:
        return " ".join(text.split()).rstrip(".")
    if "Got value" in text:
        kinds = kinds[:1]  # the others belong to the option around it
    names = [kind.rpartition(".")[2].replace("NoneType", "null") for kind in dict.fromkeys(kinds)]
    return f"expected {' or '.join(names)}, got '{value[1].strip()}'"


def _parameters(path: str) -> list[str]:
    """Names that a class takes, its parents' where it passes ``**kwargs`` on."""
    module, _, name = path.rpartition(".")
    found: list[str] = []
    for parent in getattr(importlib.import_module(module), name).__mro__:
        parameters = inspect.signature(parent.__init__).parameters.values()
        found += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in dict.fromkeys(found) if name != "self"]


def _public(module: str) -> list[str]:
    found = importlib.import_module(module)
    return list(getattr(found, "__all__", None) or vars(found))
