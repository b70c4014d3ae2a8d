"""The report's panel on the tail: which signal finds it, at the end and by epoch."""

from collections import Counter
from typing import Any, NamedTuple

from bcl.report.charts import COLORS, SHAPES, Row, axis, draw, epoch_axis, layer
from bcl.report.compare import Method

MEASURES = {
    "auc": "AUC, tail against head",
    "average_precision": "Average precision",
    "phi": "φ at 10 %",
    "spearman_samples": "Spearman, samples",
    "spearman_classes": "Spearman, class means",
}


def signals(tracker: dict[str, Any]) -> dict[str, Row]:
    """What a report says of each signal, the one that steers first; older ones know one."""
    keys = ("discovery", "discovery_note")
    found: dict[str, Row] = tracker.get("signals") or {"loss": {k: tracker.get(k) for k in keys}}
    return found


class Answer(NamedTuple):
    """Whether a signal finds the tail: "Yes", "No", "Not shown" or "Not measured", and why."""

    short: str
    words: str


def found_tail(discovery: dict[str, Any] | None) -> str:
    """Whether high values are those of the tail, by the interval of the AUC of one run."""
    if discovery is None:
        return "Not measured"
    _, low, high = discovery["auc"]
    if low <= 0.5 <= high:
        return "Not shown"
    return "Yes" if low > 0.5 else "No"


def answers(method: Method) -> list[Answer]:
    """The answer of each signal of a method, over all its seeds."""
    runs = [signals(run.tracker) for run in method.reports if run.tracker]
    names = dict.fromkeys(name for run in runs for name in run)
    return [_answer(method, name, [run[name] for run in runs if name in run]) for name in names]


def _answer(method: Method, signal: str, runs: list[Row]) -> Answer:
    """Yes or no where every run says so, by its own interval."""
    name = f"{method.label}: its {'momentum loss' if signal == 'loss' else signal}"
    found = [run["discovery"] for run in runs if run["discovery"]]
    if not found:
        return Answer("Not measured", f"{name}. {runs[0].get('discovery_note') or ''}")
    kinds = Counter(map(found_tail, found))
    short = next(iter(kinds)) if len(kinds) == 1 else "Not shown"
    words = {
        "Yes": "is higher for rare classes than for frequent ones",
        "No": "is higher for frequent classes than for rare ones",
        "Not shown": "is not shown to tell rare from frequent classes",
    }[short]
    if len(kinds) > 1:
        words = "does not give one answer in all seeds"
    if len(found) == 1:
        value, low, high = found[0]["auc"]
        auc = f"AUC {value:.2f} [{low:.2f}, {high:.2f}], chance 0.50; one seed"
    else:
        values = sorted(each["auc"][0] for each in found)
        each = ", ".join(f"{kind.lower()} in {count}" for kind, count in kinds.items())
        auc = f"AUC {values[0]:.2f} to {values[-1]:.2f}, chance 0.50; {each} of {len(found)} seeds"
    return Answer(short, f"{name} {words} ({auc}).")


def by_epoch(method: Method) -> str:
    """AUC of each signal over training; empty without a history of two epochs."""
    tracker, layers = method.first.tracker or {}, []
    for place, (name, found) in enumerate(signals(tracker).items()):
        rows = [
            {"x": r["epoch"], "y": r["auc"], "tip": (name, r["epoch"], f"{r['auc']:.3f}")}
            for r in found.get("epochs") or ()
        ]
        if len(rows) < 2:
            continue
        tint = COLORS[place % len(COLORS)]
        mark = SHAPES[place % len(SHAPES)]
        layers += [
            layer("line", rows, color=tint, strokeWidth=2),
            layer("point", rows, color=tint, filled=True, shape=mark, size=30),
            layer("text", rows[-1:], color=tint, text=name, align="right", dy=-9, fontSize=12),
        ]
    if not layers:
        return ""
    return draw(
        f"Tail discovery of {method.label} by epoch",
        "AUC of the tail against the head for each signal, by epoch; 0.5 is chance",
        epoch_axis(),
        axis("AUC, tail against head"),
        layers,
        ("signal", "epoch", "AUC"),
    )
