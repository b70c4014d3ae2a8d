"""The head between the features and the loss."""

from torch import nn

from bcl.core.checks import check_count


class Projector(nn.Sequential):
    """``num_layers`` linear layers with batch norm, and ReLU between them.

    ``Linear - BN - ReLU`` (``num_layers - 1`` times), then ``Linear (no bias) - BN``.

    Args:
        in_features: width of the encoder's features.
        out_features: width of the projection.
        hidden_features: width of the layers in between; ``in_features`` by default.
        num_layers: number of linear layers: 2 in SimCLR, BCL and SDCLR, 1 for SmallAlexNet's fc8.
        batch_norm: whether batch norm follows each linear layer.

    Raises:
        InputError: ``num_layers`` below 1.

    Source: BCL (arXiv 2205.12693), released training code.

    Example:
        >>> import torch
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
        check_count("num_layers", num_layers)
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
