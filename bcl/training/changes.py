"""What a resumed run may change: nothing that would make it another run, unless it is named."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bcl.core.errors import InputError
from bcl.models.encoders import WEIGHT_ARGUMENTS

# Where things lie and how fast they are, but not what comes out; `load_method` compares encoders.
FREE = frozenset(
    {
        *("seed_everything", "model.seed", "data.seed"),  # compared by themselves
        *(f"model.encoder.args.{name}" for name in WEIGHT_ARGUMENTS),
        *("model.channels_last", "model.encoder.compile", "model.num_samples"),
        *(f"data.{name}" for name in ("root", "path", "cache_dir", "workers", "verify")),
        *(f"data.{name}" for name in ("storage", "memory_limit_gb", "download", "selection.root")),
    }
)
# Of the trainer, what enters the weights. How long a run lasts is its user's, and is noted.
TRAINER = frozenset(
    f"trainer.{name}"
    for name in ("precision", "accumulate_grad_batches", "gradient_clip_val",
                 "gradient_clip_algorithm", "limit_train_batches", "overfit_batches",
                 "sync_batchnorm")
)  # fmt: skip
LENGTH = frozenset({"trainer.max_epochs", "trainer.max_steps"})
# What Lightning takes where nothing is configured.
USUAL = {"trainer.precision": "32-true", "trainer.accumulate_grad_batches": 1}
# The checkpoint's optimizer state is of the old one.
FIXED = ("model.class_path", "model.optimizer.name", "model.optimizer.decay_norm_and_bias")


class Change(NamedTuple):
    """An option whose value differs from that of the run's earlier part."""

    option: str
    old: Any
    new: Any


def changes(saved: Mapping[str, Any], own: Mapping[str, Any]) -> list[Change]:
    """What differs between the configuration in a checkpoint and this run's.

    Options that only one of them has are those of another version of this library.

    Example:
        >>> saved = {"model": {"init_args": {"memory": {"momentum": 0.97}}}, "data": {}}
        >>> changes(saved, {"model": {"init_args": {"memory": {"momentum": 0.9}}}, "data": {}})
        [Change(option='model.memory.momentum', old=0.97, new=0.9)]
    """
    return [each for each in _differences(saved, own, "") if _counts(each.option)]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], above: str) -> Iterator[Change]:
    if old.get("class_path") != new.get("class_path"):  # so are their arguments
        yield Change(f"{above}.class_path", old.get("class_path"), new.get("class_path"))
        return
    for key in old.keys() & new.keys():
        name = above if key == "init_args" else f"{above}.{key}".lstrip(".")
        one, other = (USUAL.get(name) if each[key] is None else each[key] for each in (old, new))
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, name)
        elif one != other:
            yield Change(name, one, other)


def _counts(option: str) -> bool:
    return option in TRAINER | LENGTH or not (option in FREE or option.startswith("trainer."))


def check_changes(
    saved: Mapping[str, Any], own: Mapping[str, Any], allowed: Iterable[str] = ()
) -> list[Change]:
    """What a resumed run changes, in the order of the options.

    Args:
        saved: the configuration in the checkpoint.
        own: this run's.
        allowed: options, or groups of them such as ``model.optimizer``, that may change.

    Raises:
        InputError: another option differs, or one that cannot change within a run.

    Example:
        >>> saved, own = {"data": {"image_size": 32}}, {"data": {"image_size": 64}}
        >>> check_changes(saved, own, allowed=["data.image_size"])
        [Change(option='data.image_size', old=32, new=64)]
    """
    allowed = [name.removeprefix("--").replace(".init_args", "") for name in allowed]
    for name in allowed:
        if not any(_within(option, name) for option in (*_options(saved), *_options(own))):
            raise InputError(
                f"--change {name} is no option of this run's configuration; write it as `bcl "
                "configs NAME` lists it, such as model.optimizer.learning_rate."
            )
    found = sorted(changes(saved, own))
    for option, old, new in found:
        if option in FIXED:
            raise InputError(
                f"the run was started with {option} {old!r} and cannot go on with {new!r}; start a "
                "new one from its weights: --model.pretrained RUN."
            )
        if option not in LENGTH and not any(_within(option, name) for name in allowed):
            raise InputError(
                f"the run was started with --{option} {old!r}, asked for is {new!r}; resume it as "
                f"it was started, or add --change {option}."
            )
    return found


def _within(option: str, name: str) -> bool:
    return f"{option}.".startswith(f"{name}.")


def _options(config: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """All options of a configuration by name, without ``init_args``."""
    for key, value in config.items():
        name = above if key == "init_args" else f"{above}.{key}".lstrip(".")
        yield name
        if isinstance(value, Mapping):
            yield from _options(value, name)
