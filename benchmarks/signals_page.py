"""The tables of docs/signals.md, built from the files in benchmarks/evidence/signals.

make reproduce PRESET=signals ROOT=DIR
cd outputs/reproduce/signals && for p in *; do cp $p/results.json EVIDENCE/signals/$p.json; done
make docs
"""

from typing import Any

import results_page
import summary

from bcl.core.errors import InputError
from bcl.evaluation.metrics import confidence_interval
from bcl.memorization.signals import SIGNALS
from bcl.report.tables import Table

EVIDENCE = results_page.EVIDENCE / "signals"
Result = dict[str, Any]
# Preset, signal, and whether the mean AUC over class orders should lie above one half.
PREDICTED = (
    ("signals-cifar10", "loss", False),
    ("signals-cifar10", "isolation", True),
    ("signals-cifar100", "loss", True),
    ("signals-tiny", "loss", True),
)
ISOLATION = "BCL-I by isolation"
# What it is compared with, and whether its mean gain should lie above 0.
PREDICTED_GAINS = (("bcl_i_loss", "BCL-I by the loss", True), ("simclr", "SimCLR", False))
TITLES = {
    "signals-cifar10": "CIFAR-10-LT",
    "signals-cifar100": "CIFAR-100-LT",
    "signals-tiny": "Tiny-ImageNet-LT, one class order",
}


def found(run: str = "simclr") -> str:
    """How well each signal found the tail in a method's runs, a table per data set and measure."""
    parts = []
    for result in results_page.published(EVIDENCE):
        label = summary.labels(result).get(run)
        if label is None:
            continue
        parts.append(f"### {result['about']}")
        for measure, title in (("auc", "AUC"), ("phi", "φ at 10 %")):
            parts.append(f"{label}, {title}, with 95 % bootstrap intervals over samples:")
            parts.append(by_order(result, run, measure))
    return "\n\n".join(parts) or "*Not run yet.*"


def by_order(result: Result, run: str, measure: str) -> str:
    """A row per signal, a column per seed, and the mean over the seeds with its interval."""
    runs = sorted((r for r in result["runs"] if r["run"] == run), key=lambda r: r["seed"])
    rows = []
    for signal in SIGNALS:
        values = [each["signals"].get(signal, {}).get(measure) for each in runs]
        if any(values):
            mean = with_interval([value[0] for value in values if value])
            rows.append([signal, mean, *(cell(value) for value in values)])
    seeds = [f"seed {each['seed']}" for each in runs]
    return Table(["signal", "mean over seeds", *seeds], rows).markdown()


def cell(value: list[float] | None) -> str:
    """A value with its interval."""
    return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]" if value else "–"


def with_interval(values: list[float]) -> str:
    """Mean ± half of its 95 % interval over seeds."""
    middle, half = confidence_interval(values)
    return f"{middle:.3f} ± {half:.3f}" if half == half else f"{middle:.3f}"


def of_preset(preset: str) -> Result:
    """The results of a preset, without runs if there are none."""
    found = [each for each in results_page.published(EVIDENCE) if each["preset"] == preset]
    if len(found) > 1:
        raise InputError(
            f"the files of preset '{preset}' in {EVIDENCE} are of several commits, so that a seed "
            "would count more than once; keep one."
        )
    return found[0] if found else {"runs": []}


def auc(preset: str, signal: str) -> list[float]:
    """AUC of a signal in the SimCLR runs of a preset, by seed."""
    return [
        run["signals"][signal]["auc"][0]
        for run in of_preset(preset)["runs"]
        if run["run"] == "simclr" and signal in run["signals"]
    ]


def gains(preset: str, baseline: str, column: str) -> list[float]:
    """What BCL-I by isolation gains over a baseline in points, by the seeds that both have."""
    rows = summary.differences(of_preset(preset), [("bcl_i_isolation", baseline)], "full")
    return [gain for row in rows for gain in row[column]["by_seed"]]


def predictions() -> str:
    """What was predicted of means over seeds, and what was measured."""
    rows = [
        judged(preset, f"AUC of {signal}", auc(preset, signal), above, chance=0.5)
        for preset, signal, above in PREDICTED
    ]
    rows += [
        judged(preset, f"{ISOLATION} - {label}, {title}", gains(preset, baseline, column), above)
        for preset in ("signals-cifar10", "signals-cifar100")
        for baseline, label, above in PREDICTED_GAINS
        for column, title in (("all", "All"), ("few", "Few"))
    ]
    head = ["data", "mean over seeds", "predicted", "measured", "prediction"]
    return Table(head, rows, left=5).markdown()


def judged(
    preset: str, what: str, values: list[float], above: bool, chance: float = 0
) -> list[str]:
    """A row on one prediction."""
    said = f"above {chance:g}" if above else f"not above {chance:g}"
    seeds = "1 seed" if len(values) == 1 else f"{len(values)} seeds"
    measured = f"{with_interval(values)} ({seeds})" if values else "not run yet"
    return [TITLES[preset], what, said, measured, outcome(values, above, chance)]


def outcome(values: list[float], above: bool, chance: float = 0.5) -> str:
    """Whether the interval over the seeds bears out a prediction; one that holds chance does not.

    Example:
        >>> outcome([0.6, 0.61, 0.59], above=True), outcome([0.6, 0.61, 0.59], above=False)
        ('held', 'failed')
        >>> outcome([0.4, 0.6], above=False), outcome([], above=True)
        ('open: 0.5 is within the interval', 'open')
    """
    if len(values) < 2:
        return "open"
    middle, half = confidence_interval(values)
    if middle - half <= chance <= middle + half:
        return f"open: {chance:g} is within the interval"
    return "held" if (middle > chance) == above else "failed"


def steering() -> str:
    """Accuracies of all runs; paired differences, a table per run that steers and data set."""
    parts = []
    for result in results_page.published(EVIDENCE):
        if len(summary.labels(result)) < 2:
            continue
        parts.append(f"### {result['about']}: accuracy")
        parts += results_page.provenance(result)
        for name, description in result["descriptions"].items():
            parts += [f"Protocol `{name}`: {description}.", results_page.means(result, name)]
            for run in dict.fromkeys(run for run, _ in result["pairs"]):
                own = [pair for pair in result["pairs"] if pair[0] == run]
                if gains := results_page.differences({**result, "pairs": own}, name):
                    parts.append(gains)
    return "\n\n".join(parts) or "*Not run yet.*"
