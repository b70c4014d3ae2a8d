"""Encoders as folders that timm and the Hugging Face hub know: weights and ``config.json``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bcl.core.errors import InputError
from bcl.core.files import atomic_write, write_text
from bcl.models.encoders import FIRST_WEIGHTS, create_encoder, encoder_spec

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
# What timm's own name cannot build, it builds by this one, which importing this module registers.
ARCHITECTURE = "bcl_encoder"


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise InputError(
            "safetensors is not installed; install it with pip install 'bcl-cacr[hub]'."
        ) from None
    return safetensors


def save_encoder(
    encoder: nn.Module,
    folder: str | Path,
    mean: Sequence[float],
    std: Sequence[float],
    about: dict[str, Any] | None = None,
) -> int:
    """Write an encoder as ``model.safetensors`` and a ``config.json`` in timm's format.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` builds it again with the same
    features, for images in [0, 1] from which ``mean`` was taken and that were divided by ``std``.
    timm has no arguments for a ResNet's stem for small images, nor the small networks of this
    library: for those ``architecture`` is ``bcl_encoder``, which timm knows once
    ``bcl.models.exported`` was imported. `load_encoder` opens both kinds.

    Args:
        encoder: from `bcl.create_encoder`.
        folder: where the two files are written; made if need be.
        mean: per channel, of images in [0, 1].
        std: likewise.
        about: plain values kept under ``"bcl"``, such as where the weights came from.

    Returns:
        How many tensors were written.

    Raises:
        InputError: an encoder of other making, arguments that JSON cannot hold, or no safetensors.
    """
    safetensors = _safetensors()
    spec = encoder_spec(encoder)
    if spec is None:
        raise InputError(
            f"the encoder, {type(encoder).__name__}, was not built by bcl.create_encoder, so a "
            "folder cannot say how to build it again; save its state_dict yourself."
        )
    try:
        json.dumps(spec)
    except TypeError as error:
        raise InputError(f"the encoder's arguments cannot be written: {error}.") from None
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()
    }
    config = encoder_config(encoder, spec, mean, std, about or {})
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    atomic_write(place / WEIGHTS, lambda file: file.write(content))
    write_text(place / CONFIG, json.dumps(config, indent=2) + "\n")
    return len(tensors)


def encoder_config(
    encoder: nn.Module,
    spec: dict[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Contents of ``config.json``: timm's keys, and under ``"bcl"`` what `load_encoder` reads."""
    import timm

    arguments = {
        key: value
        for key, value in spec.items()
        if key not in ("name", "image_size", "small_stem", "in_channels")
    }
    by_timm = timm.is_model(spec["name"]) and not spec["small_stem"]
    model_args = {"in_chans": spec["in_channels"], **arguments} if by_timm else {"spec": spec}
    known: dict[str, Any] = dict(getattr(encoder, "pretrained_cfg", None) or {})
    size = spec["image_size"]
    return {
        "architecture": spec["name"] if by_timm else ARCHITECTURE,
        "num_classes": 0,
        "num_features": encoder.num_features,
        "model_args": model_args,
        "pretrained_cfg": {
            "tag": "bcl",
            "custom_load": False,
            "input_size": [spec["in_channels"], size, size],
            "fixed_input_size": bool(known.get("fixed_input_size", False)),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(mean),
            "std": list(std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": known.get("first_conv") if by_timm else None,
            "classifier": known.get("classifier") if by_timm else None,
        },
        "bcl": {"encoder": spec, "mean": list(mean), "std": list(std), **about},
    }


def load_encoder(folder: str | Path) -> nn.Module:
    """Open a folder that `bcl export` or `bcl import` wrote.

    Every tensor of the folder must have its place in the encoder and every place its tensor.

    Args:
        folder: with ``model.safetensors`` and ``config.json``.

    Returns:
        The encoder in evaluation mode: normalized images (B, 3, H, W) to features (B, D). Its
        attributes ``mean`` and ``std``, tuples per channel, normalize images in [0, 1];
        ``num_tensors`` says how many tensors were loaded.

    Raises:
        InputError: no such folder, damaged or foreign files, tensors that do not fit, or no
            safetensors.

    Example:
        >>> import tempfile, torch
        >>> place = tempfile.mkdtemp()
        >>> save_encoder(create_encoder("resnet8", 16), place, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
        54
        >>> load_encoder(place)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 64])
    """
    config = read_config(folder)
    spec = config["bcl"]["encoder"]
    if not isinstance(spec, dict) or set(FIRST_WEIGHTS) & spec.keys():
        raise InputError(
            f"{Path(folder) / CONFIG} was not written by this library: its encoder names other "
            "weights or none that can be built; export it again."
        )
    tensors = _read_tensors(Path(folder) / WEIGHTS)
    try:
        encoder = create_encoder(**spec)
    except TypeError as error:
        raise InputError(f"{Path(folder) / CONFIG}: {error}.") from None
    load_strictly(encoder, tensors, folder)
    encoder.mean = tuple(config["bcl"]["mean"])  # type: ignore[assignment]
    encoder.std = tuple(config["bcl"]["std"])  # type: ignore[assignment]
    encoder.num_tensors = len(tensors)  # type: ignore[assignment]
    return encoder.eval()


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], source: str | Path) -> None:
    """Load tensors that must map one to one onto a module's; the error names those that do not.

    Args:
        module: takes the tensors.
        tensors: by name.
        source: where they came from, for the error.

    Raises:
        InputError: missing, unknown or misshapen tensors.
    """
    own = module.state_dict()
    wrong = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - own.keys()),
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in tensors and own[name].shape != tensors[name].shape
        ],
    }
    found = [
        f"{len(names)} {what} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
        for what, names in wrong.items()
        if names
    ]
    if found:
        raise InputError(
            f"{source}: the tensors do not map one to one onto {type(module).__name__}: "
            f"{'; '.join(found)}. Nothing was loaded."
        )
    module.load_state_dict(tensors)


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read the ``config.json`` of an exported folder.

    Args:
        folder: the folder.

    Returns:
        Its content, with the keys of `save_encoder` under ``"bcl"``.

    Raises:
        InputError: it is missing, no JSON, or not of this library.
    """
    path = Path(folder) / CONFIG
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; name a folder that `bcl export` wrote."
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.") from None
    ours = config.get("bcl") if isinstance(config, dict) else None
    if not isinstance(ours, dict) or not {"encoder", "mean", "std"} <= ours.keys():
        raise InputError(
            f"{path} has no 'bcl' section, so another program wrote it; open it with "
            f'timm.create_model("local-dir:{folder}", pretrained=True).'
        )
    return config  # type: ignore[no-any-return]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    safetensors = _safetensors()
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}.") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is damaged: {error}; export it again.") from None
    return tensors


def bcl_encoder(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Entry point of timm for the encoders that timm's own names cannot build.

    Args:
        pretrained: load the weights of the folder that ``pretrained_cfg`` names.
        arguments: ``spec``, the arguments of `create_encoder`, and timm's own; of these
            ``num_classes`` puts a new linear classifier behind the features.

    Returns:
        The encoder, behind it a classifier if there is one.

    Raises:
        InputError: built by its name alone.
    """
    spec, source = arguments.get("spec"), arguments.get("pretrained_cfg") or {}
    if not isinstance(spec, dict):
        raise InputError(
            f'{ARCHITECTURE} is built from a folder: timm.create_model("local-dir:DIR", '
            "pretrained=True)."
        )
    values = dict(source if isinstance(source, dict) else vars(source))
    if values.get("input_size"):
        values["input_size"] = tuple(values["input_size"])
    if pretrained:
        encoder = load_encoder(values["file"])
        encoder.train()
    else:
        encoder = create_encoder(**spec)
    encoder.pretrained_cfg = encoder.default_cfg = values  # type: ignore[assignment]
    classes = arguments.get("num_classes")
    if not classes:
        return encoder
    model = nn.Sequential()
    model.add_module("encoder", encoder)
    model.add_module("classifier", nn.Linear(encoder.num_features, classes))  # type: ignore[arg-type]
    model.pretrained_cfg = model.default_cfg = values  # type: ignore[assignment]
    return model


def _register() -> None:
    import timm
    from timm.models import register_model

    if not timm.is_model(ARCHITECTURE):
        register_model(bcl_encoder)


_register()
