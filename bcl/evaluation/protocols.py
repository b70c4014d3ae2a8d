"""Protocols by name: which pictures a representation is measured with, and how."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bcl.errors import unknown_name
from bcl.evaluation.presets import SOLVERS

DRAWS = 5

Kind = Literal["linear", "knn", "finetune"]
SUITES = {
    "bcl": ("full:adam", "100-shot:adam", "50-shot:adam"),
    "sdclr": ("full:sgd", "1%:sgd"),
    "cacr": ("full:cacr",),
    "ts": ("long-tailed-knn", "balanced-lt:svc", "long-tailed:svc"),
}
SINGLE = (
    "full",
    "1%",
    "50-shot",
    "100-shot",
    "long-tailed",
    "balanced-lt",
    "knn",
    "knn-euclidean",
    "long-tailed-knn",
    "finetune",
    "finetune-1%",
)


@dataclass(frozen=True)
class Protocol:
    """One way to measure a representation.

    Attributes:
        name: as shown in reports.
        kind: ``"linear"``, ``"knn"`` or ``"finetune"``.
        train: ``"probe"`` for the balanced set, ``"long-tailed"`` for the pretraining set.
        shots: pictures per class (int; 0: as many as the rarest class has), share of the balanced
            set (float), or None for all.
        draws: how many subsets.
        solver: of a linear probe; the metric of nearest neighbours.
    """

    name: str
    kind: Kind
    train: Literal["probe", "long-tailed"]
    shots: int | float | None = None
    draws: int = 1
    solver: str = "lbfgs"

    @property
    def description(self) -> str:
        """One line for reports."""
        where = "balanced probe set" if self.train == "probe" else "long-tailed training set"
        draws = f", {self.draws} draws" if self.draws > 1 else ""
        if self.shots is None:
            return f"whole {where}"
        if isinstance(self.shots, float):
            return f"{100 * self.shots:g} % of the {where}{draws}"
        if self.shots == 0:
            return f"as many pictures of each class of the {where} as its rarest has{draws}"
        return f"{self.shots} pictures a class of the {where}{draws}"


def parse_protocols(names: str | Sequence[str]) -> list[Protocol]:
    """Turn protocol names into protocols, each once, in the order asked for.

    ``full``, ``1%`` (any share), ``50-shot`` (any number), ``long-tailed``, ``balanced-lt`` are
    linear probes and take a solver behind a colon (``full:sgd``); ``knn`` (k = 1, 10, 200, cosine),
    ``knn-euclidean``, ``long-tailed-knn``;
    ``finetune``, ``finetune-1%`` (any share). The papers' sets: ``bcl``, ``sdclr``, ``cacr``,
    ``ts`` (`SUITES`).

    Args:
        names: names, or one string with commas.

    Returns:
        The protocols.

    Raises:
        InputError: unknown name.

    Example:
        >>> [protocol.name for protocol in parse_protocols("bcl,1%")]
        ['full:adam', '100-shot:adam', '50-shot:adam', '1%']
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    found: dict[str, Protocol] = {}
    for name in names:
        for single in SUITES.get(name, (name,)):
            found.setdefault(single, _single(single))
    return list(found.values())


def _single(name: str) -> Protocol:
    base, colon, solver = name.partition(":")
    if colon and solver not in SOLVERS:
        raise unknown_name("solver", solver, SOLVERS)
    solver = solver or "lbfgs"
    if base == "full":
        return Protocol(name, "linear", "probe", solver=solver)
    if base == "long-tailed":
        return Protocol(name, "linear", "long-tailed", solver=solver)
    if base == "balanced-lt":
        return Protocol(name, "linear", "long-tailed", 0, DRAWS, solver)
    shots: int | float
    if (match := re.fullmatch(r"(\d+)-shot", base)) and int(match[1]) > 0:
        shots = int(match[1])
        return Protocol(name, "linear", "probe", shots, DRAWS, solver)
    if match := re.fullmatch(r"(finetune-)?(\d+(?:\.\d+)?)%", base):
        shots = float(match[2]) / 100
        if 0 < shots <= 1 and not (match[1] and colon):
            if match[1]:
                return Protocol(name, "finetune", "probe", shots)
            return Protocol(name, "linear", "probe", shots, DRAWS, solver)
    if not colon:
        if base == "knn":
            return Protocol(name, "knn", "probe", solver="cosine")
        if base == "knn-euclidean":
            return Protocol(name, "knn", "probe", solver="euclidean")
        if base == "long-tailed-knn":
            return Protocol(name, "knn", "long-tailed", solver="cosine")
        if base == "finetune":
            return Protocol(name, "finetune", "probe")
    raise unknown_name("protocol", name, (*SINGLE, *SUITES))
