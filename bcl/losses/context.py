"""What a loss may want to know besides features: whose they are, and how far the run is."""

import inspect
from typing import Any

from torch import Tensor, nn

from bcl.core.checks import check_positive
from bcl.core.errors import InputError


class AroundLoss(nn.Module):
    """A loss around another, whose reduction and gathering hold here too, at any depth."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        if not isinstance(loss, nn.Module):
            raise InputError(f"loss must be a module, such as bcl.NTXentLoss(), got {loss!r:.80}.")
        self.loss = loss

    @property
    def reduction(self) -> Any:
        """That of the loss."""
        return getattr(self.loss, "reduction", "none")

    @property
    def gather(self) -> bool:
        """Whether all ranks call the loss together."""
        return getattr(self.loss, "gather", True)


def call_loss(
    loss: nn.Module,
    views: Tensor,
    *more: Any,
    ids: Tensor | None = None,
    epoch: float | None = None,
    epochs: int | None = None,
    **options: Any,
) -> Tensor:
    """Call a loss with those of ``ids``, ``epoch`` and ``epochs`` that its ``forward`` names.

    Args:
        loss: maps features (V, B, D), and what else its ``forward`` takes, to a loss.
        views: (V, B, D).
        more: further arguments of the loss, by position.
        ids: (B,) sample ids.
        epoch: epochs done, 0 in the first.
        epochs: epochs of the run.
        options: further arguments of the loss, by name.

    Returns:
        The loss.

    Example:
        >>> import torch
        >>> from bcl import CosineSchedule, NTXentLoss
        >>> views = torch.eye(3).expand(2, 3, 3)
        >>> call_loss(NTXentLoss(CosineSchedule(0.1, 1.0, 4)), views, epoch=0)
        tensor(0.9048)
    """
    known = {"ids": ids, "epoch": epoch, "epochs": epochs}
    wanted = known.keys() & inspect.signature(loss.forward).parameters.keys()
    value: Tensor = loss(views, *more, **{name: known[name] for name in wanted}, **options)
    return value


def figures(loss: nn.Module, epoch: int, epochs: int) -> dict[str, float | Tensor]:
    """Collect what a loss and its parts have to log at the end of an epoch, by name.

    A part that has something defines ``figures(epoch, epochs)``.
    """
    found: dict[str, float | Tensor] = {}
    for part in loss.modules():
        report: Any = getattr(part, "figures", None)
        found |= {} if report is None else report(epoch, epochs)
    return found


def in_epochs(name: str, value: float, epochs: int | None) -> float:
    """Resolve a number of epochs: below 1 it is a share of the run.

    Example:
        >>> in_epochs("period", 0.2, 2000), in_epochs("period", 50, None)
        (400.0, 50)
    """
    if value >= 1 or value == 0:
        return value
    if epochs is None:
        raise InputError(
            f"{name}={value!r} is a share of the run; pass its length too, epochs=..., or give "
            f"{name} as a number of epochs."
        )
    check_positive("epochs", epochs)
    return value * epochs


def check_begins(name: str, value: float, epochs: int | None) -> None:
    """Refuse a number of epochs, or a share, that the run ends before."""
    if epochs and 0 < epochs <= in_epochs(name, value, epochs):  # -1 for a run without an end
        raise InputError(
            f"{name}={value!r} lies beyond the {epochs} epochs of the run; set it lower, such as "
            "0.5 for half of the run."
        )


def need_epoch(what: str, epoch: float | None) -> float:
    """Return the epoch; refuse None, and what is no epoch."""
    if epoch is None:
        raise InputError(f"{what} needs to know the epoch; call the loss with epoch=...")
    check_positive("epoch", epoch, zero=True)
    return epoch
