"""Encoders and projectors: timm models by name, small networks for small images."""

from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.errors import InputError, unknown_name

SMALL_IMAGE = 64  # pixels: up to here a ResNet gets the 3×3 stem of the CIFAR papers


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al. 2016), for `SmallResNet`."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


class SmallResNet(nn.Module):
    """CIFAR ResNet of depth 6n + 2 in three stages, affordable without a GPU.

    Args:
        depth: 8, 14, 20, …: 6n + 2.
        width: channels of the first stage; the last has four times as many.
        stem_stride: 2 halves the image first, a quarter of the cost.
        in_channels: channels of the image.

    Raises:
        InputError: a depth that is not 6n + 2.

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2.

    Example:
        >>> SmallResNet(8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self, depth: int = 20, width: int = 16, stem_stride: int = 1, in_channels: int = 3
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise InputError(f"depth must be 6n + 2 (8, 14, 20, 26, …), got {depth}.")
        self.num_features = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        channels = width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(BasicBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) images to (B, num_features) pooled features."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.blocks(x)
        return x.mean(dim=(2, 3))


class SmallAlexNet(nn.Module):
    """The five-layer AlexNet of the small-scale CACR results, up to fc7.

    Args:
        image_size: side of the square images in pixels (32 for CIFAR, 64 for STL-10).
        in_channels: channels of the image.

    Raises:
        InputError: images smaller than 16 pixels.

    Source: CACR (arXiv 2105.03746), appendix; Wang and Isola (arXiv 2005.10242). The linear probe
    of those papers reads fc7, so these are the features; fc8 is the projector.

    Example:
        >>> SmallAlexNet(32)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 4096])
    """

    def __init__(self, image_size: int = 32, in_channels: int = 3) -> None:
        super().__init__()
        side = image_size
        for _ in range(3):  # three unpadded 3×3 poolings of stride 2
            side = (side - 3) // 2 + 1
        if side < 1:
            raise InputError(f"SmallAlexNet needs images of at least 16 px, got {image_size}.")
        layers: list[nn.Module] = []
        channels = in_channels
        for width, pool in ((96, True), (192, True), (384, False), (384, False), (192, True)):
            layers += [
                nn.Conv2d(channels, width, 3, 1, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            layers += [nn.MaxPool2d(3, 2)] if pool else []
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.num_features = 4096
        self.fc6 = _fully_connected(192 * side * side, 4096)
        self.fc7 = _fully_connected(4096, 4096)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) images to (B, 4096) features of fc7."""
        x = self.convolutions(x).flatten(1)
        x = self.fc6(x)
        return self.fc7(x)  # type: ignore[no-any-return]


def _fully_connected(in_features: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_features, out_features, bias=False),
        nn.BatchNorm1d(out_features),
        nn.ReLU(inplace=True),
    )


class Projector(nn.Sequential):
    """The head between the features and the loss.

    ``Linear - BN - ReLU`` (``num_layers - 1`` times), ``Linear (no bias) - BN``.

    Args:
        in_features: width of the encoder's features.
        out_features: width of the projection.
        hidden_features: width in between; the encoder's own if not given.
        num_layers: number of linear layers; 2 in SimCLR, BCL and SDCLR, 1 for SmallAlexNet's fc8.
        batch_norm: whether batch norm follows each linear layer.

    Raises:
        InputError: ``num_layers`` below 1.

    Source: BCL (arXiv 2205.12693), released training code.

    Example:
        >>> Projector(64, 128)(torch.zeros(4, 64)).shape
        torch.Size([4, 128])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int = 128,
        hidden_features: int | None = None,
        num_layers: int = 2,
        batch_norm: bool = True,
    ) -> None:
        if num_layers < 1:
            raise InputError(f"a projector has at least 1 layer, got num_layers={num_layers}.")
        hidden = hidden_features or in_features
        layers: list[nn.Module] = []
        width = in_features
        for _ in range(num_layers - 1):
            layers.append(nn.Linear(width, hidden))
            layers += [nn.BatchNorm1d(hidden)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            width = hidden
        layers.append(nn.Linear(width, out_features, bias=not batch_norm))
        layers += [nn.BatchNorm1d(out_features)] if batch_norm else []
        super().__init__(*layers)
        self.out_features = out_features


# Our own small networks beside timm's names.
_OWN: dict[str, dict[str, int]] = {
    "resnet8": {"depth": 8},
    "resnet14": {"depth": 14},
    "resnet20": {"depth": 20},
}


FIRST_WEIGHTS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")


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
        A module with attributes ``num_features`` and ``spec``, the arguments that build it again,
        in which ``small_stem`` says what was built (see `encoder_spec`).

    Raises:
        InputError: unknown name (the nearest one is given), a model that cannot be built so, or
            ``small_stem=True`` for one whose stem is not a ResNet's.

    Example:
        >>> create_encoder("resnet20", 32).num_features
        64
    """
    model, small = _build(name, image_size, small_stem, in_channels, arguments)
    model.spec = {  # type: ignore[assignment]
        "name": name,
        "image_size": image_size,
        "small_stem": small,
        "in_channels": in_channels,
        # Where the first weights came from is no part of what is built.
        **{key: value for key, value in arguments.items() if key not in FIRST_WEIGHTS},
    }
    return model


def encoder_spec(encoder: nn.Module) -> dict[str, Any] | None:
    """Arguments of `create_encoder` that build an encoder again; None for one of other making.

    Example:
        >>> encoder_spec(create_encoder("resnet8", 32))["name"]
        'resnet8'
    """
    spec = getattr(encoder, "spec", None)
    return dict(spec) if isinstance(spec, dict) and "name" in spec else None


def _build(
    name: str,
    image_size: int,
    small_stem: bool | None,
    in_channels: int,
    arguments: dict[str, Any],
) -> tuple[nn.Module, bool]:
    """The encoder, and whether its stem was made small."""
    try:
        if name in _OWN:
            own = SmallResNet(in_channels=in_channels, **{**_OWN[name], **arguments})
            return own, own.conv1.stride == (1, 1)
        if name == "small_alexnet":
            return SmallAlexNet(image_size, in_channels, **arguments), True
    except TypeError as error:
        raise InputError(f"encoder '{name}' cannot be built so: {error}.") from None

    import timm

    if not timm.is_model(name):
        raise unknown_name("encoder", name, [*_OWN, "small_alexnet", *timm.list_models()])
    try:
        model = timm.create_model(name, num_classes=0, in_chans=in_channels, **arguments)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"encoder '{name}' cannot be built so: {error}.") from None
    # Some families have a layer behind the pooling; its width is that of what they return.
    model.num_features = getattr(model, "head_hidden_size", None) or model.num_features
    resnet = hasattr(model, "conv1") and hasattr(model, "bn1") and hasattr(model, "maxpool")
    if small_stem and not resnet:
        raise InputError(
            f"encoder '{name}' has no ResNet stem to make small; leave small_stem out, or give a "
            "vision transformer img_size and patch_size."
        )
    small = resnet and (image_size <= SMALL_IMAGE if small_stem is None else small_stem)
    if small:
        _shrink_stem(model, in_channels)
    return model, small


def _shrink_stem(model: Any, in_channels: int) -> None:
    """Replace a ResNet's 7×7 stem of stride 2 and its pooling by a 3×3 of stride 1."""
    width = model.bn1.num_features
    conv = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = conv
    model.maxpool = nn.Identity()
