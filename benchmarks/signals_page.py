"""The tables of docs/signals.md, built from the files in benchmarks/evidence/signals.

make reproduce PRESET=signals ROOT=DIR
cd outputs/reproduce/signals && for p in *; do cp $p/results.json EVIDENCE/signals/$p.json; done
make docs
"""

from typing import Any

import results_page
import summary

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
TITLES = {
    "signals-cifar10": "CIFAR-10-LT",
    "signals-cifar100": "CIFAR-100-LT",
    "signals-tiny": "Tiny-ImageNet-LT",
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


def auc(preset: str, signal: str) -> list[float]:
    """AUC of a signal in the SimCLR runs of a preset, by seed."""
    return [
        run["signals"][signal]["auc"][0]
        for result in results_page.published(EVIDENCE)
        if result["preset"] == preset
        for run in result["runs"]
        if run["run"] == "simclr" and signal in run["signals"]
    ]


def predictions() -> str:
    """What was predicted of the mean AUC in SimCLR runs, and what was measured."""
    rows = []
    for preset, signal, above in PREDICTED:
        values = auc(preset, signal)
        said = "above 0.5" if above else "not above 0.5"
        seeds = "1 seed" if len(values) == 1 else f"{len(values)} seeds"
        measured = f"{with_interval(values)} ({seeds})" if values else "not run yet"
        rows.append([TITLES[preset], signal, said, measured, outcome(values, above)])
    head = ["data", "signal", "predicted: mean AUC", "measured", "prediction"]
    return Table(head, rows, left=5).markdown()


def outcome(values: list[float], above: bool) -> str:
    """Whether the interval over the seeds bears out a prediction.

    Example:
        >>> outcome([0.6, 0.61, 0.59], above=True), outcome([0.6, 0.61, 0.59], above=False)
        ('held', 'failed')
        >>> outcome([0.4, 0.6], above=True), outcome([], above=True)
        ('open: 0.5 is within the interval', 'open')
    """
    if len(values) < 2:
        return "open"
    middle, half = confidence_interval(values)
    if middle - half <= 0.5 <= middle + half:
        return "open: 0.5 is within the interval" if above else "held: 0.5 is within the interval"
    return "held" if (middle > 0.5) == above else "failed"


def steering() -> str:
    """Accuracies of all runs and paired differences, a section per data set."""
    parts = []
    for result in results_page.published(EVIDENCE):
        if len(summary.labels(result)) < 2:
            continue
        parts.append(f"### {result['about']}: accuracy")
        parts += results_page.provenance(result)
        for name, description in result["descriptions"].items():
            parts += [f"Protocol `{name}`: {description}.", results_page.means(result, name)]
            if gains := results_page.differences(result, name):
                parts.append(gains)
    return "\n\n".join(parts) or "*Not run yet.*"
