"""One clear line out of the option parser's many."""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable

from bcl.core.errors import InputError, unknown_name


def readable_error(message: str, options: Iterable[str]) -> InputError:
    """Reduce the parser's message to its cause, with the nearest name for a misspelt one.

    Args:
        message: what jsonargparse said.
        options: the parser's own options, such as ``--trainer.max_epochs``.

    Returns:
        The error to raise.

    Example:
        >>> print(readable_error("unrecognized arguments: --trainer.max_epoch 3",
        ...                      ["--trainer.max_epochs", "--name"]))
        unknown option '--trainer.max_epoch'; did you mean '--trainer.max_epochs'?
    """
    options = list(options)
    # The deepest class is the one that has the problem.
    inner = re.split(r"Problem with given class_path ", message)
    if len(inner) > 1:
        return _class_error(inner[-1])
    if match := re.search(r"following arguments are required: (.*)", message):
        if {"model", "data"} & set(re.findall(r"\w+", match[1])):
            return InputError(
                "a run needs a model and data; name a configuration with --config, such as "
                "digits_lt/bcl_i (`bcl configs` lists them)."
            )
        return InputError(f"option needed: {match[1]}.")
    if match := re.search(r"unrecognized arguments: (\S+)", message, re.I):
        return _unknown_option(match[1].partition("=")[0], options)
    if match := re.search(r"Group '(\S+)' does not accept option '(\S+)'", message):
        return _unknown_option(f"--{match[1]}.{match[2]}", options)
    if match := re.search(r"Option '(\S+)' is not accepted", message):
        return _unknown_option(f"--{match[1]}", [*options, "--model", "--data", "--trainer"])
    if match := re.search(r'Parser key "([^"]+)":(.*)', message, re.S):
        return InputError(f"{match[1]}: {_value_error(match[2])}.")
    return InputError(" ".join(message.split()))


def _unknown_option(option: str, options: list[str]) -> InputError:
    head, dot, rest = option.partition(".")
    heads = sorted({name.partition(".")[0] for name in options})
    if dot and head not in heads:
        near = [name + dot + rest for name in difflib.get_close_matches(head, heads, n=1)]
    else:
        near = difflib.get_close_matches(option, options, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "; `bcl fit --help` lists them all."
    return InputError(f"unknown option '{option}'{hint}")


def _class_error(text: str) -> InputError:
    match = re.match(r"'([^']+)':(.*)", text, re.S)
    if match is None:
        return InputError(" ".join(text.split()))
    path, rest = match[1], match[2]
    kind = {"LightningModule": "model", "LightningDataModule": "data"}.get(path.rpartition(".")[2])
    if kind is not None:  # the parser's own base class: none was named
        return InputError(
            f"the configuration's {kind} names no class; put a whole configuration before yours "
            f"(--config image_folder/bcl_i --config my.yaml), or write {kind}.class_path into it."
        )
    if option := re.search(r"Option '(\S+)' is not accepted", rest):
        return unknown_name(f"option of {path}", option[1], _parameters(path))
    if key := re.search(r'Parser key "([^"]+)":(.*)', rest, re.S):
        return InputError(f"{key[1]} of {path}: {_value_error(key[2])}.")
    cause = re.split(r"\s+- Expected|\s+Given value", rest)[0]
    return InputError(f"{path}: {' '.join(cause.split())}.")


def _value_error(text: str) -> str:
    """``expected int or None, got 'abc'`` out of the union's list of failures."""
    found = re.findall(r"Expected (?:an? )?(?:<class '([^']+)'>|typing\.Literal\[([^\]]*)\])", text)
    kinds = [values or kind.rpartition(".")[2] for kind, values in found]
    if re.match(r"\s*Expected an? (<class '[^']+'>|typing\.Literal\[[^\]]*\])\. Got value", text):
        kinds = kinds[:1]  # what follows belongs to the option around it
    value = re.search(r"(?:Given value|Got value): (.*)", text)
    if not kinds or value is None:
        return " ".join(text.split()).rstrip(".")
    names = [kind.replace("NoneType", "null") for kind in dict.fromkeys(kinds)]
    return f"expected {' or '.join(names)}, got '{value[1].strip()}'"


def _parameters(path: str) -> list[str]:
    """Names that a class takes, its parents' where it passes ``**kwargs`` on."""
    module, _, name = path.rpartition(".")
    found: list[str] = []
    for parent in getattr(importlib.import_module(module), name).__mro__:
        if "__init__" not in vars(parent):
            continue
        parameters = inspect.signature(parent.__init__).parameters.values()
        found += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in dict.fromkeys(found) if name != "self"]
