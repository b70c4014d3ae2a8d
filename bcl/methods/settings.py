"""Settings of a method's encoder, projector and memory; each builds its part."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor, nn

from bcl.core.checks import check_choice, check_count
from bcl.core.errors import InputError
from bcl.losses.signals import contrastive_signals
from bcl.memorization.scores import Normalization
from bcl.memorization.tracker import MemorizationTracker
from bcl.models import Projector, create_encoder

Signal = Literal["loss", "misalignment", "isolation", "tailness"]
ScoreSource = Literal["own", "mean", "shuffled"]
SCORE_SOURCES: tuple[ScoreSource, ...] = ("own", "mean", "shuffled")


@dataclass(frozen=True)
class EncoderSettings:
    """An encoder by name.

    Args:
        name: any timm model name, or one of `bcl.create_encoder`.
        args: further arguments of `bcl.create_encoder`, such as ``pretrained`` or ``width``.

    Example:
        >>> EncoderSettings("resnet8", {"width": 4}).build(image_size=32).num_features
        16
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)

    def build(self, image_size: int) -> nn.Module:
        """Build the encoder for square images of ``image_size`` pixels."""
        return create_encoder(self.name, image_size, **self.args)


@dataclass(frozen=True)
class ProjectorSettings:
    """The head between features and loss; see `bcl.Projector`.

    Args:
        features: D, width of the projection.
        layers: number of linear layers.
        hidden: width between the layers; by default the encoder's width.
        batch_norm: whether batch norm follows each linear layer.

    Example:
        >>> ProjectorSettings(features=64).build(512).out_features
        64
    """

    features: int = 128
    layers: int = 2
    hidden: int | None = None
    batch_norm: bool = True

    def __post_init__(self) -> None:
        check_count("projector.features", self.features)
        check_count("projector.layers", self.layers)
        if self.hidden is not None:
            check_count("projector.hidden", self.hidden)

    def build(self, num_features: int) -> Projector:
        """Build the projector for an encoder of width ``num_features``."""
        return Projector(num_features, self.features, self.hidden, self.layers, self.batch_norm)


@dataclass(frozen=True)
class MemorySettings:
    """What the memory watches, and which score steers a sample's views.

    Args:
        momentum: momentum of the loss memory, in [0, 1).
        normalization: ``"max"`` (paper) or ``"rank"``; see `bcl.MemorizationTracker`.
        scores: the score that a sample's views follow: its ``"own"`` (paper), or one of two
            controls: the ``"mean"`` of all scores, or ``"shuffled"``, the score of another sample,
            drawn each epoch.
        signal: what the memory watches: the ``"loss"`` that is trained (paper), or one of
            `bcl.contrastive_signals` at its default temperature: ``"misalignment"``,
            ``"isolation"`` or ``"tailness"``. These need two views.
        loss: another loss to watch, a module that maps projections (V, B, D) to (B,) losses; it is
            computed without gradient; only with ``signal="loss"``.

    Example:
        >>> MemorySettings(normalization="rank").build(num_samples=100)
        MemorizationTracker(num_samples=100, momentum=0.97, normalization='rank')
    """

    momentum: float = 0.97
    normalization: Normalization = "max"
    scores: ScoreSource = "own"
    signal: Signal = "loss"
    loss: nn.Module | None = None

    def __post_init__(self) -> None:
        check_choice("memory.scores", self.scores, SCORE_SOURCES)
        check_choice("memory.signal", self.signal, get_args(Signal))
        if self.loss is not None and self.signal != "loss":
            raise InputError(
                f"memory.signal='{self.signal}' and memory.loss both name what to watch; set one."
            )
        self.build(num_samples=1)  # checks the other arguments

    def watched(self) -> nn.Module | None:
        """Return what maps (V, B, D) to the (B,) numbers to watch; None for the trained loss."""
        if self.signal != "loss":
            return WatchedSignal(self.signal)
        return None if self.loss is None else per_sample(self.loss)

    def build(self, num_samples: int) -> MemorizationTracker:
        """Build the tracker of a training set."""
        return MemorizationTracker(num_samples, self.momentum, self.normalization)


class WatchedSignal(nn.Module):
    """One of `bcl.contrastive_signals` by name, from projections (2, B, D)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, z: Tensor) -> Tensor:
        """(2, B, D) to (B,)."""
        if len(z) != 2:
            raise InputError(
                f"memory.signal='{self.name}' compares two views, got {len(z)}; use two views, or "
                "memory.signal='loss'."
            )
        signal: Tensor = getattr(contrastive_signals(z[0], z[1]), self.name)
        return signal


def build_encoder(encoder: str | EncoderSettings | nn.Module, image_size: int) -> Any:
    """Return an encoder that has ``num_features``, from its name, settings or module."""
    if isinstance(encoder, str):
        encoder = EncoderSettings(encoder)
    if isinstance(encoder, EncoderSettings):
        return encoder.build(image_size)
    if not isinstance(getattr(encoder, "num_features", None), int):
        raise InputError(
            f"{type(encoder).__name__} has no integer num_features, the width of its output; set "
            "it, or name a timm model."
        )
    return encoder


def per_sample(loss: nn.Module) -> nn.Module:
    """Return the loss, or refuse one that reduces its batch to one number."""
    reduction = getattr(loss, "reduction", "none")
    if reduction != "none":
        raise InputError(
            f"the memory needs one loss per sample, but {type(loss).__name__} has "
            f"reduction='{reduction}'; build it with reduction='none'."
        )
    return loss
