"""Protocols by name: which pictures a probe is fitted on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bcl.errors import unknown_name

DRAWS = 5

Kind = Literal["linear", "knn"]
KNOWN = ("full", "1%", "50-shot", "100-shot", "long-tailed", "knn", "bcl", "sdclr")
_SUITES = {
    "bcl": ("full", "100-shot", "50-shot"),
    "sdclr": ("full", "1%"),
}


@dataclass(frozen=True)
class Protocol:
    """One way to measure a representation.

    Attributes:
        name: as shown in reports.
        kind: ``"linear"`` or ``"knn"``.
        train: ``"probe"`` for the balanced set, ``"long-tailed"`` for the pretraining set.
        shots: pictures per class (int), share of the balanced set (float), or None for all.
        draws: how many subsets.
    """

    name: str
    kind: Kind
    train: Literal["probe", "long-tailed"]
    shots: int | float | None = None
    draws: int = 1

    @property
    def description(self) -> str:
        """One line for reports."""
        where = "balanced probe set" if self.train == "probe" else "long-tailed training set"
        if isinstance(self.shots, int):
            what = f"{self.shots} pictures a class of the {where}, {self.draws} draws"
        elif isinstance(self.shots, float):
            what = f"{100 * self.shots:g} % of the {where}, {self.draws} draws"
        else:
            what = f"whole {where}"
        return what


def parse_protocols(names: str | Sequence[str]) -> list[Protocol]:
    """Turn protocol names into protocols, each once, in the order asked for.

    ``full``, ``1%`` (any share), ``50-shot`` (any number), ``long-tailed``, ``knn``; and the
    papers' sets of them: ``bcl`` (full, 100-shot, 50-shot), ``sdclr`` (full, 1%).

    Args:
        names: names, or one string with commas.

    Returns:
        The protocols.

    Raises:
        InputError: unknown name.

    Example:
        >>> [protocol.name for protocol in parse_protocols("bcl,1%")]
        ['full', '100-shot', '50-shot', '1%']
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    found: dict[str, Protocol] = {}
    for name in names:
        for single in _SUITES.get(name, (name,)):
            found.setdefault(single, _single(single))
    return list(found.values())


def _single(name: str) -> Protocol:
    if name == "full":
        return Protocol(name, "linear", "probe")
    if name == "long-tailed":
        return Protocol(name, "linear", "long-tailed")
    if name == "knn":
        return Protocol(name, "knn", "probe")
    if match := re.fullmatch(r"(\d+)-shot", name):
        return Protocol(name, "linear", "probe", int(match[1]), DRAWS)
    if (match := re.fullmatch(r"(\d+(?:\.\d+)?)%", name)) and 0 < float(match[1]) <= 100:
        return Protocol(name, "linear", "probe", float(match[1]) / 100, DRAWS)
    raise unknown_name("protocol", name, KNOWN)
