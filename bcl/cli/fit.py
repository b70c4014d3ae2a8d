"""``bcl fit``: pretrain from a named configuration or a YAML file."""

import itertools
import math
import re
import shlex
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from bcl.cli import check_interrupt, quiet_lightning
from bcl.cli.configuration import KEYS, Config, compose, find_config, merge
from bcl.cli.messages import option_names, readable_error
from bcl.cli.output import check_seed
from bcl.core.errors import InputError, Interrupted, find_input_error
from bcl.core.files import check_writable
from bcl.core.machine import loaded
from bcl.core.progress import rows

# Short names; what is recorded, and refused, has the long one.
SHORT = {
    "--epochs": "--trainer.max_epochs",
    "--batch": "--data.batch_size",
    "--lr": "--model.optimizer.learning_rate",
    "--encoder": "--model.encoder.name",
    "--devices": "--trainer.devices",
    "--out": "--trainer.default_root_dir",
    "--model.encoder": "--model.encoder.name",
    "--model.pretrained": "--model.encoder.args.pretrained",
}
ONE = {**SHORT, "--size": "--model.views.size"}  # the value that an option sets
EXAMPLE = "image_folder/bcl_i"  # whose values the help shows if no configuration is named

HELP = """usage: bcl fit --config NAME|FILE [OPTIONS]

Pretrain an encoder; labels, if there are any, are not used. A configuration names method, data and
schedule: one of `bcl configs`, or a YAML file. Of several, the later wins; options win over all.

  bcl fit --config images/bcl_i --data.root DIR            # images without labels, in any folders
  bcl fit --config image_folder/bcl_i --data.root DIR      # a folder per class, to probe afterwards
  bcl fit --config digits_lt/bcl_i --epochs 20 --lr 0.3    # a small set that needs no download
  bcl fit --config cifar100_lt/bcl_d --config my.yaml --devices 4
  bcl fit --config digits_lt/bcl_i --ckpt_path last        # go on after an interrupt
{options}
In brackets: {name}, or what --config names. `bcl configs NAME` prints all that it sets,
`bcl fit --help-all` every option. Files and records have the long names:
{short}."""

# The run's own options: type, default, help.
OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "--seed_everything": (int, 0, "seed of weights, order and views"),
    "--size": (int | None, None, "side of the views in pixels; images are stored in proportion"),
    "--ckpt_path": (
        str | None,
        None,
        "run to resume; 'last' is the one in the folder, if any",
    ),
    "--change": (str | None, None, "options that a resumed run may change; comma-separated"),
    "--save.every_n_epochs": (int, 1, "epochs between checkpoints"),
    "--save.every_n_steps": (int | None, None, "optimizer steps between checkpoints"),
    "--save.every_minutes": (float | None, None, "minutes between checkpoints"),
    "--log": (str | list[str] | None, None, "csv, tensorboard, wandb; comma-separated"),
    "--online.every_n_epochs": (int | None, None, "epochs between measurements of an online probe"),
    "--online.neighbors": (int, 10, "its nearest neighbors; 0 for none"),
    "--online.learning_rate": (float, 1e-3, "learning rate of its linear head"),
    "--watch.every_n_epochs": (
        int | None,
        None,
        "epochs between measures of the features; 0: none; 10 if there are no labels",
    ),
    "--watch.images": (
        int | None,
        None,
        "training images that they are measured on; a tenth of all, 100 to 2000",
    ),
    "--history.every_n_epochs": (int | None, None, "epochs between files of all memory values"),
}

# What people change, and its value where no configuration says.
FIRST: dict[str, dict[str, tuple[str, Any]]] = {
    "data": {
        "--data.root DIR": ("where the images are", None),
        "--size N": (OPTIONS["--size"][2], None),
        "--batch N": ("images per step, over all devices", None),
        "--data.on_bad_image NAME": ("unreadable images: refuse them, or skip", None),
    },
    "method": {
        "--encoder NAME": ("resnet8, resnet18, resnet50, or any timm model", None),
        "--model.pretrained true|PATH": ("weights to start from: timm's, a file, a run's", None),
        "--lr X": ("peak of the learning rate", 0.5),
    },
    "training": {
        "--epochs N": ("passes over the data", None),
        "--devices N": ("GPUs or processes; 'auto' for all GPUs", None),
        "--trainer.precision NAME": ("32-true, bf16-mixed, ...", "32-true"),
        "--seed_everything N": (OPTIONS["--seed_everything"][2], None),
    },
    "run": {
        "--out DIR": ("its folder", "outputs/{name}"),
        "--overwrite": ("replace a run in the same folder", None),
        "--ckpt_path RUN|last": (OPTIONS["--ckpt_path"][2], None),
        "--change NAMES": (OPTIONS["--change"][2], None),
        "--save.every_minutes X": (OPTIONS["--save.every_minutes"][2], None),
        "--log NAMES": (OPTIONS["--log"][2], None),
    },
}
# What a configuration images/METHOD leaves to the images and the machine.
CHOSEN = ("--size", "--batch", "--encoder", "--lr", "--trainer.precision")


def main(words: list[str]) -> int:
    """Parse, build and train; returns the exit status."""
    arguments, layers, name = _take_configs(list(_in_full(words)))
    config = merge({}, *layers.values())
    if {"-h", "--help"} & set(arguments):
        print(short_help(config or compose(EXAMPLE), name if config else EXAMPLE))
        return 0
    try:
        _run(arguments, layers, name)
    except InputError as error:
        raise InputError(_as_typed(str(error), words)) from None
    except KeyboardInterrupt as error:
        text = str(error) or "interrupted before the first step; start again:"
        status = error.status if isinstance(error, Interrupted) else 130
        again = "" if text.startswith("rank ") else f"\n  {_again(words)}"
        raise Interrupted(text + again, status - 128) from None
    return 0


def _run(arguments: list[str], layers: dict[str, Config], name: str) -> None:
    """Train with a command line's options, and say what comes next."""
    try:
        import jsonargparse  # noqa: F401
    except ImportError:
        raise InputError(
            "`bcl fit` needs jsonargparse; install it with pip install 'bcl-cacr[cli]'."
        ) from None
    from pytorch_lightning.utilities import rank_zero_only

    from bcl.cli import automatic

    with quiet_lightning():
        config = automatic.complete(layers, arguments, name)
        footer = _train(*parse(arguments, config, name))
    rank_zero_only(print)(rows(footer))


def _as_typed(text: str, words: list[str]) -> str:
    """An error with the short names of options where those were typed."""
    for short in {word.partition("=")[0] for word in words} & {*SHORT}:
        text = re.sub(rf"{SHORT[short]}\b(?!\.)", short, text)
    return text


def _again(words: list[str]) -> str:
    """The command that goes on with the run of a command."""
    pairs = itertools.pairwise(["", *words])
    kept = [word for before, word in pairs if "--ckpt_path" not in (before, word.split("=")[0])]
    kept = [word for word in kept if word != "--overwrite"]
    return shlex.join(["bcl", "fit", *kept, "--ckpt_path", "last"])


def _in_full(words: list[str]) -> Iterator[str]:
    """Words with the full names of `SHORT` options; an option under two names is refused."""
    spelt: dict[str, str] = {}
    for word, after in itertools.pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        full = SHORT.get(option, option)
        if (value or after).startswith("{"):  # a mapping for an encoder
            full = full.removesuffix(".name")
        if option.startswith("--"):
            one = ONE.get(option, full).replace(".init_args.", ".")
            other = spelt.setdefault(one, option)
            if other != option:
                raise InputError(f"{other} and {option} set the same value; give one of them.")
        yield full + equals + value


def _take_configs(arguments: list[str]) -> tuple[list[str], dict[str, Config], str]:
    """Take the ``--config`` options out, read what they name, and name the run after the last."""
    rest: list[str] = []
    layers: dict[str, Config] = {}
    name = "run"
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in {"--config", "-c"}:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value:
            raise InputError("--config needs a name or a file; `bcl configs` lists the names.")
        layers.pop(value, None)  # the later place counts
        layers[value] = find_config(value)
        name = Path(value).stem if value.endswith((".yaml", ".yml")) else value
    return rest, layers, name


def short_help(config: Config, name: str) -> str:
    """The options that people change, each with its value in a configuration."""
    width = max(len(option) for group in FIRST.values() for option in group)
    lines: list[str] = []
    for title, group in FIRST.items():
        lines += ["", f"{title}:"]
        for words, (text, default) in group.items():
            option = words.split()[0]
            value = _value(config, ONE.get(option, option))
            value = default if value is None else value
            if name.startswith("images/") and option in CHOSEN:
                value = "by the images"
            shown = "" if value is None else f" [{value}]".format(name=name)
            lines.append(f"  {words:<{width}}  {text}{shown}")
    pairs = [f"{short}~is~{full}" for short, full in SHORT.items() if "." not in short]
    short = textwrap.fill(", ".join(pairs), 99).replace("~", " ")
    return HELP.format(options="\n".join([*lines, ""]), name=name, short=short)


def _value(config: Config, option: str) -> Any:
    """The value of an option in a configuration, if it has one."""
    value: Any = config
    for key in option.removeprefix("--").split("."):
        value = value if isinstance(value, dict) else {}
        value = value.get(key, (value.get("init_args") or {}).get(key))
    return value


def make_parser(name: str = "run") -> Any:
    """Build the parser: Lightning's trainer, any method and datamodule, and the run's options."""
    import jsonargparse
    import pytorch_lightning as pl

    # An abbreviated option would be accepted silently, and so would many a misspelled one.
    parser = jsonargparse.ArgumentParser(prog="bcl fit", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="config", help="name or YAML file")
    parser.add_argument("--name", type=str, default=name, help="the run's name in reports")
    for option, (kind, default, text) in OPTIONS.items():
        parser.add_argument(option, type=kind, default=default, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace a run in the same folder")
    options = {"fail_untyped": False, "sub_configs": True}
    parser.add_class_arguments(pl.Trainer, "trainer", instantiate=False, **options)
    for key, base in (("model", pl.LightningModule), ("data", pl.LightningDataModule)):
        parser.add_subclass_arguments(base, key, fail_untyped=False, required=True)
        parser.link_arguments("seed_everything", f"{key}.init_args.seed")
    return parser


def parse(arguments: list[str], config: Config, name: str = "run") -> tuple[Any, Any]:
    """Parse the words after ``bcl fit``, without ``--config``: the parser, and its namespace."""
    from jsonargparse import ArgumentError

    parser = make_parser(name)
    words = ["--config", yaml.safe_dump(config)] if config else []
    words += ["--help" if word == "--help-all" else word for word in arguments]
    try:
        options = parser.parse_args(words)
    except ArgumentError as error:
        own = [f"--{key}" for key in parser.get_defaults().keys(branches=True)]
        parts = [name for key in ("model", "data") for name in option_names(key, config.get(key))]
        raise readable_error(str(error), [*SHORT, *parts, *own], words) from None
    check_seed(options.seed_everything)
    parts = options.name.split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise InputError(
            f"--name '{options.name}' cannot name a folder below outputs/; choose words such as "
            "digits_lt/bcl_i, and --out for another place."
        )
    if options.trainer.default_root_dir is None:
        options.trainer.default_root_dir = str(Path("outputs", *parts))
    return parser, options


def _train(parser: Any, options: Any) -> dict[str, object]:
    """Build method, data and trainer, and train; returns what to say at the end."""
    import pytorch_lightning as pl
    from jsonargparse import ArgumentError

    from bcl.cli import automatic
    from bcl.models.encoders import without_first_weights
    from bcl.training import FeatureWatch, OnlineProbe
    from bcl.training.changes import check_changes
    from bcl.training.checkpoints import KEY, lies_in, load_method, read_checkpoint
    from bcl.training.fit import fit, make_trainer
    from bcl.training.record import new_record, run_record, write_record

    folder = Path(options.trainer.default_root_dir)
    check_writable(folder, "--trainer.default_root_dir")
    checkpoint = find_checkpoint(folder, options.ckpt_path, options.overwrite)
    pl.seed_everything(options.seed_everything, verbose=False)
    plain = yaml.safe_load(parser.dump(options, skip_link_targets=False, skip_unset=False))
    if checkpoint is not None:  # it holds the weights
        options.model = without_first_weights(options.model.as_dict())
    try:
        built = parser.instantiate(options)  # model, data, and parts of the trainer
    except (ValueError, ArgumentError) as error:
        raise find_input_error(error) or error from None
    resumed_at = None
    config = {key: plain[key] for key in KEYS}
    change = [SHORT.get(f"--{name}", name) for name in re.findall(r"[^\s,]+", options.change or "")]
    if checkpoint is not None:
        content = read_checkpoint(checkpoint)
        if "optimizer_states" not in content:
            raise InputError(
                f"{checkpoint} holds weights without an optimizer, as `bcl import` writes them; it "
                "can be probed and exported, not resumed."
            )
        # Before the data are opened, which may take long.
        check_changes(content[KEY]["record"].get("config", {}), config, change)
        load_method(built.model, content, checkpoint)
        # The files in the folder are this run's only if the checkpoint is.
        if lies_in(checkpoint, folder / "checkpoints"):
            resumed_at = int(content["global_step"])
            if _is_finished(content, vars(options.trainer)):
                write_record(content[KEY]["record"], folder)  # it may have been killed before
                longer = "--epochs" if options.trainer.max_steps == -1 else "--trainer.max_steps"
                return _footer(content[KEY]["record"], folder, longer)
    automatic.settle(config["model"], getattr(built.model, "encoder", None))
    online = options.online.every_n_epochs is not None
    trainer = make_trainer(
        new_record(options.name, built.model, options.seed_everything, config),
        folder,
        vars(built.trainer),
        save=vars(options.save),
        log=options.log,
        online=OnlineProbe(**vars(options.online)) if online else None,
        watch=FeatureWatch(**vars(options.watch)),
        history_every=options.history.every_n_epochs,
        resumed_at=resumed_at,
        change=change,
    )
    loaded()
    check_interrupt()
    fit(trainer, built.model, built.data, checkpoint)
    return _footer(run_record(trainer), folder)


def _is_finished(content: Any, settings: Any) -> bool:
    """Whether a checkpoint has all epochs or steps that are asked for."""
    epochs, steps = settings["max_epochs"] or math.inf, settings["max_steps"]
    by_steps = 0 <= steps <= content["global_step"]
    return bool(content["bcl"]["record"]["epochs"] >= epochs or by_steps)


def _footer(record: Any, folder: Path, longer: str | None = None) -> dict[str, object]:
    """What a run has left, and the command that comes next.

    ``longer`` names the option that takes a run on which had ended before.
    """
    took = timedelta(seconds=round(record["wall_seconds"]))
    names = ("run.json", "images.csv", "unreadable.csv", "metrics.csv", "tensorboard", "tracker")
    there = ", ".join(name for name in names if (folder / name).exists())
    again = f"; it had finished before, a larger {longer} goes on" if longer else ""
    return {
        "done": f"{record['epochs']:,} epoch{'s' * (record['epochs'] != 1)} in {took}{again}",
        "checkpoint": folder / "checkpoints" / "last.ckpt",
        "folder": f"{folder} ({there})",
        "next": f"bcl {'probe' if record.get('classes') else 'discover'} {folder}",
    }


def find_checkpoint(folder: Path, asked: str | None, overwrite: bool) -> Path | None:
    """Find the checkpoint to resume from, if any; never mix a new run into an old one."""
    from pytorch_lightning.utilities import rank_zero_only

    from bcl.training.checkpoints import checkpoint_file, lies_in

    if asked not in (None, "last"):
        asked = str(checkpoint_file(asked))
    last = folder / "checkpoints" / "last.ckpt"
    own = asked is not None and (asked == "last" or lies_in(asked, last.parent))
    if not own and last.exists() and not overwrite:
        raise InputError(
            f"{folder} holds a run already; resume it with --ckpt_path last, replace it with "
            "--overwrite, or name another folder with --out."
        )
    if asked is None:
        return None
    # A job that its scheduler starts again may have been killed before its first checkpoint.
    if asked == "last" and not any(last.parent.glob("*.ckpt")):
        rank_zero_only(print)(f"No checkpoint in {last.parent} yet: the run starts from scratch.")
        return None
    return last if asked == "last" else Path(asked)
