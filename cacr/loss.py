"""CACR as a module."""

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor, nn

from bcl.core.checks import TensorLike, check_positive
from bcl.core.errors import unknown_name
from bcl.losses import CosineSchedule
from bcl.losses.temperatures import ScheduledTemperature
from cacr.functional import CACRSettings, cacr_terms

# Settings of the paper's experiments, as released. MoCo v3 works on cosines over a temperature T,
# 1 by default: c = 2 - 2 cos, so its RBF form has s = 1 / (2 T).
PAPER: dict[str, dict[str, Any]] = {
    "cifar10": {"repulsion_temperature": 0.9},
    "cifar100": {"repulsion_temperature": 2.0},
    "stl10": {"repulsion_temperature": 2.0},
    "imagenet-moco": {"repulsion_temperature": 2.0, "constant_weights": "queue"},
    "imagenet-mocov3": {"cost": "rbf", "rbf_scale": 0.5, "constant_weights": "all"},
}


class _Module(nn.Module):
    """Set up before a dataclass assigns its fields, one of which may be a part.

    In a class of its own: the command line would read a class's own ``__new__`` for its arguments.
    """

    def __new__(cls, *_: Any, **__: Any) -> Any:
        module = super().__new__(cls)
        nn.Module.__init__(module)
        return module


@dataclass(eq=False)
class CACRLoss(CACRSettings, ScheduledTemperature, _Module):
    r"""Weighted sum of CACR's attraction and repulsion.

    .. math:: L = \alpha\,\text{attraction} + \beta\,\text{repulsion}

    `cacr.cacr_terms` describes the formulas, the three forms (views alone, with a queue, with a
    momentum teacher) and the behavior across ranks; `cacr.CACRSettings` describes all other
    arguments.

    Args:
        attraction_weight: :math:`\alpha \ge 0`.
        repulsion_weight: :math:`\beta \ge 0`.
        temperature: :math:`\tau`, which replaces the repulsion's temperature by
            :math:`t^- = 1 / (2 \tau)`, so that its weights are those of NT-Xent at
            :math:`\tau`: a number, (B,) one per sample, or a `bcl.CosineSchedule`, with which
            calls need the ``epoch``; None for ``repulsion_temperature``.

    Raises:
        InputError: an argument out of its range.

    Source: CACR (arXiv 2105.03746).

    Example:
        >>> import torch
        >>> z = torch.eye(3).expand(2, 3, 3)  # positives coincide, negatives are orthogonal
        >>> CACRLoss()(z)
        tensor(-2.)
        >>> CACRLoss.paper("cifar10", reduction="none")(z).shape
        torch.Size([3])
    """

    attraction_weight: float = 1.0
    repulsion_weight: float = 1.0
    # No default of the class, which would hide a part of the same name.
    temperature: CosineSchedule | float | Tensor | None = field(default_factory=lambda: None)

    def __post_init__(self) -> None:
        """Check the weights and the temperature."""
        super().__post_init__()
        if self.temperature is not None and not isinstance(self.temperature, CosineSchedule):
            check_positive("temperature", self.temperature, several=True)
        check_positive("attraction_weight", self.attraction_weight, zero=True)
        check_positive("repulsion_weight", self.repulsion_weight, zero=True)

    @classmethod
    def paper(cls, name: str, **changes: Any) -> "CACRLoss":
        """Build the loss with the settings of one of the paper's experiments, as released.

        Args:
            name: ``"cifar10"``, ``"cifar100"``, ``"stl10"`` (views alone), ``"imagenet-moco"``
                (call it with a queue and keys) or ``"imagenet-mocov3"`` (call it with keys; RBF
                cost at temperature T = 1).
            changes: arguments that override these settings.

        Returns:
            The loss.

        Raises:
            InputError: unknown name.
        """
        if name not in PAPER:
            raise unknown_name("experiment", name, PAPER)
        return cls(**{**PAPER[name], **changes})

    def forward(
        self,
        views: TensorLike,
        negatives: TensorLike | None = None,
        keys: TensorLike | None = None,
        *,
        temperature: float | Tensor | None = None,
        epoch: float | None = None,
        epochs: int | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            views: (V, B, D) features, of any length.
            negatives: (Q, D) keys of a queue, or None.
            keys: momentum features of the same samples, or None.
            temperature: instead of the module's, for this call.
            epoch: epochs done, 0 in the first; only a schedule needs it.
            epochs: epochs of the run; only a schedule whose period is a share of it needs them.

        Returns:
            () or (B,).
        """
        settings: CACRSettings = self
        if temperature is None:
            temperature = self.temperature_at(epoch, epochs)
        if temperature is not None:
            check_positive("temperature", temperature, several=True)
            known = {each.name: getattr(self, each.name) for each in fields(CACRSettings)}
            settings = CACRSettings(**known | {"repulsion_temperature": 0.5 / temperature})
        attraction, repulsion = cacr_terms(views, negatives, keys=keys, settings=settings)
        return self.attraction_weight * attraction + self.repulsion_weight * repulsion
