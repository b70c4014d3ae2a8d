"""Protocols by name: which images a representation is measured with, and how."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bcl.core.errors import unknown_name
from bcl.evaluation.probe.options import SOLVERS

DRAWS = 5

Kind = Literal["linear", "knn", "finetune"]
Source = Literal["probe", "long-tailed"]
# By paper; docs/evaluation.md lists how these differ from the papers.
SUITES = {
    "bcl": ("full:adam", "100-shot:adam", "50-shot:adam"),
    "gh": ("full+crop:adam", "100-shot+crop:adam", "knn-euclidean@5"),
    "sdclr": ("full:sgd", "1%:sgd", "balanced-lt:sgd"),
    "colt": ("full:sgd", "1%:sgd", "balanced-lt:sgd"),
    "mak": ("full:sgd", "1%:sgd"),
    "cacr": ("full:cacr",),
    "ts": ("long-tailed-knn", "balanced-lt:svc", "long-tailed:svc"),
}
SINGLE = (
    *("full", "1%", "50-shot", "100-shot", "long-tailed", "balanced-lt"),
    *("knn", "knn-euclidean", "long-tailed-knn", "finetune", "finetune-1%"),
)
NEIGHBORS = {"probe": (1, 10, 200), "long-tailed": (1, 10)}  # unless the name has a number


@dataclass(frozen=True)
class Protocol:
    """One way to measure a representation.

    Attributes:
        name: as shown in reports.
        kind: ``"linear"``, ``"knn"`` or ``"finetune"``.
        train: ``"probe"`` for the balanced set, ``"long-tailed"`` for the pretraining set.
        shots: images per class (int; 0: as many as the rarest class has), share of the balanced
            set (float), or None for all.
        draws: number of subsets.
        solver: of a linear probe; the metric of nearest neighbors.
        cropped: whether the training features are of one random crop and flip of every image.
        neighbors: numbers of nearest neighbors.
    """

    name: str
    kind: Kind
    train: Source
    shots: int | float | None = None
    draws: int = 1
    solver: str = "lbfgs"
    cropped: bool = False
    neighbors: tuple[int, ...] = ()

    @property
    def source(self) -> str:
        """The features it is trained on, such as ``"probe"`` or ``"probe+crop"``."""
        return self.train + ("+crop" if self.cropped else "")

    @property
    def description(self) -> str:
        """One line for reports."""
        where = "balanced probe set" if self.train == "probe" else "long-tailed training set"
        if self.shots is None:
            images = f"whole {where}"
        elif isinstance(self.shots, float):
            images = f"{100 * self.shots:g} % of the {where}"
        elif self.shots == 0:
            images = f"as many images of each class of the {where} as its rarest has"
        else:
            images = f"{self.shots} images per class of the {where}"
        draws = f", {self.draws} draws" if self.draws > 1 else ""
        return images + draws + (", one random crop and flip of each" if self.cropped else "")


def parse_protocols(names: str | Sequence[str]) -> list[Protocol]:
    """Turn protocol names into protocols, each once, in the order given.

    ``full``, ``1%`` (any share), ``50-shot`` (any number), ``long-tailed``, ``balanced-lt`` are
    linear probes and take a solver after a colon (``full:sgd``). ``knn`` (k = 1, 10, 200, cosine),
    ``knn-euclidean`` and ``long-tailed-knn`` may name a number of neighbors (``knn@5``). Then
    ``finetune`` and ``finetune-1%`` (any share). With ``+crop`` before the colon a linear probe is
    trained on one random crop and flip of every image. The papers' sets are ``bcl``, ``gh``,
    ``sdclr``, ``colt``, ``mak``, ``cacr``, ``ts`` (`SUITES`).

    Args:
        names: a list, or one string with commas.

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
    base, cropped, rest = base.partition("+crop")
    linear = None if rest else _linear(base, solver or "lbfgs")
    if linear is not None:
        return replace(linear, name=name, cropped=bool(cropped))
    if not colon and not cropped:
        kind, at, number = base.partition("@")
        count = (int(number),) if re.fullmatch(r"[1-9]\d*", number) else ()
        if kind in _KNN and bool(at) == bool(count):
            train, metric = _KNN[kind]
            # Each k has its own result, named after it; the protocol's name has none.
            neighbors = count or NEIGHBORS[train]
            return Protocol(kind, "knn", train, solver=metric, neighbors=neighbors)
        if base == "finetune":
            return Protocol(name, "finetune", "probe")
        if (match := re.fullmatch(rf"finetune-{_SHARE}", base)) and 0 < float(match[1]) <= 100:
            return Protocol(name, "finetune", "probe", float(match[1]) / 100)
    raise unknown_name("protocol", name, (*SINGLE, *SUITES))


_SHARE = r"(\d+(?:\.\d+)?)%"
_KNN: dict[str, tuple[Source, str]] = {
    "knn": ("probe", "cosine"),
    "knn-euclidean": ("probe", "euclidean"),
    "long-tailed-knn": ("long-tailed", "cosine"),
}


def _linear(base: str, solver: str) -> Protocol | None:
    """The linear protocol of a name without its solver, or None."""
    if base == "full":
        return Protocol(base, "linear", "probe", solver=solver)
    if base == "long-tailed":
        return Protocol(base, "linear", "long-tailed", solver=solver)
    if base == "balanced-lt":
        return Protocol(base, "linear", "long-tailed", 0, DRAWS, solver)
    if (match := re.fullmatch(r"(\d+)-shot", base)) and int(match[1]) > 0:
        return Protocol(base, "linear", "probe", int(match[1]), DRAWS, solver)
    if (match := re.fullmatch(_SHARE, base)) and 0 < float(match[1]) <= 100:
        return Protocol(base, "linear", "probe", float(match[1]) / 100, DRAWS, solver)
    return None
