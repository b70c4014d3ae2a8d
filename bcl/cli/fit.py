"""``bcl fit``: pretrain from a named configuration or a YAML file."""

from pathlib import Path
from typing import Any

import yaml

from bcl.cli import quiet_lightning
from bcl.cli.configuration import KEYS, Config, compose, find_config, merge
from bcl.cli.messages import readable_error
from bcl.cli.output import check_seed
from bcl.core.errors import InputError, find_input_error
from bcl.core.files import check_writable

EXAMPLE = "image_folder/bcl_i"  # whose values the short help shows

ABOUT = """Pretrain an encoder. A configuration names method, data and schedule (`bcl configs` lists
them, or name a YAML file); several are merged, and later ones win, as do options. Checkpoints and
the run's record go to outputs/NAME.

  bcl fit --config digits_lt/bcl_i
  bcl fit --config image_folder/bcl_i --data.root DIR --trainer.max_epochs 100
  bcl fit --config cifar100_lt/bcl_d --config my.yaml --trainer.devices 4
  bcl fit --config digits_lt/bcl_i --ckpt_path last      # resume after an interrupt
"""

# What people set first; the values shown are those of a configuration.
FIRST = {
    "Data": {
        "--data.root DIR": "folder of the images",
        "--data.batch_size N": "images per step, over all devices",
        "--data.image_size N": "side of the images in pixels",
    },
    "Method": {
        "--model.encoder NAME": "resnet8, resnet18, resnet50, or any timm model",
        "--model.learning_rate X": "peak of the schedule",
    },
    "Training": {
        "--trainer.max_epochs N": "epochs",
        "--trainer.devices N": "GPUs or processes; 'auto' for all GPUs",
        "--trainer.precision NAME": "32-true, bf16-mixed, ...",
        "--seed_everything N": "seed of weights, order and views",
    },
    "Run": {
        "--name NAME": "its name in reports and folder below outputs/",
        "--trainer.default_root_dir DIR": "another folder",
        "--ckpt_path FILE": "checkpoint to resume from, or 'last'",
        "--save.every_minutes X": "save within an epoch too",
        "--log NAMES": "csv, tensorboard, wandb, with commas between",
        "--online.every_n_epochs N": "measure a linear probe and neighbors while training",
        "--overwrite": "replace a run in the same folder",
    },
}

# The run's own options: name, type, default, help.
OPTIONS: tuple[tuple[str, Any, Any, str], ...] = (
    ("--seed_everything", int, 0, "seed of weights, order and views"),
    (
        "--ckpt_path",
        str | None,
        None,
        "checkpoint to resume from; 'last': the newest of the run's folder, or the beginning "
        "while there is none",
    ),
    ("--save.every_n_epochs", int, 1, "epochs between checkpoints"),
    (
        "--save.every_n_steps",
        int | None,
        None,
        "optimizer steps between checkpoints within an epoch",
    ),
    ("--save.every_minutes", float | None, None, "minutes between checkpoints within an epoch"),
    (
        "--log",
        str | list[str] | None,
        None,
        "loggers, of csv, tensorboard and wandb with commas between; files go to the run's folder",
    ),
    (
        "--online.every_n_epochs",
        int | None,
        None,
        "epochs between measurements of an online linear probe and nearest neighbors",
    ),
    ("--online.neighbors", int, 10, "nearest neighbors; 0 for none"),
    ("--online.learning_rate", float, 1e-3, "of the online head's Adam"),
    (
        "--history.every_n_epochs",
        int | None,
        None,
        "epochs between files of all momentum losses and scores, below tracker/",
    ),
)


def main(arguments: list[str]) -> int:
    """Parse, build and train; returns the exit status."""
    arguments, config, name = _take_configs(arguments)
    if {"-h", "--help"} & set(arguments):
        print(short_help(config or compose(EXAMPLE), name if config else EXAMPLE))
        return 0
    try:
        import jsonargparse  # noqa: F401
    except ImportError:
        raise InputError(
            "`bcl fit` needs jsonargparse; install it with pip install 'bcl-cacr[cli]'."
        ) from None
    with quiet_lightning():
        last = _train(*parse(arguments, config, name))
    if last is not None:
        print(f"Checkpoint: {last}")
    return 0


def _take_configs(arguments: list[str]) -> tuple[list[str], Config, str]:
    """Take the ``--config`` options out, merge what they name, and name the run after the last."""
    rest: list[str] = []
    config: Config = {}
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
        config = merge(config, find_config(value))
        name = Path(value).stem if value.endswith((".yaml", ".yml")) else value
    return rest, config, name


def short_help(config: Config, name: str) -> str:
    """The options that people set first, each with its value in a configuration."""
    width = max(len(option) for group in FIRST.values() for option in group)
    defaults = {option: default for option, _, default, _ in OPTIONS}
    lines = ["usage: bcl fit --config NAME|FILE [OPTIONS]", "", ABOUT]
    for title, group in FIRST.items():
        lines.append(f"{title}:")
        for option, text in group.items():
            word = option.split()[0]
            value = _value(config, word.removeprefix("--").split("."), defaults.get(word))
            shown = "" if value is None else f" [{value}]"
            lines.append(f"  {option:<{width}}  {text}{shown}")
        lines.append("")
    return "\n".join(
        [
            *lines,
            f"Values in brackets are those of {name}; those of another: bcl fit --config NAME",
            "--help. All of its options: `bcl configs NAME`. Every option there is, with its type:",
            "`bcl fit --help-all`; those of a class: `--model.help bcl.BCL`.",
        ]
    )


def _value(config: Config, path: list[str], default: Any) -> Any:
    """Look an option up in a configuration; ``init_args`` may be left out."""
    node: Any = config
    for key in path:
        node = node if isinstance(node, dict) else {}
        node = node.get(key, node.get("init_args", {}).get(key))
    return default if node is None else node


def make_parser(name: str = "run") -> Any:
    """Build the parser: Lightning's trainer, any method and datamodule, and the run's options."""
    import jsonargparse
    import pytorch_lightning as pl

    # An abbreviated option would be accepted silently, and so would many a misspelled one.
    parser = jsonargparse.ArgumentParser(
        prog="bcl fit",
        description=ABOUT[: ABOUT.index("\n\n")],
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", action="config", help="name or YAML file")
    parser.add_argument("--name", type=str, default=name, help="the run's name in reports")
    for option, kind, default, text in OPTIONS:
        parser.add_argument(option, type=kind, default=default, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace a run in the same folder")
    parser.add_class_arguments(
        pl.Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True
    )
    classes = {"model": pl.LightningModule, "data": pl.LightningDataModule}
    for key, kind in classes.items():
        parser.add_subclass_arguments(kind, key, fail_untyped=False, required=True)
        parser.link_arguments("seed_everything", f"{key}.init_args.seed")
    return parser


def parse(arguments: list[str], config: Config, name: str = "run") -> tuple[Any, Any]:
    """Parse the options of a run.

    Args:
        arguments: the words after ``bcl fit``, without ``--config``.
        config: the merged configurations.
        name: the run's name if ``--name`` is not given.

    Returns:
        The parser, and the options as its namespace.

    Raises:
        InputError: an unknown option, or a value of a wrong type.
    """
    from jsonargparse import ArgumentError

    parser = make_parser(name)
    words = ["--config", yaml.safe_dump(config)] if config else []
    words += ["--help" if word == "--help-all" else word for word in arguments]
    try:
        options = parser.parse_args(words)
    except ArgumentError as error:
        known = [name for action in parser._actions for name in action.option_strings]
        raise readable_error(str(error), known) from None
    check_seed(options.seed_everything)
    _check_name(options.name)
    if options.trainer.default_root_dir is None:
        options.trainer.default_root_dir = str(Path("outputs", *options.name.split("/")))
    return parser, options


def _check_name(name: str) -> None:
    """A run's name is also its place below outputs/, and stays there."""
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise InputError(
            f"--name '{name}' cannot name a folder below outputs/; take words such as "
            "digits_lt/bcl_i, and --trainer.default_root_dir for another place."
        )


def _train(parser: Any, options: Any) -> Path | None:
    """Build method, data and trainer, and train; returns the last checkpoint on rank 0."""
    from bcl.training import OnlineProbe
    from bcl.training.checkpoints import lies_in, load_method, read_checkpoint
    from bcl.training.fit import fit, make_trainer
    from bcl.training.record import new_record

    folder = Path(options.trainer.default_root_dir)
    check_writable(folder, "--trainer.default_root_dir")
    checkpoint = find_checkpoint(folder, options.ckpt_path, options.overwrite)
    built = build(parser, options)
    resumed_at = None
    if checkpoint is not None:
        content = read_checkpoint(checkpoint)
        if "optimizer_states" not in content:
            raise InputError(
                f"{checkpoint} holds weights without an optimizer, as `bcl import` writes them; it "
                "can be probed and exported, not resumed."
            )
        load_method(built.model, content, checkpoint)
        # The files in the folder are this run's only if the checkpoint is.
        if lies_in(checkpoint, folder / "checkpoints"):
            resumed_at = int(content["global_step"])
    online = options.online.every_n_epochs is not None
    trainer = make_trainer(
        new_record(options.name, built.model, options.seed_everything, plain(parser, options)),
        folder,
        vars(built.trainer),
        save=vars(options.save),
        log=options.log,
        online=OnlineProbe(**vars(options.online)) if online else None,
        history_every=options.history.every_n_epochs,
        resumed_at=resumed_at,
    )
    fit(trainer, built.model, built.data, checkpoint)
    return folder / "checkpoints" / "last.ckpt" if trainer.is_global_zero else None


def build(parser: Any, options: Any) -> Any:
    """Seed, and build what the options describe: model, data, and parts of the trainer."""
    import pytorch_lightning as pl
    from jsonargparse import ArgumentError

    pl.seed_everything(options.seed_everything, verbose=False)
    try:
        return parser.instantiate(options)
    except (ValueError, ArgumentError) as error:
        raise find_input_error(error) or error from None


def plain(parser: Any, options: Any) -> Config:
    """The options as plain values that rebuild method and data."""
    text = parser.dump(options, skip_link_targets=False, skip_unset=False)
    content = yaml.safe_load(text)
    return {key: content[key] for key in KEYS}


def find_checkpoint(folder: Path, asked: str | None, overwrite: bool) -> Path | None:
    """Find the checkpoint to resume from; never mix a new run into an old one.

    Args:
        folder: the run's.
        asked: a path, ``"last"`` for the newest of the folder, or None.
        overwrite: whether a run in the folder may be replaced.

    Returns:
        The checkpoint; None for a run from the beginning.

    Raises:
        InputError: the folder holds another run.
    """
    from pytorch_lightning.utilities import rank_zero_only

    from bcl.training.checkpoints import lies_in

    last = folder / "checkpoints" / "last.ckpt"
    own = asked is not None and (asked == "last" or lies_in(asked, last.parent))
    if not own and last.exists() and not overwrite:
        raise InputError(
            f"{folder} holds a run already; resume it with --ckpt_path last, replace it with "
            "--overwrite, or name another folder with --trainer.default_root_dir."
        )
    # A job that its scheduler starts again may have been killed before its first checkpoint.
    if asked == "last" and not any(last.parent.glob("*.ckpt")):
        said = f"No checkpoint in {last.parent} yet: the run starts at its beginning."
        rank_zero_only(print)(said)
        return None
    return last if asked == "last" else None if asked is None else Path(asked)
