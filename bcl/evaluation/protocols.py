"""Protocols by name: which images a representation is measured with, and how."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bcl.core.checks import check_choice
from bcl.core.errors import InputError, unknown_name
from bcl.evaluation.probe.options import GRADIENT_SOLVERS, SOLVERS

DRAWS = 5

Kind = Literal["linear", "knn", "finetune"]
Source = Literal["probe", "long-tailed"]
# What other programs call a protocol.
ALIASES = {"linear": "full", "lp": "full", "probe": "full", "few-shot": "10-shot"}
# By paper; docs/evaluation.md lists how these differ from the papers.
SUITES = {
    "bcl": ("full:adam", "100-shot:adam", "50-shot:adam"),
    "gh": ("full+crop:adam", "100-shot+crop:adam", "knn-euclidean@5"),
    "sdclr": ("full+crops:sgd", "1%+crops:sgd", "balanced-lt+crops:sgd"),
    "colt": ("full+crops:sgd", "1%+crops:sgd", "balanced-lt+crops:sgd"),
    "mak": ("full+crops:sgd", "1%+crops:sgd"),
    "cacr": ("full:cacr",),
    "ts": ("long-tailed-knn", "balanced-lt:svc", "long-tailed:svc"),
    "ts-imagenet100": ("long-tailed-knn", "1%:svc", "long-tailed:svc"),
    "dystress": ("long-tailed-knn",),
    "rwsam": ("full+crops:moco", "finetune"),
}
SINGLE = (
    *("full", "1%", "50-shot", "100-shot", "long-tailed", "balanced-lt"),
    *("knn", "knn-euclidean", "long-tailed-knn", "finetune", "finetune-1%"),
)
# Training images, shots (see `Protocol`) and draws of the linear protocols without a number.
WHOLE: dict[str, tuple[Source, int | None, int]] = {
    "full": ("probe", None, 1),
    "long-tailed": ("long-tailed", None, 1),
    "balanced-lt": ("long-tailed", 0, DRAWS),
}
KNN: dict[str, tuple[Source, str]] = {
    "knn": ("probe", "cosine"),
    "knn-euclidean": ("probe", "euclidean"),
    "long-tailed-knn": ("long-tailed", "cosine"),
}
NEIGHBORS = {"probe": (1, 10, 200), "long-tailed": (1, 10)}  # unless the name has a number


@dataclass(frozen=True)
class Protocol:
    """One way to measure a representation."""

    name: str  # as shown in reports
    kind: Kind
    train: Source  # the balanced set, or the pretraining set
    # Images per class (int; 0: as many as the rarest class has), share of the set, or None for all.
    shots: int | float | None = None
    draws: int = 1  # number of subsets
    solver: str = "lbfgs"  # of a linear probe; the metric of nearest neighbors
    cropped: bool = False  # train on one random crop and flip of every image
    fresh: bool = False  # train on a new one in every epoch
    neighbors: tuple[int, ...] = ()  # numbers of nearest neighbors

    @property
    def results(self) -> tuple[str, ...]:
        """Names of its results: nearest neighbors have one for each number of neighbors."""
        return tuple(f"{self.name}@{k}" for k in self.neighbors) or (self.name,)

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
        crop = ", one random crop and flip of each" if self.cropped else ""
        fresh = ", a new random crop and flip of each in every epoch" if self.fresh else ""
        return images + draws + crop + fresh


def parse_protocols(names: str | Sequence[str]) -> list[Protocol]:
    """Turn protocol names, a list or one string with commas, into protocols, each once, in order.

    ``full``, ``1%`` (any share), ``50-shot`` (any number), ``long-tailed``, ``balanced-lt`` are
    linear probes and take a solver after a colon (``full:sgd``). ``knn`` (k = 1, 10, 200, cosine),
    ``knn-euclidean`` and ``long-tailed-knn`` may name a number of neighbors (``knn@5``). Then
    ``finetune`` and ``finetune-1%`` (any share). With ``+crop`` before the colon a linear probe is
    trained on one random crop and flip of every image, with ``+crops`` on a new one in every epoch.
    `SUITES` has the papers' sets.

    Raises:
        InputError: an unknown name, or ``+crops`` with a solver that has no epochs.

    Example:
        >>> [protocol.name for protocol in parse_protocols("bcl,1%")]
        ['full:adam', '100-shot:adam', '50-shot:adam', '1%']
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    singles = (single for name in names for single in SUITES.get(name, (name,)))
    return [_single(name) for name in dict.fromkeys(singles)]


def _single(name: str) -> Protocol:
    head, colon, solver = name.partition(":")
    if colon:
        check_choice("solver", solver, SOLVERS)
    base, plus, crop = head.partition("+")
    train, shots, draws = WHOLE.get(base) or ("probe", _shots(base), DRAWS)
    if (base in WHOLE or shots) and (crop in ("crop", "crops") or not plus):
        if crop == "crops" and solver not in GRADIENT_SOLVERS:
            raise InputError(
                f"'{name}' crops anew in every epoch, and '{solver or 'lbfgs'}' has none; take "
                f"{', '.join(f'{head}:{each}' for each in GRADIENT_SOLVERS)}, or +crop."
            )
        solver = solver or "lbfgs"
        cropped, fresh = crop == "crop", crop == "crops"
        return Protocol(name, "linear", train, shots, draws, solver, cropped, fresh)
    kind, at, k = name.partition("@")
    if kind in KNN and (not at or re.fullmatch(r"[1-9]\d*", k)):
        train, metric = KNN[kind]
        # Each k has its own result, named after it; the protocol's name has none.
        neighbors = (int(k),) if at else NEIGHBORS[train]
        return Protocol(kind, "knn", train, solver=metric, neighbors=neighbors)
    share = _shots(name.removeprefix("finetune-"))
    if name == "finetune" or (name.startswith("finetune-") and isinstance(share, float)):
        return Protocol(name, "finetune", "probe", share)
    near = ALIASES.get(name) or re.sub(r"^knn-?(?=\d)", "knn@", name)
    near = re.sub(r"^(\d+)[ _-]?shots?$", r"\1-shot", near)
    if near != name:
        raise InputError(f"unknown protocol '{name}'; did you mean '{near}'?")
    raise unknown_name("protocol", name, (*SINGLE, *SUITES))


def _shots(text: str) -> int | float | None:
    """50 for ``"50-shot"``, 0.01 for ``"1%"``, None for anything else."""
    if match := re.fullmatch(r"0*([1-9]\d*)-shot", text):
        return int(match[1])
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    return float(match[1]) / 100 if match and 0 < float(match[1]) <= 100 else None
