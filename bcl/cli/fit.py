"""``bcl fit``: pretrain from a named configuration or a YAML file."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bcl.cli import quiet_lightning
from bcl.cli.configuration import KEYS, Config, compose, find_config, merge
from bcl.cli.messages import option_names, readable_error
from bcl.cli.output import check_seed
from bcl.core.errors import InputError, find_input_error
from bcl.core.files import check_writable

SHORT = {
    "--model.encoder": "--model.encoder.name",
    "--model.pretrained": "--model.encoder.args.pretrained",
}
EXAMPLE = "image_folder/bcl_i"  # whose values the short help shows

HELP = """usage: bcl fit --config NAME|FILE [OPTIONS]

Pretrain an encoder. A configuration names method, data and schedule: one of `bcl configs`, or a
YAML file. Several are merged, and later ones win, as do options. Checkpoints and the run's record
go to outputs/NAME.

  bcl fit --config digits_lt/bcl_i
  bcl fit --config images/bcl_i --data.root DIR          # images without labels
  bcl fit --config image_folder/bcl_i --data.root DIR --trainer.max_epochs 100
  bcl fit --config cifar100_lt/bcl_d --config my.yaml --trainer.devices 4
  bcl fit --config digits_lt/bcl_i --ckpt_path last      # resume after an interrupt
{options}
Values in brackets are those of {name}; `bcl fit --config NAME --help` shows those of
another, `bcl configs NAME` all of its options, `bcl fit --help-all` every option there is."""

# The run's own options: type, default, help.
OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "--seed_everything": (int, 0, "seed of weights, order and views"),
    "--size": (
        int | None,
        None,
        "side of the views in pixels; images are stored in proportion",
    ),
    "--ckpt_path": (str | None, None, "checkpoint to resume from; 'last': the folder's, if any"),
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
    "--watch.images": (int, 2000, "training images that they are measured on"),
    "--history.every_n_epochs": (int | None, None, "epochs between files of all memory values"),
}

# What people set first.
FIRST = {
    "data": {
        "--data.root DIR": "folder of the images",
        "--data.batch_size N": "images per step, over all devices",
        "--data.image_size N": "side of the stored images in pixels",
        "--size N": OPTIONS["--size"][2],
    },
    "method": {
        "--model.encoder NAME": "resnet8, resnet18, resnet50, or any timm model",
        "--model.pretrained true|PATH": "weights to start from: timm's, a file, an export, a run",
        "--model.views.size N": "side of the views in pixels",
        "--model.optimizer.learning_rate X": "peak of the schedule; 0.5 if not configured",
    },
    "training": {
        "--trainer.max_epochs N": "passes over the data",
        "--trainer.devices N": "GPUs or processes; 'auto' for all GPUs",
        "--trainer.precision NAME": "32-true, bf16-mixed, ...",
        "--seed_everything N": OPTIONS["--seed_everything"][2],
    },
    "run": {
        "--name NAME": "its name in reports, and its folder below outputs/",
        "--trainer.default_root_dir DIR": "another folder",
        "--overwrite": "replace a run in the same folder",
        "--ckpt_path FILE|last": OPTIONS["--ckpt_path"][2],
        "--change NAMES": OPTIONS["--change"][2],
        "--save.every_minutes X": OPTIONS["--save.every_minutes"][2],
        "--log NAMES": OPTIONS["--log"][2],
        "--online.every_n_epochs N": OPTIONS["--online.every_n_epochs"][2],
    },
}


def main(arguments: list[str]) -> int:
    """Parse, build and train; returns the exit status."""
    arguments, layers, name = _take_configs(list(_in_full(arguments)))
    config = merge({}, *layers.values())
    if {"-h", "--help"} & set(arguments):
        print(short_help(config or compose(EXAMPLE), name if config else EXAMPLE))
        return 0
    try:
        import jsonargparse  # noqa: F401
    except ImportError:
        raise InputError(
            "`bcl fit` needs jsonargparse; install it with pip install 'bcl-cacr[cli]'."
        ) from None
    from bcl.cli import automatic  # loads Lightning, which help does not need and sets its loggers

    with quiet_lightning():
        config = automatic.complete(layers, arguments, name)
        last = _train(*parse(arguments, config, name))
    if last is not None:
        print(f"Checkpoint: {last}")
    return 0


def _in_full(words: list[str]) -> Iterator[str]:
    """Words with the full names of `SHORT` options; a mapping for an encoder needs none."""
    for word, after in itertools.pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        mapping = (value or after).startswith("{")
        yield word if mapping else SHORT.get(option, option) + equals + value


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
    """The options that people set first, each with its value in a configuration."""
    width = max(len(option) for group in FIRST.values() for option in group)
    lines: list[str] = []
    for title, group in FIRST.items():
        lines += ["", f"{title}:"]
        for option, text in group.items():
            value: Any = config
            for key in option.split()[0].removeprefix("--").split("."):
                value = value if isinstance(value, dict) else {}
                value = value.get(key, (value.get("init_args") or {}).get(key))
            value = value.get("name") if isinstance(value, dict) else value
            shown = "" if value is None else f" [{value}]"
            lines.append(f"  {option:<{width}}  {text}{shown}")
    return HELP.format(options="\n".join([*lines, ""]), name=name)


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
        raise readable_error(str(error), [*parts, *own]) from None
    check_seed(options.seed_everything)
    parts = options.name.split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise InputError(
            f"--name '{options.name}' cannot name a folder below outputs/; choose words such as "
            "digits_lt/bcl_i, and --trainer.default_root_dir for another place."
        )
    if options.trainer.default_root_dir is None:
        options.trainer.default_root_dir = str(Path("outputs", *parts))
    return parser, options


def _train(parser: Any, options: Any) -> Path | None:
    """Build method, data and trainer, and train; returns the last checkpoint on rank 0."""
    import pytorch_lightning as pl
    from jsonargparse import ArgumentError

    from bcl.cli import automatic
    from bcl.models.encoders import without_first_weights
    from bcl.training import FeatureWatch, OnlineProbe
    from bcl.training.changes import check_changes
    from bcl.training.checkpoints import KEY, lies_in, load_method, read_checkpoint
    from bcl.training.fit import fit, make_trainer
    from bcl.training.record import new_record

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
    change = [name.strip() for name in (options.change or "").split(",") if name.strip()]
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
    fit(trainer, built.model, built.data, checkpoint)
    return folder / "checkpoints" / "last.ckpt" if trainer.is_global_zero else None


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
            "--overwrite, or name another folder with --trainer.default_root_dir."
        )
    if asked is None:
        return None
    # A job that its scheduler starts again may have been killed before its first checkpoint.
    if asked == "last" and not any(last.parent.glob("*.ckpt")):
        rank_zero_only(print)(f"No checkpoint in {last.parent} yet: the run starts from scratch.")
        return None
    return last if asked == "last" else Path(asked)
