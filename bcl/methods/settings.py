"""Settings of a method's encoder, projector and memory; each builds its part."""

import os
import shutil
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from bcl.core.checks import check_choice, check_count, check_positive
from bcl.core.errors import InputError
from bcl.memorization.scores import Normalization
from bcl.memorization.signals import FEATURE_SIGNALS, SIGNALS, STEP_SIGNALS, FeatureSignal, Signal
from bcl.memorization.tracker import MemorizationTracker
from bcl.models import Projector, create_encoder

ScoreSource = Literal["own", "mean", "shuffled"]
SCORE_SOURCES: tuple[ScoreSource, ...] = ("own", "mean", "shuffled")


@dataclass(frozen=True)
class EncoderSettings:
    """An encoder by name.

    Args:
        name: any timm model name, or one of `bcl.create_encoder`.
        args: further arguments of `bcl.create_encoder`, such as ``pretrained`` or ``width``;
            null drops those of a configuration that this one extends.
        compile: train it through ``torch.compile``, which needs a C++ compiler; features outside
            training are computed without it.

    Raises:
        InputError: when built, if there is no compiler.

    Example:
        >>> EncoderSettings("resnet8", {"width": 4}).build(image_size=32).num_features
        16
    """

    name: str
    args: dict[str, Any] | None = field(default_factory=dict)
    compile: bool = False

    def build(self, image_size: int) -> nn.Module:
        """Build the encoder for square images of ``image_size`` pixels."""
        encoder = create_encoder(self.name, image_size, **(self.args or {}))
        if self.compile:
            _check_compiler()
            encoder.compile()
        return encoder


def _check_compiler() -> None:
    """As `torch.compile` looks for it."""
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        raise InputError(
            f"encoder.compile needs a C++ compiler, and there is no {name}; install it, name "
            "another in the variable CXX, or leave compile out."
        )


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
    """What the memory records, and which score steers a sample's views.

    Signals are higher for samples that are more likely tail. Of every step, as momentum averages:
    the trained ``"loss"`` (paper), or ``"misalignment"``, ``"isolation"`` and ``"tailness"`` of
    `bcl.contrastive_signals`, which need two views that are compared within the batch. Of all
    images at once, in evaluation mode, after the first epoch, every n epochs and the last:
    ``"neighbors_1"``, ``"neighbors"`` (10), ``"neighbors_100"`` and ``"sparseness"`` of
    `bcl.evaluation.feature_signals`, and the same of projections (``"projected_neighbors"``, ...).

    Args:
        momentum: momentum of the memory, in [0, 1).
        normalization: ``"max"`` (paper), ``"rank"`` or ``"quantile"``, see
            `bcl.memorization.scores.memorization_scores`.
        scores: the score that a sample's views follow: its ``"own"`` (paper), or one of two
            controls: the ``"mean"`` of all scores, or ``"shuffled"``, the score of another sample,
            drawn each epoch.
        signal: the signal that steers.
        watch: signals that are only recorded, beside the one that steers, each in a tracker of its
            own.
        loss: another loss as the signal ``"loss"``, a module that maps projections (V, B, D) to
            (B,) losses; it is computed without gradient.
        temperature: of `bcl.contrastive_signals`; at that of NT-Xent they cost least.
        every_n_epochs: epochs between measurements of signals of all images.

    Example:
        >>> MemorySettings(normalization="rank").build(num_samples=100)
        MemorizationTracker(num_samples=100, momentum=0.97, normalization='rank')
        >>> MemorySettings(signal="isolation", watch=("loss", "neighbors")).signals
        ('isolation', 'loss', 'neighbors')
    """

    momentum: float = 0.97
    normalization: Normalization = "max"
    scores: ScoreSource = "own"
    signal: Signal = "loss"
    watch: tuple[Signal, ...] = ()
    loss: nn.Module | None = None
    temperature: float = 0.2
    every_n_epochs: int = 10

    def __post_init__(self) -> None:
        check_choice("memory.scores", self.scores, SCORE_SOURCES)
        check_choice("memory.signal", self.signal, SIGNALS)
        if isinstance(self.watch, str):
            raise InputError(
                f"memory.watch takes several signals, such as ('isolation',); got '{self.watch}'."
            )
        for name in self.watch:
            check_choice("signal in memory.watch", name, SIGNALS)
        check_positive("memory.temperature", self.temperature)
        check_count("memory.every_n_epochs", self.every_n_epochs)
        if self.loss is not None and "loss" not in (self.signal, *self.watch):
            raise InputError(
                f"memory.loss is given, but memory.signal='{self.signal}' and memory.watch records "
                "no loss; add 'loss' to memory.watch, or leave memory.loss."
            )
        self.build(num_samples=1)  # checks the other arguments

    @property
    def signals(self) -> tuple[Signal, ...]:
        """All that is recorded; the first steers."""
        named = dict.fromkeys((self.signal, *self.watch))
        # A loss that is not finite shows where a signal of the step is recorded.
        return tuple(named) if named.keys() & {*STEP_SIGNALS} else (*named, "loss")

    @property
    def of_steps(self) -> tuple[Signal, ...]:
        """Those of every step."""
        return tuple(name for name in self.signals if name in STEP_SIGNALS)

    @property
    def of_features(self) -> tuple[FeatureSignal, ...]:
        """Those of all images at once."""
        return tuple(name for name in FEATURE_SIGNALS if name in self.signals)

    @property
    def contrasts(self) -> bool:
        """Whether any comes from `bcl.contrastive_signals`."""
        return any(name != "loss" for name in self.of_steps)

    @property
    def num_neighbors(self) -> int:
        """Neighbors of `bcl.contrastive_signals`, which tailness alone depends on."""
        return 10 if "tailness" in self.signals else 1

    def build(self, num_samples: int, signal: str = "loss") -> MemorizationTracker:
        """Build the tracker of a signal; measurements of all images are not averaged."""
        momentum = self.momentum if signal in STEP_SIGNALS else 0.0
        return MemorizationTracker(num_samples, momentum, self.normalization)


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
