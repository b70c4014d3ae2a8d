"""Encoders as folders of weights and ``config.json`` that timm and the Hugging Face hub know."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models import register_model
from torch import nn

from bcl.core.errors import InputError
from bcl.core.files import atomic_write, write_text
from bcl.models.encoders import create_encoder, encoder_spec, without_first_weights
from bcl.models.weights import (
    CONFIG,
    WEIGHTS,
    load_strictly,
    need_safetensors,
    read_config,
    read_safetensors,
)

ARCHITECTURE = "bcl_encoder"  # what timm calls encoders that its own names cannot build


def save_encoder(
    encoder: nn.Module,
    folder: str | Path,
    mean: Sequence[float],
    std: Sequence[float],
    about: dict[str, Any] | None = None,
) -> int:
    """Write an encoder of `create_encoder` as a folder in timm's format; return how many tensors.

    `load_encoder` and ``timm.create_model("local-dir:FOLDER", pretrained=True)`` build it again.
    timm has no arguments for a ResNet with a small stem, nor this library's small networks: their
    ``architecture`` is ``bcl_encoder``, which timm knows after ``import bcl.models.exported``.
    ``mean`` and ``std`` are per channel, of images in [0, 1]; ``about`` holds plain values, such as
    where the weights came from.
    """
    safetensors = need_safetensors()
    spec = encoder_spec(encoder)
    if spec is None:
        raise InputError(
            f"the encoder, {type(encoder).__name__}, was not built by bcl.create_encoder, so no "
            "folder can describe it; save its state_dict yourself."
        )
    config = _config(encoder, spec, {"mean": list(mean), "std": list(std)}, about or {})
    try:
        text = json.dumps(config, indent=2)
    except TypeError as error:
        raise InputError(f"the encoder's arguments cannot be written as JSON: {error}.") from None
    tensors = {key: value.cpu().contiguous() for key, value in encoder.state_dict().items()}
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    atomic_write(Path(folder) / WEIGHTS, lambda file: file.write(content))
    write_text(Path(folder) / CONFIG, text + "\n")
    return len(tensors)


def _config(
    encoder: nn.Module, spec: dict[str, Any], images: dict[str, Any], about: dict[str, Any]
) -> dict[str, Any]:
    """Fill in timm's keys, and under ``"bcl"`` what `load_encoder` reads."""
    own = ("name", "image_size", "small_stem", "in_channels")
    arguments = {key: value for key, value in spec.items() if key not in own}
    by_timm = timm.is_model(spec["name"]) and not spec["small_stem"]
    known: dict[str, Any] = dict(getattr(encoder, "pretrained_cfg", None) or {})
    return {
        "architecture": spec["name"] if by_timm else ARCHITECTURE,
        "num_classes": 0,
        "num_features": encoder.num_features,
        "model_args": {"in_chans": spec["in_channels"], **arguments} if by_timm else {"spec": spec},
        "pretrained_cfg": {
            "tag": "bcl",
            "custom_load": False,
            "input_size": [spec["in_channels"], spec["image_size"], spec["image_size"]],
            "fixed_input_size": bool(known.get("fixed_input_size", False)),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            **images,
            "num_classes": 0,
            "pool_size": None,
            "first_conv": known.get("first_conv") if by_timm else None,
            "classifier": known.get("classifier") if by_timm else None,
        },
        "bcl": {"encoder": spec, **images, **about},
    }


def load_encoder(folder: str | Path) -> nn.Module:
    """Open a folder that `bcl export` or `bcl import` wrote.

    The folder's tensors and the encoder's must match one to one.

    Args:
        folder: holds ``model.safetensors`` and ``config.json``.

    Returns:
        The encoder in evaluation mode: normalized images (B, 3, H, W) to features (B, D). Its
        attributes ``mean`` and ``std``, tuples per channel, normalize images in [0, 1];
        ``num_tensors`` says how many tensors were loaded.

    Raises:
        InputError: no such folder, damaged or foreign files, tensors that do not fit, or
            safetensors is not installed.

    Example:
        >>> import tempfile, torch
        >>> place = tempfile.mkdtemp()
        >>> save_encoder(create_encoder("resnet8", 16), place, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
        54
        >>> load_encoder(place)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 64])
    """
    ours = read_config(folder)["bcl"]
    spec = ours["encoder"]
    if not isinstance(spec, dict) or without_first_weights(spec) != spec:
        raise InputError(
            f"{Path(folder) / CONFIG}: its encoder names other weights; export it again."
        )
    tensors = read_safetensors(Path(folder) / WEIGHTS)
    try:  # its arguments are arbitrary values
        encoder: Any = create_encoder(**spec)
        mean, std = (tuple(map(float, ours[key])) for key in ("mean", "std"))
        channels = len(mean) == len(std) == encoder.spec["in_channels"]
        if not channels or not all(map(math.isfinite, mean + std)) or not all(std):
            raise ValueError(f"mean {list(mean)} and std {list(std)}")
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{Path(folder) / CONFIG}: its encoder cannot be built: {error!r:.200}; export it anew."
        ) from error
    load_strictly(encoder, tensors, folder)
    encoder.mean, encoder.std = mean, std
    encoder.num_tensors = len(tensors)
    return encoder.eval()  # type: ignore[no-any-return]


def bcl_encoder(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build, for timm, an encoder that timm's own names cannot build.

    ``arguments`` are timm's and ``spec``, those of `create_encoder`. ``pretrained`` loads the
    folder that ``pretrained_cfg`` names; ``num_classes`` adds a new linear classifier.
    """
    spec = arguments.get("spec")
    if not isinstance(spec, dict):
        raise InputError(
            f'{ARCHITECTURE} is built from a folder: timm.create_model("local-dir:DIR", '
            "pretrained=True)."
        )
    given = arguments.get("pretrained_cfg") or {}
    values = dict(given if isinstance(given, dict) else vars(given))
    if values.get("input_size"):
        values["input_size"] = tuple(values["input_size"])
    model: Any = load_encoder(values["file"]).train() if pretrained else create_encoder(**spec)
    if classes := arguments.get("num_classes"):
        encoder, model = model, nn.Sequential()
        model.add_module("encoder", encoder)
        model.add_module("classifier", nn.Linear(encoder.num_features, classes))
    model.pretrained_cfg = model.default_cfg = values
    return model  # type: ignore[no-any-return]


if not timm.is_model(ARCHITECTURE):
    register_model(bcl_encoder)
