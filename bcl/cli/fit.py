"""``bcl fit``: pretraining, every option typed and documented by LightningCLI."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bcl.cli.configuration import KEYS, Config, find_config, merge
from bcl.cli.messages import readable_error
from bcl.cli.output import check_seed
from bcl.cli.quiet import quiet_lightning
from bcl.core.errors import InputError, find_input_error
from bcl.core.files import check_writable

EXAMPLES = """Pretrain from a named configuration (`bcl configs` lists them) or a YAML file.

examples:
  bcl fit --config digits_lt/bcl_i
  bcl fit --config image_folder/bcl_i --data.root DIR --trainer.max_epochs 3
  bcl fit --config my.yaml --ckpt_path last
"""


def main(arguments: list[str]) -> int:
    """Parse, build and train.

    Args:
        arguments: the words after ``bcl fit``.

    Returns:
        The exit status.

    Raises:
        InputError: bad configuration, option or checkpoint.
    """
    try:
        import jsonargparse  # noqa: F401
    except ImportError:
        raise InputError(
            "`bcl fit` needs jsonargparse; install it with pip install 'bcl-cacr[cli]'."
        ) from None
    from bcl.training.fit import fit

    arguments, config, name = _resolve_configs(arguments)
    with quiet_lightning():
        with _program_name("bcl fit"):
            cli = _build(arguments, config, name)
        _check_launch(cli.trainer, bool(cli.config.trainer.sync_batchnorm))
        resume, step = _checkpoint(cli)
        if cli.config.log:
            _add_loggers(cli, step)
        fit(cli.trainer, cli.model, cli.datamodule, resume)
    last = Path(cli.trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    if cli.trainer.is_global_zero:
        print(f"Checkpoint: {last}")
    return 0


def _resolve_configs(arguments: list[str]) -> tuple[list[str], Config, str]:
    """Take the ``--config`` options out, compose what they name, and name the run after them."""
    rest: list[str] = []
    configs: list[Config] = []
    names: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in {"--config", "-c"}:
            rest.append(word)
            continue
        if not equals:
            value = next(words, "")
        if not value:
            raise InputError("--config needs a name or a file; `bcl configs` lists the names.")
        configs.append(find_config(value))
        names.append(Path(value).stem if value.endswith((".yaml", ".yml")) else value)
    return rest, merge({}, *configs), names[-1] if names else "run"


@contextlib.contextmanager
def _program_name(name: str) -> Iterator[None]:
    """Let the parser's usage line say ``bcl fit``; LightningCLI also warns of foreign arguments."""
    old = sys.argv
    sys.argv = [name]
    try:
        yield
    finally:
        sys.argv = old


def _build(arguments: list[str], config: Config, name: str) -> Any:
    import pytorch_lightning as pl
    from jsonargparse import ArgumentError
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

    from bcl.training import HistoryWriter, LogHistory, OnlineProbe
    from bcl.training.callbacks import DataNotes, in_terminal, run_callbacks
    from bcl.training.checkpoints import AtomicCheckpointIO
    from bcl.training.fit import new_record

    class FitCLI(LightningCLI):
        """Adds the run's own options, its record and its atomic checkpoints."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_argument("--name", type=str, default=name, help="the run's name in reports")
            parser.add_argument(
                "--ckpt_path",
                type=str | None,
                default=None,
                help="checkpoint to resume from; 'last': the newest of the run's folder, or the "
                "beginning while there is none",
            )
            parser.add_argument(
                "--save.every_n_epochs", type=int, default=1, help="epochs between checkpoints"
            )
            parser.add_argument(
                "--save.every_n_steps",
                type=int | None,
                default=None,
                help="optimizer steps between checkpoints within an epoch",
            )
            parser.add_argument(
                "--save.every_minutes",
                type=float | None,
                default=None,
                help="minutes between checkpoints within an epoch",
            )
            parser.add_argument(
                "--log",
                type=str | list[str] | None,
                default=None,
                help="loggers, of csv, tensorboard and wandb with commas between; files go to the "
                "run's folder",
            )
            parser.add_argument(
                "--online.every_n_epochs",
                type=int | None,
                default=None,
                help="epochs between measurements of an online linear probe and nearest neighbors",
            )
            parser.add_argument(
                "--online.neighbors", type=int, default=10, help="nearest neighbors; 0 for none"
            )
            parser.add_argument(
                "--online.learning_rate", type=float, default=1e-3, help="of the online head's Adam"
            )
            parser.add_argument(
                "--history.every_n_epochs",
                type=int | None,
                default=None,
                help="epochs between files of all momentum losses and scores, below tracker/",
            )
            parser.add_argument(
                "--overwrite", action="store_true", help="replace a run in the same folder"
            )
            parser.link_arguments("seed_everything", "model.init_args.seed")
            parser.link_arguments("seed_everything", "data.init_args.seed")

        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            try:
                super().parse_arguments(parser, args)
            except ArgumentError as error:
                options = [name for action in parser._actions for name in action.option_strings]
                raise readable_error(str(error), options) from None
            check_seed(self.config.seed_everything)
            _check_name(self.config.name)

        def instantiate_classes(self) -> None:
            try:
                super().instantiate_classes()
            except InputError:
                raise
            except (ValueError, ArgumentError) as error:
                raise find_input_error(error) or error from None

        def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
            settings = self.config.trainer
            if settings.default_root_dir is None:
                settings.default_root_dir = str(Path("outputs", *self.config.name.split("/")))
            folder = Path(settings.default_root_dir)
            check_writable(folder, "--trainer.default_root_dir")
            self._dump_config()
            config = {key: self.config_dump[key] for key in KEYS}
            seed = self.config.seed_everything
            record = new_record(self.config.name, self.model, seed, config)
            progress = settings.enable_progress_bar is not False
            intervals = vars(self.config.save)
            callbacks = [
                DataNotes(),
                *run_callbacks(record, folder, progress, **intervals),
            ]
            if self.config.history.every_n_epochs is not None:
                every = self.config.history.every_n_epochs
                anew = not _is_own(self.config.ckpt_path, folder)
                callbacks.append(HistoryWriter(folder / "tracker", every, anew))
            if self.config.online.every_n_epochs is not None:
                callbacks.append(OnlineProbe(**vars(self.config.online)))
            log = [LogHistory()] if self.config.log or settings.logger else []
            defaults = {
                "default_root_dir": settings.default_root_dir,
                "plugins": [AtomicCheckpointIO(), *_listed(self.config_init.trainer.plugins)],
                "callbacks": [*callbacks, *_listed(self.config_init.trainer.callbacks), *log],
                "enable_progress_bar": progress and in_terminal(),
                # The datamodule's loader shares each global batch between the ranks itself.
                "use_distributed_sampler": False,
            }
            try:
                return super().instantiate_trainer(**{**kwargs, **defaults})
            except InputError:
                raise
            except (MisconfigurationException, ValueError) as error:
                cause = " ".join(str(error).split()).rstrip(".")
                raise InputError(
                    f"trainer: {cause}; `bcl fit --help` lists what each option takes."
                ) from None

    return FitCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        save_config_callback=None,
        seed_everything_default=0,
        # An abbreviated option would be accepted silently, and so would many a misspelt one.
        parser_kwargs={"exit_on_error": False, "allow_abbrev": False, "description": EXAMPLES},
        subclass_mode_model=True,
        subclass_mode_data=True,
        args=["--config", yaml.safe_dump(config), *arguments] if config else arguments,
        run=False,
        auto_configure_optimizers=False,
    )


def _check_launch(trainer: Any, sync_batchnorm: bool = False) -> None:
    """Refuse a launcher's processes that the trainer would let train each by itself."""
    started, here = _started()
    wanted = trainer.num_devices * trainer.num_nodes
    if sync_batchnorm and wanted > 1 and trainer.strategy.root_device.type == "cpu":
        raise InputError(
            "torch has no SyncBatchNorm for CPU ranks; leave --trainer.sync_batchnorm out (each "
            "rank then normalizes by its own share), or train on GPUs."
        )
    if started in (1, wanted):
        return
    nodes = max(started // here, 1)
    raise InputError(
        f"the launcher started {started} processes, but the trainer is set for {wanted}; add "
        f"--trainer.devices {here}" + (f" --trainer.num_nodes {nodes}." if nodes > 1 else ".")
    )


def _started() -> tuple[int, int]:
    """Processes that torchrun or srun started: all, and those of this node."""
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    total = int(os.environ.get("WORLD_SIZE") or 1)
    if total == 1 and SLURMEnvironment.detect():
        total = int(os.environ.get("SLURM_NTASKS") or 1)
        return total, max(total // int(os.environ.get("SLURM_NNODES") or 1), 1)
    return total, int(os.environ.get("LOCAL_WORLD_SIZE") or total)


def _check_name(name: str) -> None:
    """A run's name is also its place below outputs/, and stays there."""
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise InputError(
            f"--name '{name}' cannot name a folder below outputs/; take words such as "
            "digits_lt/bcl_i, and --trainer.default_root_dir for another place."
        )


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _add_loggers(cli: Any, step: int | None) -> None:
    """Give the trainer the run's loggers, which must know where a resumed run goes on."""
    from bcl.training import run_loggers
    from bcl.training.callbacks import RunRecorder

    record = next(c.record for c in cli.trainer.callbacks if isinstance(c, RunRecorder))
    folder = cli.trainer.default_root_dir
    cli.trainer.loggers = [*cli.trainer.loggers, *run_loggers(cli.config.log, folder, record, step)]


def _checkpoint(cli: Any) -> tuple[str | None, int | None]:
    """Find the checkpoint to resume from; never mix a new run into an old one.

    Returns:
        The checkpoint, and its step where the run's own files go on from there.
    """
    folder = Path(cli.trainer.default_root_dir)
    last = folder / "checkpoints" / "last.ckpt"
    asked = cli.config.ckpt_path
    path = last if asked == "last" else Path(asked or "")
    own = _is_own(asked, folder)
    if not own and last.exists() and not cli.config.overwrite:
        raise InputError(
            f"{folder} holds a run already; resume it with --ckpt_path last, replace it with "
            "--overwrite, or name another folder with --trainer.default_root_dir."
        )
    if asked is None:
        return None, None
    # A job that its scheduler starts again may have been killed before its first checkpoint.
    if asked == "last" and not any(last.parent.glob("*.ckpt")):
        if cli.trainer.is_global_zero:
            print(f"No checkpoint in {last.parent} yet: the run starts at its beginning.")
        return None, None
    from bcl.training.checkpoints import load_method, read_checkpoint

    content = read_checkpoint(path)
    if "optimizer_states" not in content:
        raise InputError(
            f"{path} holds weights without an optimizer, as `bcl import` writes them; it can be "
            "probed and exported, not resumed."
        )
    load_method(cli.model, content, path)
    # The loggers' files in the folder are this run's only if the checkpoint is.
    return str(path), int(content["global_step"]) if own else None


def _is_own(asked: str | None, folder: Path) -> bool:
    """Whether the checkpoint that was asked for is one of the run in this folder."""
    from bcl.training.saving import lies_in

    return asked == "last" or (asked is not None and lies_in(asked, folder / "checkpoints"))
