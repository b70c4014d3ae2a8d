"""Encoders by name: timm's models and small networks for small images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bcl.core.errors import InputError, unknown_name
from bcl.models.released import NORMALIZATIONS
from bcl.models.small import SmallAlexNet, SmallResNet
from bcl.models.weights import FirstWeights, hub_in_time, load_weights, open_weights

SMALL_IMAGE = 64  # pixels: up to here a ResNet gets the 3×3 stem of the CIFAR papers
SMALL_RESNETS = {"resnet8": 8, "resnet14": 14, "resnet20": 20}  # name: depth
# Arguments of timm that say where the initial weights come from, not what is built.
WEIGHT_ARGUMENTS = (
    "pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"
)  # fmt: skip


def create_encoder(
    name: str = "resnet18",
    image_size: int = 32,
    *,
    small_stem: bool | None = None,
    in_channels: int = 3,
    pretrained: bool | str | Path = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **arguments: Any,
) -> nn.Module:
    """Build an encoder: images (B, C, H, W) to pooled features (B, ``num_features``).

    Args:
        name: any timm model name; ``"small_alexnet"``; or ``"resnet8"``, ``"resnet14"``,
            ``"resnet20"`` (`SmallResNet`, which takes ``width`` and ``stem_stride``).
        image_size: side of the square images in pixels.
        small_stem: give a timm ResNet a 3×3 stem of stride 1 without pooling; by default for
            images of at most 64 px, as in the CIFAR papers.
        in_channels: channels of the image.
        pretrained: weights to start from: ``True`` for timm's; a file of tensors (timm,
            torchvision, safetensors); a folder of `bcl export`; or another run's folder or
            checkpoint. The last two also say how the encoder is built.
        mean: per channel, of images in [0, 1], with which methods normalize the encoder's images;
            by default that of the weights, or ImageNet's.
        std: likewise.
        arguments: further arguments of the model.

    Returns:
        A module with attributes ``num_features`` and ``spec``, the arguments that build it again
        (see `encoder_spec`); with first weights also ``mean``, ``std``, and ``notes`` about them.

    Raises:
        InputError: an unknown name (the error suggests the nearest), arguments that the model
            does not take, ``small_stem=True`` for a model without a ResNet's stem, an image size
            that the model does not take, or weights that cannot be had or do not fit.

    Example:
        >>> create_encoder("resnet20", 32).num_features
        64
    """
    weights = None
    if isinstance(pretrained, str | Path):
        weights = open_weights(pretrained)
        own = _arguments_of(weights, pretrained, name)
        known_stem = own.pop("small_stem", None)
        small_stem = known_stem if small_stem is None else small_stem
        arguments = {**own, **arguments}
    elif pretrained and (name in SMALL_RESNETS or name == "small_alexnet"):
        raise InputError(f"timm has no weights of '{name}'; name a model of timm, or a file.")
    try:
        model, small = _build(
            name, image_size, small_stem, in_channels, pretrained is True, arguments
        )
    except (TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"encoder '{name}' cannot be built: {error}.") from None
    _check_takes(model, name, (in_channels, image_size, image_size))
    if pretrained is not False:
        new_stem = small and hasattr(model, "maxpool")
        known: dict[str, Any] = {}
        if weights is not None:
            new_stem = load_weights(model, weights.tensors, str(pretrained), new_stem)
            known = weights.normalization or {}
        known = {**(getattr(model, "pretrained_cfg", None) or {}), **known}
        mean = mean or known.get("mean") or NORMALIZATIONS["imagenet"][0]
        std = std or known.get("std") or NORMALIZATIONS["imagenet"][1]
        model.notes = [_note(name, image_size, weights and pretrained, new_stem)]
    if mean is not None and std is not None:
        model.mean, model.std = tuple(mean), tuple(std)
    model.spec = {
        "name": name,
        "image_size": image_size,
        "small_stem": small,
        "in_channels": in_channels,
        **{key: value for key, value in arguments.items() if key not in WEIGHT_ARGUMENTS},
    }
    return model  # type: ignore[no-any-return]


def _build(
    name: str,
    image_size: int,
    small_stem: bool | None,
    in_channels: int,
    pretrained: bool,
    arguments: dict[str, Any],
) -> tuple[Any, bool]:
    """The module, and whether its stem is one for small images."""
    if name in SMALL_RESNETS:
        options = {"depth": SMALL_RESNETS[name], "in_channels": in_channels, **arguments}
        small_resnet = SmallResNet(**options)
        return small_resnet, small_resnet.conv1.stride == (1, 1)
    if name == "small_alexnet":
        return SmallAlexNet(image_size, in_channels, **arguments), True
    model = _timm_model(name, in_channels, pretrained, arguments)
    return model, _shrink_stem(name, model, image_size, small_stem, in_channels)


def native_size(name: str, pretrained: Any = False) -> int | None:
    """Side of the images that first weights are for, or that a model of a fixed size takes."""
    import timm

    if isinstance(pretrained, str) and (spec := open_weights(pretrained).spec):
        return int(spec["image_size"])
    known = timm.get_pretrained_cfg(name)
    if known is None or not (pretrained or known.fixed_input_size):
        return None
    return int(known.input_size[-1])


def encoder_spec(encoder: nn.Module) -> dict[str, Any] | None:
    """Return the arguments with which `create_encoder` builds an encoder again, if it built it."""
    spec = getattr(encoder, "spec", None)
    return dict(spec) if isinstance(spec, dict) and "name" in spec else None


def to_channels_last(encoder: nn.Module) -> bool:
    """Move an encoder to the channels-last format, unless a CPU's gradients are wrong in it.

    oneDNN writes past its memory for strided 1 x 1 convolutions of fewer channels than its blocks
    have, 8 or 16: a crash, or other weights (uxlfoundation/oneDNN issue 6035).

    Returns:
        Whether it was moved; if not, the encoder's ``notes`` say why.
    """
    for name, part in encoder.named_modules():
        if not isinstance(part, nn.Conv2d) or part.kernel_size != (1, 1) or part.groups > 1:
            continue
        if max(part.stride) > 1 and part.in_channels < 16:
            note = (
                "channels_last is left out: on some CPUs the gradients of a strided 1 x 1 "
                f"convolution of {part.in_channels} channels ({name}) are wrong in it"
            )
            encoder.notes = [*getattr(encoder, "notes", []), note]  # type: ignore[assignment]
            return False
    encoder.to(memory_format=torch.channels_last)
    return True


def describe(encoder: nn.Module) -> str:
    """Name and size of an encoder.

    Example:
        >>> describe(create_encoder("resnet8", 32))
        'resnet8 (77,392 parameters)'
    """
    name = (encoder_spec(encoder) or {}).get("name", type(encoder).__name__)
    return f"{name} ({sum(part.numel() for part in encoder.parameters()):,} parameters)"


def without_first_weights(config: Any) -> Any:
    """A configuration without the arguments that name first weights or a cache, at any depth.

    Example:
        >>> without_first_weights({"name": "resnet18", "args": {"pretrained": True, "width": 8}})
        {'name': 'resnet18', 'args': {'width': 8}}
    """
    if isinstance(config, dict):
        items = ((key, value) for key, value in config.items() if key not in WEIGHT_ARGUMENTS)
        return {key: without_first_weights(value) for key, value in items}
    return [without_first_weights(each) for each in config] if isinstance(config, list) else config


def _arguments_of(weights: FirstWeights, source: str | Path, name: str) -> dict[str, Any]:
    """Arguments with which the encoder of an export or a run was built."""
    spec = without_first_weights(weights.spec or {})
    theirs = spec.pop("name", name)
    if theirs.partition(".")[0] != name.partition(".")[0]:
        raise InputError(f"{source} holds weights of '{theirs}', not '{name}'; name that encoder.")
    return {key: value for key, value in spec.items() if key not in ("image_size", "in_channels")}


def _note(name: str, image_size: int, source: Any, new_stem: bool) -> str:
    """One line about first weights and a replaced stem."""
    start = f"encoder {name} starts from {source or 'the weights of timm'}"
    if not new_stem:
        return start
    return (
        f"{start}; its stem was replaced by a new 3×3 convolution for {image_size} px "
        "(small_stem: false keeps the old one)"
    )


def _timm_model(name: str, in_channels: int, pretrained: bool, arguments: dict[str, Any]) -> Any:
    """Build a timm model without its classifier."""
    import timm

    if not timm.is_model(name):
        raise unknown_name("encoder", name, [*SMALL_RESNETS, "small_alexnet", *timm.list_models()])
    options = {"num_classes": 0, "in_chans": in_channels, **arguments}
    model = _from_timm(name, options) if pretrained else timm.create_model(name, **options)
    # Some families have a layer after the pooling; the features have its width.
    model.num_features = getattr(model, "head_hidden_size", None) or model.num_features
    return model


def _from_timm(name: str, options: dict[str, Any]) -> Any:
    """Build a model with timm's weights, from the cache or a hub that answers."""
    import timm

    answered = True
    try:
        with hub_in_time() as answered:
            return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # of the network, the hub or the arguments, of many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if not answered:
            reason = "the hub cannot be reached, and they are not in its cache"
        raise InputError(
            f"the weights of timm's '{name}' cannot be had: {reason}. Download them on a machine "
            "with a network, or name a local file (pretrained: FILE)."
        ) from None


@torch.no_grad()
def _check_takes(model: Any, name: str, shape: tuple[int, int, int]) -> None:
    """Refuse an image size that a model of a fixed size, such as a vision transformer, refuses."""
    known = getattr(model, "pretrained_cfg", None) or {}
    if not known.get("fixed_input_size"):
        return
    training = model.training
    size, usual = shape[-1], known["input_size"][-1]
    try:
        model.eval()(torch.zeros(1, *shape))
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        near = max(round(size / patch[0]), 1) * patch[0] if patch else size
        raise InputError(
            f"encoder '{name}' does not take images of {size} px ({reason}); use --size {usual}, "
            f"its own, or --size {near} with --model.encoder.args.img_size {near}."
        ) from None
    finally:
        model.train(training)


def _shrink_stem(
    name: str, model: Any, image_size: int, small_stem: bool | None, in_channels: int
) -> bool:
    """Replace a ResNet's 7×7 stem of stride 2 and its pooling by a 3×3 of stride 1, if due."""
    resnet = all(hasattr(model, layer) for layer in ("conv1", "bn1", "maxpool"))
    if small_stem and not resnet:
        raise InputError(
            f"encoder '{name}' has no ResNet stem to replace; leave small_stem out, or give a "
            "vision transformer img_size and patch_size."
        )
    small = resnet and (image_size <= SMALL_IMAGE if small_stem is None else small_stem)
    if small:
        model.conv1 = nn.Conv2d(in_channels, model.bn1.num_features, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return small
