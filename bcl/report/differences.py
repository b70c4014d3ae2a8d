"""How one method differs from another under one protocol, and what that is tested over."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bcl.evaluation.metrics import confidence_interval
from bcl.evaluation.results import Estimate, ProbeReport, ProtocolResult, rounded
from bcl.report.significance import mcnemar, paired_interval, paired_t

if TYPE_CHECKING:
    from bcl.report.compare import Method

TESTED = ("all", "many", "medium", "few")


@dataclass
class Tested:
    """Differences of a method from the baseline by column: mean, its interval, p-value."""

    over: str = ""
    units: int = 0
    gains: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    p: dict[str, float | None] = field(default_factory=dict)

    @property
    def words(self) -> str | None:
        """The test in words."""
        words = {
            "seeds": f"paired t-test over {self.units} seeds",
            "draws": f"paired t-test over {self.units} draws, which says nothing about seeds",
            "images": "McNemar test over test images, which says nothing about seeds",
        }
        return words.get(self.over)


def difference(a: "Method", b: "Method", name: str, grouping: str) -> Tested:
    """Differences over common seeds, else over draws, else over test images."""
    runs = a.results(name), b.results(name)
    seeds = [seed for seed in runs[0] if seed is not None and seed in runs[1]]
    if len(seeds) > 1:

        def values(method: int) -> dict[str, list[float]]:
            found = [runs[method][seed] for seed in seeds]
            return {c: [estimate(r, c, grouping).mean for r in found] for c in TESTED}

        return _paired("seeds", values(0), values(1))
    first, second = (next(iter(own.values())) for own in runs)
    pool = "content_hash" if "long-tailed" in first.description else "probe_hash"
    if 1 < len(first.draws) == len(second.draws) and a.first.data[pool] == b.first.data[pool]:
        drawn = [_draws(m.first, r, grouping) for m, r in ((a, first), (b, second))]
        return _paired("draws", drawn[0], drawn[1])
    one, other = a.first.predictions, b.first.predictions
    if not {name, "labels"} <= one.keys() or name not in other:
        return Tested()
    if not len(one[name]) == len(other[name]) == 1:
        return Tested()
    right, also = (found[name][0] == one["labels"] for found in (one, other))
    return _by_images(right, also, _weights(a.first, one["labels"], grouping))


def _paired(over: str, first: dict[str, list[float]], second: dict[str, list[float]]) -> Tested:
    """Paired t-tests and intervals of the pairs of each column."""
    found = Tested(over, len(first["all"]))
    for column in TESTED:
        found.p[column] = p = paired_t(first[column], second[column])
        gains = [b - a for a, b in zip(first[column], second[column], strict=True)]
        mean, half = confidence_interval(gains)
        if not math.isnan(mean):
            found.gains[column] = rounded(mean)
        if p is not None:
            found.intervals[column] = (rounded(mean - half), rounded(mean + half))
    return found


def _weights(report: ProbeReport, labels: Tensor, grouping: str) -> dict[str, Tensor]:
    """(M,) what each test image adds to a column: one image of all, or of its class's share."""
    counts = report.data["test_counts"]
    found = {"all": torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)}
    for name, ids in report.groups[grouping].as_dict().items():
        share = torch.zeros(len(counts), dtype=torch.float64)
        tested = [c for c in ids.tolist() if counts[c]]
        for c in tested:
            share[c] = 1 / (len(tested) * counts[c])
        if tested:
            found[name] = share[labels]
    return found


def _by_images(right: Tensor, also: Tensor, weights: dict[str, Tensor]) -> Tested:
    """McNemar's test and the interval of each column, from (M,) right answers of two.

    The test is of columns whose images weigh alike.
    """
    found = Tested("images", len(right))
    only = right & ~also, also & ~right
    for column, weight in weights.items():
        images = 1 / float((weight**2).sum())  # as many of equal weight vary alike
        lost, won = (float(weight[each].sum()) * images for each in only)
        if len({*weight[weight > 0].tolist()}) == 1:
            found.p[column] = mcnemar(round(lost), round(won))
        low, high = paired_interval(lost, won, images)
        found.intervals[column] = (rounded(low), rounded(high))
    return found


def _draws(report: ProbeReport, result: ProtocolResult, grouping: str) -> dict[str, list[float]]:
    """The accuracy of each draw by column; NaN where no class of a group was tested."""
    found = {"all": [draw.accuracy for draw in result.draws]}
    groups = report.groups[grouping].as_dict() if grouping in report.groups else {}
    for column in TESTED[1:]:
        ids = groups[column].tolist() if groups else []
        rows = [[v for c in ids if (v := draw.per_class[c]) == v] for draw in result.draws]
        found[column] = [sum(row) / len(row) if row else math.nan for row in rows]
    return found


def estimate(result: ProtocolResult, column: str, grouping: str) -> Estimate:
    """A column of a result; NaN where the group is empty."""
    if column in ("all", "top5"):
        return result.accuracy if column == "all" else result.top5
    return result.groups.get(grouping, {}).get(column, Estimate(math.nan, math.nan))
