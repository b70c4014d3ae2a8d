"""Small networks for small images, affordable without a GPU."""

import torch
from torch import Tensor, nn

from bcl.core.errors import InputError


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al. 2016)."""

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
        """Map (B, C, H, W) to (B, C', H', W')."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


class SmallResNet(nn.Module):
    """CIFAR ResNet of depth 6n + 2 in three stages.

    Args:
        depth: 8, 14, 20, …: 6n + 2.
        width: channels of the first stage; the last has four times as many.
        stem_stride: 2 halves the image first and makes a step four times cheaper.
        in_channels: channels of the image.

    Raises:
        InputError: ``depth`` is not 6n + 2.

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
        """Map images (B, C, H, W) to pooled features (B, num_features)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.blocks(x).mean(dim=(2, 3))  # type: ignore[no-any-return]


class SmallAlexNet(nn.Module):
    """The five-layer AlexNet of the small-scale CACR results, up to fc7.

    The linear probe of those papers reads fc7, so these are the features; fc8 is the projector.

    Args:
        image_size: side of the square images in pixels (32 for CIFAR, 64 for STL-10).
        in_channels: channels of the image.

    Raises:
        InputError: images smaller than 16 pixels.

    Source: CACR (arXiv 2105.03746), appendix; Wang and Isola (arXiv 2005.10242).

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
            conv = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(3, 2)] if pool else []
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.num_features = 4096
        self.fc6 = _fully_connected(192 * side * side, 4096)
        self.fc7 = _fully_connected(4096, 4096)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features of fc7 (B, 4096)."""
        x = self.convolutions(x).flatten(1)
        return self.fc7(self.fc6(x))  # type: ignore[no-any-return]


def _fully_connected(in_features: int, out_features: int) -> nn.Sequential:
    linear = nn.Linear(in_features, out_features, bias=False)
    return nn.Sequential(linear, nn.BatchNorm1d(out_features), nn.ReLU(inplace=True))
