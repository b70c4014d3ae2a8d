"""Encoders by name: timm's models and small networks for small images."""

from typing import Any

from torch import nn

from bcl.core.errors import InputError, unknown_name
from bcl.models.small import SmallAlexNet, SmallResNet

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
        arguments: further arguments of the model.

    Returns:
        A module with attributes ``num_features`` and ``spec``, the arguments that build it again
        (see `encoder_spec`).

    Raises:
        InputError: an unknown name (the error suggests the nearest), arguments that the model
            does not take, or ``small_stem=True`` for a model without a ResNet's stem.

    Example:
        >>> create_encoder("resnet20", 32).num_features
        64
    """
    try:
        if name in SMALL_RESNETS:
            options = {"depth": SMALL_RESNETS[name], "in_channels": in_channels, **arguments}
            model: Any = SmallResNet(**options)
            small = model.conv1.stride == (1, 1)
        elif name == "small_alexnet":
            model, small = SmallAlexNet(image_size, in_channels, **arguments), True
        else:
            model = _timm_model(name, in_channels, arguments)
            small = _shrink_stem(name, model, image_size, small_stem, in_channels)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"encoder '{name}' cannot be built: {error}.") from None
    model.spec = {
        "name": name,
        "image_size": image_size,
        "small_stem": small,
        "in_channels": in_channels,
        **{key: value for key, value in arguments.items() if key not in WEIGHT_ARGUMENTS},
    }
    return model  # type: ignore[no-any-return]


def encoder_spec(encoder: nn.Module) -> dict[str, Any] | None:
    """Return the arguments with which `create_encoder` builds an encoder again, if it built it."""
    spec = getattr(encoder, "spec", None)
    return dict(spec) if isinstance(spec, dict) and "name" in spec else None


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


def _timm_model(name: str, in_channels: int, arguments: dict[str, Any]) -> Any:
    """Build a timm model without its classifier."""
    import timm

    if not timm.is_model(name):
        raise unknown_name("encoder", name, [*SMALL_RESNETS, "small_alexnet", *timm.list_models()])
    model = timm.create_model(name, num_classes=0, in_chans=in_channels, **arguments)
    # Some families have a layer after the pooling; the features have its width.
    model.num_features = getattr(model, "head_hidden_size", None) or model.num_features
    return model


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
