"""The tables of docs/signals.md, built from the files in benchmarks/evidence/signals.

make reproduce PRESET=signals ROOT=DIR
cd outputs/reproduce/signals && for p in *; do cp $p/results.json EVIDENCE/signals/$p.json; done
make docs
"""

from typing import Any

import results_page
import summary
from preset import read_preset

from bcl.core.errors import InputError
from bcl.evaluation.metrics import confidence_interval
from bcl.memorization.signals import SIGNALS
from bcl.report.tables import Table

EVIDENCE = results_page.SIGNALS
Result = dict[str, Any]
# Preset, signal, and whether the mean AUC over class orders should lie above one half.
PREDICTED = (
    ("signals-cifar10", "loss", False),
    ("signals-cifar10", "isolation", True),
    ("signals-cifar100", "loss", True),
    ("signals-tiny", "loss", True),
)
ISOLATION = "BCL-I by isolation"
MIN_SEEDS = 5  # of a prediction that is judged, and of a difference that may be bold
# What it is compared with, and whether its mean gain should lie above 0.
PREDICTED_GAINS = (("bcl_i_loss", "BCL-I by the loss", True), ("simclr", "SimCLR", False))
# Run of signals-networks, in the order of its table; between them the network of signals-cifar10.
NETWORKS = ("epochs_50", "simclr", "epochs_400", "wide", "mobilenet")
FIRST = "ResNet-8, 200 epochs"
TITLES = {
    "signals-cifar10": "CIFAR-10-LT",
    "signals-cifar100": "CIFAR-100-LT",
    "signals-tiny": "Tiny-ImageNet-LT, one class order",
    "signals-networks": "CIFAR-10-LT",
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
    """A row per signal: mean over the seeds, also of the difference from the loss, and each."""
    runs = sorted((r for r in result["runs"] if r["run"] == run), key=lambda r: r["seed"])
    cells = {
        signal: {each["seed"]: each["signals"].get(signal, {}).get(measure) for each in runs}
        for signal in SIGNALS
    }
    means = {
        signal: {seed: value[0] for seed, value in row.items() if value}
        for signal, row in cells.items()
    }
    rows = []
    for signal, values in means.items():
        if not values:
            continue
        gain = [] if signal == "loss" else paired(values, means["loss"])
        difference = with_interval(gain, sign=True) if gain else "–"
        rows.append(
            [
                signal,
                with_interval([*values.values()]),
                difference,
                *map(cell, cells[signal].values()),
            ]
        )
    seeds = [f"seed {each['seed']}" for each in runs]
    return Table(["signal", "mean over seeds", "minus the loss", *seeds], rows).markdown()


def cell(value: list[float] | None) -> str:
    """A value with its interval."""
    return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]" if value else "–"


def with_interval(values: list[float], sign: bool = False) -> str:
    """Mean ± half of its 95 % interval over seeds."""
    middle, half = confidence_interval(values)
    mean = f"{middle:+.3f}" if sign else f"{middle:.3f}"
    return f"{mean} ± {half:.3f}" if half == half else mean


def of_preset(preset: str) -> Result:
    """The results of a preset, without runs if there are none."""
    found = [each for each in results_page.published(EVIDENCE) if each["preset"] == preset]
    if len(found) > 1:
        raise InputError(
            f"the files of preset '{preset}' in {EVIDENCE} are of several commits, so that a seed "
            "would count more than once; keep one."
        )
    return found[0] if found else {"runs": []}


def auc(preset: str, signal: str, run: str = "simclr") -> dict[int, float]:
    """AUC of a signal in the runs of that name of a preset, by seed."""
    return {
        each["seed"]: each["signals"][signal]["auc"][0]
        for each in of_preset(preset)["runs"]
        if each["run"] == run and signal in each["signals"]
    }


def paired(new: dict[int, float], old: dict[int, float]) -> list[float]:
    """Differences by the seeds that both have."""
    return [new[seed] - old[seed] for seed in sorted(new.keys() & old.keys())]


def gains(preset: str, baseline: str, column: str) -> list[float]:
    """What BCL-I by isolation gains over a baseline in points, by the seeds that both have."""
    rows = summary.differences(of_preset(preset), [("bcl_i_isolation", baseline)], "full")
    return [gain for row in rows for gain in row[column]["by_seed"]]


def predictions() -> str:
    """What was predicted of means over seeds, and what was measured."""
    rows = [
        judged(preset, f"AUC of {signal}", [*auc(preset, signal).values()], above, chance=0.5)
        for preset, signal, above in PREDICTED
    ]
    rows += [
        judged(preset, f"{ISOLATION} - {label}, {title}", gains(preset, baseline, column), above)
        for preset in ("signals-cifar10", "signals-cifar100")
        for baseline, label, above in PREDICTED_GAINS
        for column, title in (("all", "All"), ("few", "Few"))
    ]
    return judgments(rows)


def judgments(rows: list[list[str]]) -> str:
    """A table of predictions."""
    head = ["data", "mean over seeds", "predicted", "measured", "prediction"]
    return Table(head, rows, left=5).markdown()


def judged(
    preset: str, what: str, values: list[float], above: bool, chance: float = 0
) -> list[str]:
    """A row on one prediction."""
    said = f"above {chance:g}" if above else f"not above {chance:g}"
    seeds = "1 seed" if len(values) == 1 else f"{len(values)} seeds"
    measured = f"{with_interval(values, sign=not chance)} ({seeds})" if values else "not run yet"
    return [TITLES[preset], what, said, measured, outcome(values, above, chance)]


def outcome(values: list[float], above: bool, chance: float = 0.5) -> str:
    """Whether the interval over the seeds bears out a prediction; one that holds chance does not.

    Example:
        >>> high = [0.6, 0.61, 0.59, 0.6, 0.6]
        >>> outcome(high, above=True), outcome(high, above=False), outcome(high[:2], above=True)
        ('held', 'failed', 'open: 2 of 5 seeds')
        >>> outcome([0.4, 0.6, 0.4, 0.6, 0.5], above=False)
        'open: 0.5 is within the interval'
    """
    if len(values) < MIN_SEEDS:
        return f"open: {len(values)} of {MIN_SEEDS} seeds"
    middle, half = confidence_interval(values)
    if middle - half <= chance <= middle + half:
        return f"open: {chance:g} is within the interval"
    return "held" if (middle > chance) == above else "failed"


def networks() -> str:
    """AUC in SimCLR's runs of other networks and lengths, and what was predicted of it."""
    result = of_preset("signals-networks")
    if not result["runs"]:
        return "*Not run yet.*"
    runs = read_preset("signals-networks")["runs"]
    labels = {key: run["label"] for key, run in runs.items()} | {"simclr": FIRST}
    found = {
        signal: {run: auc(preset_of(run), signal, run) for run in NETWORKS} for signal in SIGNALS
    }
    rows = [
        [
            signal,
            *(with_interval([*by_seed.values()]) if by_seed else "–" for by_seed in runs.values()),
        ]
        for signal, runs in found.items()
        if any(runs.values())
    ]
    table = Table(["signal", *(labels[run] for run in NETWORKS)], rows).markdown()
    predicted = [
        judged(
            "signals-networks", f"{labels[run]}: AUC of isolation - of the loss",
            paired(found["isolation"][run], found["loss"][run]), above=True,
        )
        for run in NETWORKS
        if run != "simclr"
    ]  # fmt: skip
    loss = found["loss"]
    predicted.append(
        judged(
            "signals-networks", "AUC of the loss, 400 epochs - 50 epochs",
            paired(loss["epochs_400"], loss["epochs_50"]), above=True,
        )
    )  # fmt: skip
    about = f"{FIRST}: the SimCLR runs above."
    return "\n\n".join([*results_page.provenance(result), about, table, judgments(predicted)])


def preset_of(run: str) -> str:
    """Where a run of `NETWORKS` is from."""
    return "signals-cifar10" if run == "simclr" else "signals-networks"


def steering() -> str:
    """Accuracies of all runs; paired differences, a table per run that steers and data set."""
    parts = []
    for result in results_page.published(EVIDENCE):
        if len(summary.labels(result)) < 2 or not result["pairs"]:
            continue
        parts.append(f"### {result['about']}: accuracy")
        parts += results_page.provenance(result)
        for name, description in result["descriptions"].items():
            parts += [f"Protocol `{name}`: {description}.", results_page.means(result, name)]
            for run in dict.fromkeys(run for run, _ in result["pairs"]):
                own = [pair for pair in result["pairs"] if pair[0] == run]
                of_run = {**result, "pairs": own}
                if gains := results_page.differences(
                    of_run, name, family=len(own), seeds=MIN_SEEDS
                ):
                    parts.append(gains)
    return "\n\n".join(parts) or "*Not run yet.*"
