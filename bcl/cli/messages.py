"""One clear line from the option parser's many."""

import argparse
import difflib
import importlib
import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, NoReturn

from bcl.cli.configuration import config_names
from bcl.core.errors import InputError, unknown_name

# What other programs call an option, by its last word.
ALIASES = {
    "lr": "learning_rate",
    "epochs": "max_epochs",
    "image_size": "size",
    "gpus": "devices",
    "device": "accelerator",
    "output": "default_root_dir",
    "seed": "seed_everything",
    "resume": "ckpt_path",
    "out": "default_root_dir",
}


class Parser(argparse.ArgumentParser):
    """A parser of a command's words whose errors are one line, with the nearest right name."""

    def error(self, message: str) -> NoReturn:
        """Raise the error."""
        unknown = re.match(r"unrecognized arguments: ([^\s=]+)", message)
        if not unknown:
            needs = "the following arguments are required:"
            cause = message.removeprefix("argument ").replace(needs, f"{self.prog} needs")
            raise InputError(f"{cause}; `{self.prog} --help` explains.")
        kind = "option" if unknown[1].startswith("-") else "word"
        near = nearest(unknown[1], list(self._option_string_actions)) if kind == "option" else []
        hint = f"did you mean {near[0]}?" if near else f"`{self.prog} --help` lists what it takes."
        if kind == "word" and any(each.metavar == "NAMES" for each in self._actions):
            hint = f"several values of an option are joined by commas; {hint}"
        raise InputError(f"unknown {kind} '{unknown[1]}'; {hint}")


def readable_error(message: str, options: Iterable[str], words: Sequence[str] = ()) -> InputError:
    """Reduce jsonargparse's message to its innermost cause, with the nearest right name.

    Args:
        message: jsonargparse's.
        options: all that there are.
        words: of the command line.

    Example:
        >>> print(readable_error("unrecognized arguments: --trainer.max_epoch 3",
        ...                      ["--trainer.max_epochs", "--name"]))
        unknown option '--trainer.max_epoch'; did you mean --trainer.max_epochs?
    """
    known = list(dict.fromkeys(options))
    if words and not words[0].startswith("-"):
        return _loose_word(words[0], "unexpected word")
    key, path, problem = _innermost(message)
    if path.endswith(("LightningModule", "LightningDataModule")):  # none was named
        kind = "data" if path.endswith("DataModule") else "model"
        return InputError(
            f"the configuration's {kind} names no class; put a complete configuration before yours "
            f"(--config image_folder/bcl_i --config my.yaml), or write {kind}.class_path into it."
        )
    if match := re.search(r"arguments are required: (.*)", problem):
        if key:
            missing = " and ".join(f"--{key}.{name}" for name in match[1].split(", "))
            return InputError(f"{path} needs {missing}; add it and its value.")
        return InputError(
            "a run needs a model and data; name a configuration with --config, such as "
            "digits_lt/bcl_i (`bcl configs` lists them)."
        )
    if match := re.search(r"unrecognized arguments: ([^-]\S*)", problem):
        return _loose_word(match[1], "unexpected word")
    match = re.search(r"import path string: (\S+)", message)
    if match and key in ("model", "data"):
        takes = f"--{key} takes the path of a class"
        if key == "model":
            return InputError(
                f"{takes} such as bcl.SimCLR, not '{match[1]}'; `bcl configs` lists the methods."
            )
        return _loose_word(match[1], f"{takes}, not")
    if "expected one argument" in problem:
        pairs = itertools.pairwise([*words, "--"])
        last = [one for one, after in pairs if one.startswith("--") and after.startswith("--")]
        bare = [one for one in last if "=" not in one and one != "--overwrite"]
        return InputError(f"{bare[0] if bare else problem.split()[1]} needs a value after it.")
    if match := re.search(r"(?:unrecognized arguments: --|Option ')([^\s=']+)", problem):
        return _unknown_option(key, match[1], path, known)
    if match := re.search(r"module '(\S+)' has no attribute '(\w+)'", problem):
        return unknown_name(f"name in {match[1]}", match[2], _public(match[1]))
    if match := re.search(r"NestedArg\(key='(\S+?)'", problem):
        return InputError(f"--{key} takes a value and has no '{match[1]}' below it.")
    parts = ", ".join(name for name in known if name.startswith(f"--{key}."))
    if "Unable to load config" in problem or (parts and "the path of a class" in problem):
        return InputError(f"--{key} is set by its parts: {parts}.")
    return InputError(f"--{key}: {problem}." if key else f"{problem}.")


def _loose_word(word: str, problem: str) -> InputError:
    if word in config_names() or word.endswith((".yaml", ".yml")):
        hint = f"write --config {word}"
    elif word == "help":
        hint = "`bcl fit --help` explains"
    else:
        hint = (
            f"for images write --config images/bcl_i --data.root {word}, or --config "
            "image_folder/bcl_i if they lie in a folder per class"
        )
    return InputError(f"{problem} '{word}'; {hint}.")


def _innermost(message: str) -> tuple[str, str, str]:
    """Dotted key, class and problem of the most indented cause; of equals, the first.

    A value that fits none of several types has a cause for each. The deepest is that of the type
    which took the option.
    """
    around: list[tuple[int, str, str]] = []  # indentation, key and class of the lines around
    best: tuple[int, str, str, list[str]] = (-1, "", "", [])
    for line in message.splitlines():
        text = line.lstrip(" -")
        if not text:
            continue
        depth = len(line) - len(text)
        around = [each for each in around if each[0] < depth]
        key, path = around[-1][1:] if around else ("", "")
        if match := re.match(r'Parser key "([^"]+)": ?(.*)', text):
            if not f".{key}".endswith(f".{match[1]}"):  # some keys come twice
                key = f"{key}.{match[1]}".lstrip(".")
            text, depth = match[2], depth + bool(match[2])
            around.append((depth, key, path))
        elif match := re.match(r"Problem with given class_path '([^']+)':", text):
            around.append((depth, key, match[1]))
            text = ""
        if not text or text.startswith(("Does not validate", "Subtypes:", "Errors:")):
            continue
        if depth > best[0]:
            best = (depth, key, path, [text])
        elif best[1:3] == (key, path) and text.startswith(("Expected", "Given value:")):
            best[3].append(text)
    return best[1], best[2], _problem(" ".join(best[3]))


def _problem(text: str) -> str:
    """``expected int or null, got 'few'`` from the list of types that a value was tried as."""
    kinds = re.findall(r"Expected an? (?:<class '|typing\.Literal\[)(.+?)(?:'>|\])", text)
    value = re.search(r"Given value: (.*)", text)  # as typed; the other may be a number by now
    value = value or re.search(r"Got value: (.*)", text)
    names = [kind.rpartition(".")[2].replace("NoneType", "null") for kind in dict.fromkeys(kinds)]
    if "import path string" in text:
        names.insert(0, "the path of a class")
    if not names or value is None:
        return " ".join(text.split()).rstrip(".")
    return f"expected {' or '.join(names)}, got '{value[1].strip()}'"


def _unknown_option(key: str, name: str, path: str, known: list[str]) -> InputError:
    option = "--" + f"{key}.{name}".lstrip(".")
    own = [f"--{key}.{parameter}" for parameter in parameters(path)] if path else []
    if option in own:
        return InputError(
            f"{option} was refused because the parameters of {path} could not be read; its source "
            "file may have changed while the command started. Run it again."
        )
    above = option.rpartition(".")[0]
    if above in known and not any(each.startswith(f"{above}.") for each in [*own, *known]):
        below = option.removeprefix(f"{above}.")
        hint = "; for an object give its class_path too" if "." in above else ""
        return InputError(f"{above} takes a value and has no '{below}' below it{hint}.")
    near = nearest(option, [*own, *(each for each in known if each != option)])
    if near:
        return InputError(f"unknown option '{option}'; did you mean {' or '.join(near)}?")
    word = name.rpartition(".")[2]
    if word in parameters("datamodules.ImageFolderLT"):
        return InputError(
            f"unknown option '{option}'; --data.{word} is for images in files, which this "
            "configuration has none of."
        )
    all_of_them = f"known are {', '.join(own)}" if own else "`bcl fit --help-all` lists them all"
    return InputError(f"unknown option '{option}'; {all_of_them}.")


def nearest(option: str, known: list[str]) -> list[str]:
    """Options that end as this one does, below the same head if there are any; else a like name.

    Example:
        >>> nearest("--model.lr", ["--model.optimizer.learning_rate", "--online.learning_rate"])
        ['--model.optimizer.learning_rate']
    """
    head, word = option.partition(".")[0], option.lstrip("-").rpartition(".")[2]
    word = word.replace("-", "_")
    if "." not in option and f"--{ALIASES.get(word)}" in known:
        return [f"--{ALIASES[word]}"]
    words = {word, ALIASES.get(word)}
    same = [each for each in known if each.lstrip("-").rpartition(".")[2] in words]
    same = [each for each in same if "." in each or "." not in option]  # no short name for a long
    below = [each for each in same if each.partition(".")[0] == head]
    others = [each for each in known if not option.startswith(f"{each}.")]
    found = (below or same)[:2] or difflib.get_close_matches(option, others, n=1, cutoff=0.7)
    return found or (nearest(head, known) if head not in (option, *known) else [])


def option_names(key: str, spec: Any) -> Iterator[str]:
    """Dotted options of the class that a configuration names, of its parts and its settings."""
    if not isinstance(spec, Mapping) or "class_path" not in spec:
        return
    given = spec.get("init_args") or {}
    for name, default in parameters(spec["class_path"]).items():
        yield f"--{key}.{name}"
        part = given.get(name)
        if is_dataclass(default):
            kind = type(default)
            part = {"class_path": f"{kind.__module__}.{kind.__qualname__}"}
        yield from option_names(f"{key}.{name}", part)


def parameters(path: str) -> dict[str, Any]:
    """Names and defaults that a class takes, its parents' where it passes ``**kwargs`` on."""
    module, _, name = path.rpartition(".")
    found: dict[str, Any] = {}
    for parent in getattr(importlib.import_module(module), name).__mro__:
        parameters = inspect.signature(parent.__init__).parameters.values()
        named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        found = {p.name: p.default for p in named} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    found.pop("self")
    return found


def _public(module: str) -> list[str]:
    found = importlib.import_module(module)
    return list(getattr(found, "__all__", None) or vars(found))
