"""The report's panel on the tail: which signal finds it, at the end and by epoch."""

from typing import Any

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


def found_tail(discovery: dict[str, Any] | None) -> str:
    """Whether high values are those of the tail, in words, by the interval of the AUC."""
    if discovery is None:
        return "not measured"
    _, low, high = discovery["auc"]
    if low <= 0.5 <= high:
        return "not shown: chance is within the interval"
    return "yes" if low > 0.5 else "no: the head has the higher values"


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
