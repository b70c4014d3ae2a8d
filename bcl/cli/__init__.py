"""The command ``bcl``: one module per command, each with ``add_arguments`` and ``run``."""

import contextlib
import errno
import importlib
import importlib.util
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from keyword import iskeyword
from pathlib import Path
from types import FrameType, ModuleType

from bcl.core.errors import InputError, Interrupted, unknown_name
from bcl.core.machine import loaded, own_process
from bcl.core.progress import say
from bcl.core.text import shown, shown_lines

# Command: what it does, in one line. Modules are imported when their command is called.
COMMANDS = {
    "quickstart": "pretrain SimCLR and BCL-I on long-tailed digits; a report, and what is rare",
    "fit": "pretrain from a named configuration or a YAML file",
    "probe": "evaluate checkpoints with linear probes on frozen features",
    "embed": "write the features of every image of a collection as a table",
    "discover": "find what is rare in a collection, and show it on a page",
    "report": "write one HTML page from the results of one or more probes",
    "export": "write a checkpoint's encoder as a folder that timm and load_encoder open",
    "import": "bring a checkpoint of the papers' released code into this library",
    "augment": "draw what each memorization score does to images",
    "split": "make, inspect, compare and save long-tailed splits; list the known recipes",
    "pack": "write a data set as Arrow files for training beyond one machine's memory",
    "configs": "list the named configurations, or print one",
}

LONG = ("quickstart", "fit", "probe", "embed", "discover")  # and slow to load

# What other programs call a command.
_FIT = "fit --config images/bcl_i --data.root DIR"
ALIASES = {"pretrain": _FIT, "train": _FIT, "eval": "probe RUN", "evaluate": "probe RUN"}

_RANK_ZERO = ".utilities.rank_zero"
# Lightning's warnings about loaders and its own insides; the loss on the bar is rank 0's, and the
# record holds the mean over the ranks; loggers get one row per epoch, whatever the interval.
_NOISE = ("isinstance.treespec, LeafSpec", "does not have many workers", "sync_dist=True",
          "smaller than the logging interval")  # fmt: skip


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items())
    return f"""usage: bcl COMMAND [OPTIONS]

Self-supervised learning on long-tailed data.

{lines}

`bcl COMMAND --help` explains a command; `bcl --version` prints the version."""


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:  # bcl help COMMAND
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_usage())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        from bcl import __version__

        print(f"bcl-cacr {__version__}")
        return 0
    if name not in COMMANDS:
        if name in ALIASES:
            raise InputError(f"unknown command '{name}'; here it is: bcl {ALIASES[name]}")
        if name.startswith("--"):
            raise InputError(
                f"an option, '{name}', before the command; begin with it: bcl fit {name}"
            )
        raise unknown_name("command", name, COMMANDS)
    _find_datamodules()
    from bcl.cli.messages import Parser

    if name in LONG and sys.stderr.isatty() and not {"-h", "--help", "--help-all"} & {*rest}:
        print("loading ...", end="\r", file=sys.stderr, flush=True)  # the next line takes its place
    module: ModuleType = importlib.import_module(f"bcl.cli.{name}{'_' if iskeyword(name) else ''}")
    if name == "fit":  # LightningCLI parses its own options
        return int(module.main(rest))
    about = COMMANDS[name]
    parser = Parser(f"bcl {name}", description=f"{about[0].upper()}{about[1:]}.")
    module.add_arguments(parser)
    options = parser.parse_args(rest)
    loaded()
    return int(module.run(options))


def _find_datamodules() -> None:
    """Look for `datamodules` where this package lies before anywhere else.

    The name is a common one, and ``python -m`` looks in the working directory first.
    """
    home = Path(__file__).resolve().parents[2]
    found = importlib.util.find_spec("datamodules")
    origin = Path(found.origin or "") if found else home
    if origin.resolve().is_relative_to(home / "datamodules"):
        return
    if "datamodules" in sys.modules:
        raise InputError(
            f"another package named `datamodules` is loaded, {origin}; call the command `bcl` in "
            "a process of its own."
        )
    sys.path.insert(0, str(home))
    importlib.invalidate_caches()


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's information lines, and warnings about its own insides, for a while."""
    names = ("pytorch_lightning", "lightning_fabric", "lightning.fabric", "lightning.pytorch")
    loggers = [logging.getLogger(name + end) for name in names for end in ("", _RANK_ZERO)]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=f".*{message}.*")
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_interrupts: list[int] = []


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.append(number)
    signal.default_int_handler(number, frame)


def check_interrupt() -> None:
    """Interrupt after all where a library that was being loaded has swallowed it."""
    if _interrupts:
        raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for bad input, or 128 and a signal's number."""
    try:
        if arguments is None:  # the process is ours
            own_process()
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is not ignored
                signal.signal(signal.SIGINT, _interrupt)
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        except Exception:
            check_interrupt()  # of which a library that was being loaded has made another error
            raise
    except InputError as error:
        say(f"bcl: error: {shown_lines(str(error))}", sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        place = f" {shown(str(error.filename))}:" if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "; make room, or write elsewhere." if full else ""
        print(f"bcl: error:{place} {error.strerror or error}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        say(f"bcl: {str(error) or 'interrupted'}", sys.stderr)
        return error.status if isinstance(error, Interrupted) else 130
