"""What ``images/METHOD`` chooses by the images and the machine, unless it is given."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning.utilities import rank_zero_only

from bcl.cli.configuration import Config, compose, merge
from bcl.core.errors import InputError
from bcl.core.machine import fast_bf16, usable_cores
from bcl.models.encoders import native_size
from bcl.models.weights import open_weights

RECIPE = "images/"
SIZES = (32, 64, 96, 128)  # of views, below 224
PRETRAINED = "model.encoder.args.pretrained"
RATE = "model.optimizer.learning_rate"
NUMBERS = ("size", "model.views.size", "data.image_size", "data.batch_size", RATE)
SMALLEST = 8  # side of the views that a command trains on
LARGE = 160  # from this size on, images are treated as ImageNet's


def given(words: Sequence[str]) -> dict[str, Any]:
    """Options of a command line by name, without ``init_args``, with their values.

    Example:
        >>> given(["--data.init_args.root", "a b", "--size=64", "--overwrite"])
        {'data.root': 'a b', 'size': 64, 'overwrite': None}
    """
    found: dict[str, Any] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].replace(".init_args.", ".").partition("=")
            found[name] = yaml.safe_load(value) if value else None
        elif name is not None:
            found[name] = yaml.safe_load(word)
    return found


def leaves(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Options of a configuration by name, without ``init_args``, with their values."""
    for key, value in config.items():
        name = above if key == "init_args" else f"{above}.{key}".lstrip(".")
        if isinstance(value, Mapping):
            yield from leaves(value, name)
        else:
            yield name, value


def sizes(view: int, image: int) -> Config:
    """Sides of the views and of the stored images in a configuration."""
    return {
        "model": {"init_args": {"views": {"init_args": {"size": view}}}},
        "data": {"init_args": {"image_size": image}},
    }


def resized(config: Config, size: int) -> Config:
    """A configuration for views of another size; the stored images keep their proportion to it."""
    known = dict(leaves(config))
    changes = sizes(size, size)
    image = known.get("data.image_size")
    if image is None:  # the data set's own
        del changes["data"]
    else:
        changes = sizes(size, round(image * size / known.get("model.views.size", image)))
    return merge(config, changes)


def choose(name: str, settled: Mapping[str, Any]) -> tuple[Config, str]:
    """Choose size, encoder, batch, workers and precision of ``images/METHOD``.

    Args:
        name: of the configuration.
        settled: what other files and options say, by name; the choices go with it.

    Returns:
        What to merge into the configuration, and two lines about it.

    Raises:
        InputError: no root, or one without images.
    """
    from datamodules import ImageCollection

    settled = {name: _number(name, x) if name in NUMBERS else x for name, x in settled.items()}
    root = settled.get("data.root")
    if root is None:
        raise InputError(f"{name} needs your images: --data.root DIR (a folder, archive or list).")
    column = settled.get("data.path_column", "path")
    collection = ImageCollection(root, path_column=column, cache_dir=settled.get("data.cache_dir"))
    images, side = collection.glimpse()
    accelerator = settled.get("trainer.accelerator", "auto")
    gpu = torch.cuda.is_available() and accelerator != "cpu"
    pretrained = settled.get(PRETRAINED)
    encoder = settled.get("model.encoder.name")
    if encoder is None and pretrained is True:
        encoder = "resnet50" if gpu else "resnet10t"
    view = settled.get("size") or settled.get("model.views.size")
    view = view or native_size(encoder or "", pretrained) or usual_size(side, gpu)
    stored = settled.get("data.image_size", view if side <= view else round(view * 8 / 7))
    devices = settled.get("trainer.devices", 1)
    if not isinstance(devices, int) or devices < 1:
        devices = torch.cuda.device_count() if gpu else 1
    # The methods' values for large images are those of ImageNet-LT.
    model = compose(f"imagenet_lt/{name.removeprefix(RECIPE)}" if view >= LARGE else name)
    usual = dict(leaves(model))
    most = usual["data.batch_size"] if not gpu else batch_that_fits(view)
    batch = settled.get("data.batch_size") or usual_batch(images, most, devices)
    rate = usual.get("model.optimizer.learning_rate", 0.5)
    rate = float(f"{rate * min(batch / usual['data.batch_size'], 1):.2g}")
    small = ("resnet18" if view < LARGE else "resnet50") if gpu else "resnet8"
    encoder = encoder or (small if gpu or view <= 64 else "resnet10t")
    half = torch.cuda.get_device_capability()[0] >= 8 if gpu else fast_bf16()
    workers = max(usable_cores() // devices, 1)
    chosen: Config = {
        "model": {
            "init_args": {
                "encoder": {"name": encoder},
                "optimizer": {"learning_rate": rate},
            }
        },
        "data": {"init_args": {"batch_size": batch, "workers": workers}},
        "trainer": {"precision": "bf16-mixed" if half else "32-true"},
    }
    if queue := usual.get("model.teacher.queue_size"):  # no more keys than images
        queue = min(queue, 2 ** max(images.bit_length() - 1, 4))
        chosen["model"]["init_args"]["teacher"] = {"queue_size": queue}
    chosen = merge({"model": model["model"]}, sizes(view, stored), chosen)
    found = {**dict(leaves(chosen)), **settled}
    where = torch.cuda.get_device_name() if gpu else f"{usable_cores()} CPU cores"
    lines = (
        f"{root}: {images:,} images, shorter side {side} px (median); {where}\n"
        f"chosen: {view} px (decoded to {stored}), {encoder}, batch {batch}, learning rate "
        f"{found['model.optimizer.learning_rate']:g}, {found['data.workers']} workers, "
        f"{found['trainer.precision']}"
    )
    return chosen, lines


def _number(name: str, value: Any) -> Any:
    """An option's number; YAML 1.1 takes ``1e-3`` for a word."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        raise InputError(f"--{name}: expected a number, got '{value}'.") from None


def _check_size(option: str, size: Any) -> None:
    """Refuse a side of which no encoder learns anything; a list of two is left to the views."""
    if size is None or isinstance(size, list):
        return
    if not isinstance(size, int) or size < SMALLEST:
        raise InputError(
            f"--{option} must be a side in pixels, an integer of at least {SMALLEST}, got {size!r}."
        )


def usual_size(side: int, gpu: bool) -> int:
    """Side of the views for images of a median shorter side; at most 64 px without a GPU."""
    if side >= LARGE and gpu:
        return 224
    fits = [size for size in SIZES if size <= 1.25 * side and (gpu or size <= 64)]
    return max(fits, default=SIZES[0])


def usual_batch(images: int, most: int, devices: int) -> int:
    """A power of two that leaves 16 steps per epoch, between 32 and ``most``; all of a few."""
    wanted = 2 ** max(int(images / 16).bit_length() - 1, 5)
    batch = min(wanted, most, images)
    return int(max(batch // devices, 1) * devices)


def batch_that_fits(view: int) -> int:
    """The largest batch of a ResNet on this GPU."""
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    if view < LARGE:
        return 512 if memory > 16 else 256
    return next((batch for least, batch in ((38, 256), (20, 128)) if memory > least), 64)


def complete(layers: Mapping[str, Config], words: Sequence[str], name: str) -> Config:
    """Merge configurations, by name or file, with ``--size`` and what ``images/METHOD`` chooses.

    Args:
        layers: the configurations; later ones win.
        words: the other words of the command line.
        name: of the run, if none is given.
    """
    options, config = given(words), Config()
    every = dict(leaves(merge({}, *layers.values()))) | options
    for option in ("size", "model.views.size", "data.image_size"):
        _check_size(option, every.get(option))
    recorded = _recorded(every, name)
    start = _start(every.get(PRETRAINED), recorded)
    for place, (source, layer) in enumerate(layers.items(), 1):
        config = merge(config, layer)
        if source.startswith(RECIPE):
            settled = dict(leaves(merge({}, *list(layers.values())[place:], start))) | options
            chosen, about = recorded, "going on with what the run chose"
            if not chosen:
                chosen, about = choose(source, settled)
            rank_zero_only(print)(about, flush=True)
            config = merge(config, chosen)
    if start:  # with its arguments, not those of the encoder that it replaces
        config = merge(config, {"model": {"init_args": {}}})
        config["model"]["init_args"].pop("encoder", None)
        config = merge(config, start)
    size = options.get("size") or config.get("size")
    return resized(config, size) if size else config


def _start(source: Any, recorded: Config) -> Config:
    """The encoder of a run that is resumed, or of the export or run whose weights are the first."""
    encoder = None
    if source and recorded:
        encoder = recorded["model"]["init_args"]["encoder"]
    elif isinstance(source, str) and (spec := open_weights(source).spec):
        arguments = {key: value for key, value in spec.items() if key not in ("name", "image_size")}
        encoder = {"name": spec["name"], "args": {**arguments, "pretrained": source}}
    return {"model": {"init_args": {"encoder": encoder}}} if encoder else {}


def settle(model: Config, encoder: Any) -> None:
    """Write into a configuration how an encoder was built and normalized by its first weights.

    So its checkpoints open, and resume, without the weights.
    """
    part = (model.get("init_args") or {}).get("encoder")
    arguments = part.get("args") if isinstance(part, dict) else None
    if arguments and arguments.get("pretrained"):
        built = {key: v for key, v in encoder.spec.items() if key not in ("name", "image_size")}
        arguments |= {**built, "mean": list(encoder.mean), "std": list(encoder.std)}


def _recorded(settled: Mapping[str, Any], name: str) -> Config:
    """What a run that is resumed chose; nothing if none is, or it has no checkpoint yet."""
    from bcl.training.checkpoints import KEY, checkpoint_file, read_checkpoint

    asked = settled.get("ckpt_path")
    if not asked:
        return {}
    folder = settled.get("trainer.default_root_dir") or Path("outputs", settled.get("name", name))
    path = checkpoint_file(folder if asked == "last" else asked)
    if not path.is_file():
        return {}
    saved = read_checkpoint(path)[KEY]["record"].get("config")
    try:
        config: Config = {key: saved[key] for key in ("model", "data")}
        config["model"]["init_args"].pop("seed", None)  # the run's, not the method's
        trainer = {k: v for k, v in saved["trainer"].items() if k == "precision"}
    except (KeyError, TypeError, AttributeError):  # of another program, which is refused later
        return {}
    return config | ({"trainer": trainer} if trainer else {})
