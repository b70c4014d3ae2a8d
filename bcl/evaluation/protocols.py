"""Protocols by name: which images a representation is measured with, and how."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bcl.core.errors import unknown_name
from bcl.evaluation.probe.presets import SOLVERS

DRAWS = 5

Kind = Literal["linear", "knn", "finetune"]
# By paper; docs/evaluation.md says line by line where these differ from the papers.
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
        shots: images per class (int; 0: as many as the rarest class has), share of the balanced
            set (float), or None for all.
        draws: how many subsets.
        solver: of a linear probe; the metric of nearest neighbors.
        cropped: the training features are those of one random crop and flip of every image.
        neighbors: numbers of nearest neighbors; empty for those of the kind.
    """

    name: str
    kind: Kind
    train: Literal["probe", "long-tailed"]
    shots: int | float | None = None
    draws: int = 1
    solver: str = "lbfgs"
    cropped: bool = False
    neighbors: tuple[int, ...] = ()

    @property
    def source(self) -> str:
        """Which features it is trained on, such as ``"probe"`` or ``"probe+crop"``."""
        return self.train + ("+crop" if self.cropped else "")

    @property
    def description(self) -> str:
        """One line for reports."""
        return self._images + (", one random crop and flip of each" if self.cropped else "")

    @property
    def _images(self) -> str:
        where = "balanced probe set" if self.train == "probe" else "long-tailed training set"
        draws = f", {self.draws} draws" if self.draws > 1 else ""
        if self.shots is None:
            return f"whole {where}"
        if isinstance(self.shots, float):
            return f"{100 * self.shots:g} % of the {where}{draws}"
        if self.shots == 0:
            return f"as many images of each class of the {where} as its rarest has{draws}"
        return f"{self.shots} images a class of the {where}{draws}"


def parse_protocols(names: str | Sequence[str]) -> list[Protocol]:
    """Turn protocol names into protocols, each once, in the order asked for.

    ``full``, ``1%`` (any share), ``50-shot`` (any number), ``long-tailed``, ``balanced-lt`` are
    linear probes and take a solver behind a colon (``full:sgd``); ``knn`` (k = 1, 10, 200, cosine),
    ``knn-euclidean``, ``long-tailed-knn``, each also with a number of neighbors (``knn@5``);
    ``finetune``, ``finetune-1%`` (any share). With ``+crop`` before the colon a linear probe is
    trained on one random crop and flip of every image. The papers' sets: ``bcl``, ``gh``,
    ``sdclr``, ``colt``, ``mak``, ``cacr``, ``ts`` (`SUITES`).

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
    base, cropped, rest = base.partition("+crop")
    linear = None if rest else _linear(base, solver or "lbfgs")
    if linear is not None:
        return replace(linear, name=name, cropped=bool(cropped))
    if not colon and not cropped:
        kind, at, number = base.partition("@")
        count = (int(number),) if re.fullmatch(r"[1-9]\d*", number) else ()
        if kind in _NEIGHBORS and bool(at) == bool(count):
            train, metric = _NEIGHBORS[kind]
            # Results are named by their k, so the protocol itself is not.
            return Protocol(kind, "knn", train, solver=metric, neighbors=count)
        if base == "finetune":
            return Protocol(name, "finetune", "probe")
        if (match := re.fullmatch(rf"finetune-{_SHARE}", base)) and 0 < float(match[1]) <= 100:
            return Protocol(name, "finetune", "probe", float(match[1]) / 100)
    raise unknown_name("protocol", name, (*SINGLE, *SUITES))


_SHARE = r"(\d+(?:\.\d+)?)%"
_NEIGHBORS: dict[str, tuple[Literal["probe", "long-tailed"], str]] = {
    "knn": ("probe", "cosine"),
    "knn-euclidean": ("probe", "euclidean"),
    "long-tailed-knn": ("long-tailed", "cosine"),
}


def _linear(base: str, solver: str) -> Protocol | None:
    """The linear protocol of a name without its solver; None if it is none."""
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
