"""The charts of the report."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from bcl.report.compare import Method
from bcl.report.figures import COLORS, MARKERS, Chart, number, smooth
from bcl.report.tables import percent

Values = dict[str, Any]
Curve = tuple[Method, str, list[tuple[float, tuple[float, float]]]]


def color(index: int) -> str:
    """Color of a method."""
    return COLORS[index % len(COLORS)]


def marker(index: int) -> str:
    """Marker of a method, so that color is never the only sign."""
    return MARKERS[index % len(MARKERS)]


def main_protocol(methods: Sequence[Method]) -> str:
    """The protocol that per-class charts show: the first linear one of the baseline.

    Args:
        methods: the baseline first.

    Returns:
        Its name.
    """
    entries = methods[0].plain[0]["protocols"]
    linear = [entry["name"] for entry in entries if entry["kind"] == "linear"]
    return str(linear[0] if linear else entries[0]["name"])


def _limits(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * pad or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _count_limits(counts: Sequence[int]) -> tuple[float, float]:
    there = [count for count in counts if count > 0] or [1]
    return min(there) * 0.85, max(there) * 1.18


def _size(marks: int) -> float:
    """Half the width of a mark: many marks are small and faint, or they hide one another."""
    return 3.5 if marks <= 400 else 1.8


def _whole(value: float) -> str:
    return f"{100 * value:.6g}"  # ticks may stand at 2.5: rounded, they would be wrong


def _epoch(value: float) -> str:
    return number(value) if value == int(value) else ""  # there is no half an epoch


def _signed(value: float) -> str:
    return "0" if abs(value) < 1e-9 else f"{100 * value:+.6g}"


def _by_class(method: Method, protocol: str) -> dict[int, float]:
    entry = method.entry(protocol)
    if entry is None:
        return {}
    counts = method.plain[0]["data"]["class_counts"]
    return {
        class_id: value
        for class_id, value in enumerate(entry["per_class"])
        if value is not None and counts[class_id] > 0
    }


def accuracy_over_frequency(methods: Sequence[Method], protocol: str) -> str:
    """Accuracy of every class over its training images, with a smoothed line.

    Args:
        methods: the baseline first.
        protocol: which accuracy.

    Returns:
        SVG; empty without classes.
    """
    data = methods[0].plain[0]["data"]
    rows = [(method, _by_class(method, protocol)) for method in methods]
    values = [value for _, by_class in rows for value in by_class.values()]
    if not values:
        return ""
    low = math.floor(min(values) * 10 - 0.3) / 10
    chart = Chart(
        "Accuracy over class frequency",
        f"test accuracy of every class ({protocol}) over its number of training images, one "
        "color and marker a run, with a smoothed line",
        "training images of the class (log scale)",
        "test accuracy, %",
        _count_limits(data["class_counts"]),
        (max(low, 0.0) if low >= 0.5 else 0.0, 1.0),
        x_log=True,
        y_format=_whole,
    )
    lines, size = [], _size(len(values))
    for method, by_class in rows:
        counts = method.plain[0]["data"]["class_counts"]
        tint = color(method.index)
        for class_id, value in by_class.items():
            name = data["class_names"][class_id]
            tip = f"{method.label}: {name}, {counts[class_id]:,} images, {percent(value, 1)} %"
            chart.point(counts[class_id], value, tint, marker(method.index), tip, size)
        lines.append((_smoothed(by_class, counts), tint))
    for line, tint in lines:
        if line:
            clamped = [(x, min(max(y, chart.y_range[0]), 1.0)) for x, y in line]
            chart.line(clamped, tint, width=2.4, halo=True)
    return chart.svg()


def _smoothed(by_class: dict[int, float], counts: Sequence[int]) -> list[tuple[float, float]]:
    x = [math.log(counts[class_id]) for class_id in by_class]
    return [(math.exp(a), b) for a, b in smooth(x, list(by_class.values()))]


def gain_over_baseline(methods: Sequence[Method], protocol: str) -> str:
    """Difference from the baseline for every class, over its training images.

    Args:
        methods: the baseline first.
        protocol: which accuracy.

    Returns:
        SVG; empty where there is nothing to compare.
    """
    base = _by_class(methods[0], protocol)
    rows = []
    for method in methods[1:]:
        own = _by_class(method, protocol)
        gains = {class_id: own[class_id] - base[class_id] for class_id in own if class_id in base}
        if gains:
            rows.append((method, gains))
    if not rows:
        return ""
    data = methods[0].plain[0]["data"]
    largest = max(abs(value) for _, gains in rows for value in gains.values()) * 1.1 or 0.01
    chart = Chart(
        "Gain over the baseline",
        f"accuracy of every class minus that of {methods[0].label} ({protocol}), in points, over "
        "its number of training images, with a smoothed line",
        "training images of the class (log scale)",
        f"points over {methods[0].label}",
        _count_limits(data["class_counts"]),
        (-largest, largest),
        x_log=True,
        y_format=_signed,
    )
    chart.level(0.0, "")
    size = _size(sum(len(gains) for _, gains in rows))
    for method, gains in rows:
        tint, counts = color(method.index), data["class_counts"]
        for class_id, value in gains.items():
            name = data["class_names"][class_id]
            tip = f"{method.label}: {name}, {counts[class_id]:,} images, {100 * value:+.1f} points"
            chart.point(counts[class_id], value, tint, marker(method.index), tip, size)
    for method, gains in rows:  # lines lie over the marks of all methods
        if line := _smoothed(gains, data["class_counts"]):
            chart.line(line, color(method.index), width=2.4, halo=True)
    return chart.svg()


def _few_shot(methods: Sequence[Method]) -> list[Curve]:
    """Lines of two points or more: method, solver, and (images per class, (mean, interval))."""
    curves: list[Curve] = []
    for method in methods:
        by_solver: dict[str, dict[float, tuple[float, float]]] = {}
        for entry in method.plain[0]["protocols"]:
            balanced = "long-tailed" not in entry["description"]
            if entry["kind"] != "linear" or not balanced:
                continue
            chosen = entry["draws"][0]["chosen"]
            shots = chosen["train_images"] / method.plain[0]["data"]["num_classes"]
            runs = method.entries(entry["name"])
            mean = sum(run["summary"]["accuracy"]["mean"] for run in runs) / len(runs)
            spread = entry["summary"]["accuracy"]["ci95"] or 0.0
            by_solver.setdefault(chosen["solver"], {})[shots] = (mean, spread)
        for solver, points in by_solver.items():
            if len(points) > 1:
                curves.append((method, solver, sorted(points.items())))
    return curves


def few_shot_curve(methods: Sequence[Method]) -> str:
    """Accuracy over labeled images per class, of the linear protocols on the balanced set.

    Args:
        methods: the baseline first.

    Returns:
        SVG; empty unless a method has two points of one solver.
    """
    curves = _few_shot(methods)
    if not curves:
        return ""
    every = [(shots, value) for _, _, points in curves for shots, value in points]
    bounds = [mean + sign * half for _, (mean, half) in every for sign in (-1, 1)]
    chart = Chart(
        "Few-shot curve",
        "test accuracy over labeled images per class, one line a run, bars are 95 % intervals "
        "over draws",
        "labeled images per class (log scale)",
        "test accuracy, %",
        (min(x for x, _ in every) * 0.85, max(x for x, _ in every) * 1.18),
        _limits(bounds),
        x_log=True,
        y_format=lambda value: f"{100 * value:g}",
    )
    solvers = list(dict.fromkeys(solver for _, solver, _ in curves))
    for method, solver, steps in curves:
        tint = color(method.index)
        dash = DASHES[solvers.index(solver) % len(DASHES)][1]
        chart.line([(shots, mean) for shots, (mean, _) in steps], tint, dash=dash)
        for shots, (mean, spread) in steps:
            if spread:
                chart.stem(shots, mean - spread, mean + spread, tint)
            tip = f"{method.label} ({solver}): {number(round(shots, 1))} per class, "
            tip += f"{percent(mean)} %"
            chart.point(shots, mean, tint, marker(method.index), tip, size=4)
    return chart.svg()


DASHES = (
    ("solid line", ""),
    ("dashed line", "7 4"),
    ("dotted line", "2 3"),
    ("dash-dotted line", "8 3 2 3"),
)


def solver_lines(methods: Sequence[Method]) -> str:
    """Which line of the few-shot curve is whose, in words.

    Args:
        methods: the baseline first.

    Returns:
        Such as ``"lbfgs a solid line, sgd a dashed line"``.
    """
    names = list(dict.fromkeys(solver for _, solver, _ in _few_shot(methods)))
    return ", ".join(f"{name} a {DASHES[i % len(DASHES)][0]}" for i, name in enumerate(names))


def history_curve(
    methods: Sequence[Method],
    key: str,
    title: str,
    label: str,
    y_format: Callable[[float], str] = number,
) -> str:
    """A value of every epoch's record, one line a run.

    Args:
        methods: the baseline first.
        key: in the history's rows, such as ``"loss"``.
        title: of the chart.
        label: of the y axis.
        y_format: how y ticks are written.

    Returns:
        SVG; empty where no run recorded it.
    """
    curves = []
    for method in methods:
        for plain in method.plain:
            points = [
                (float(row["epoch"]), float(row[key]))
                for row in plain["record"].get("history") or []
                if row.get("epoch") is not None and row.get(key) is not None
            ]
            if len(points) > 1:
                curves.append((method, points))
    if not curves:
        return ""
    every = [point for _, points in curves for point in points]
    chart = Chart(
        title,
        f"{label} of every epoch, one line a run",
        "epoch",
        label,
        (min(x for x, _ in every), max(x for x, _ in every)),
        _limits([y for _, y in every]),
        y_format=y_format,
        x_format=_epoch,
    )
    for method, points in curves:
        chart.line(points, color(method.index), width=2 if len(method.plain) == 1 else 1.3)
    return chart.svg()


ONLINE = re.compile(r"online_(\w+)/(\w+)")
GROUP_ORDER = ("all", "many", "medium", "few")


def online_curves(methods: Sequence[Method]) -> list[Values]:
    """Accuracies that the run measured while it trained, one chart a measure and group.

    Args:
        methods: the baseline first.

    Returns:
        ``name`` (in words) and ``svg`` of every key such as ``"online_linear/all"`` that a history
        has in two epochs or more.
    """
    keys = {
        key
        for method in methods
        for plain in method.plain
        for row in plain["record"].get("history") or []
        for key in row
        if ONLINE.fullmatch(key)
    }

    def place(key: str) -> tuple[str, int, str]:
        name, group = key.split("/")
        known = group in GROUP_ORDER
        return name, GROUP_ORDER.index(group) if known else len(GROUP_ORDER), group

    found = []
    for key in sorted(keys, key=place):
        name, group = key.removeprefix("online_").split("/")
        words = f"Online {name}, {group.capitalize() if group in GROUP_ORDER else group}"
        svg = history_curve(methods, key, words, "accuracy, %", _whole)
        if svg:
            found.append({"name": words, "svg": svg})
    return found


def momentum_loss(method: Method) -> str:
    """Momentum loss of every class over its training images.

    Args:
        method: its first run is shown.

    Returns:
        SVG; empty without seen samples.
    """
    plain = method.plain[0]
    tracker, counts = plain["tracker"], plain["data"]["class_counts"]
    rows = [
        row for row in tracker["by_class"] if row["mean"] is not None and counts[row["class"]] > 0
    ]
    if not rows:
        return ""
    chart = Chart(
        f"Momentum loss of {method.label}",
        "mean momentum loss of every class over its number of training images, bars from the "
        "lower to the upper quartile of its samples",
        "training images of the class (log scale)",
        "momentum loss",
        _count_limits(counts),
        _limits([row[key] for row in rows for key in ("low", "high", "mean")]),
        x_log=True,
    )
    tint, size = color(method.index), _size(len(rows))
    for row in rows:
        count = counts[row["class"]]
        chart.stem(count, row["low"], row["high"], tint)
    for row in rows:
        count = counts[row["class"]]
        name = plain["data"]["class_names"][row["class"]]
        tip = f"{name}: {count:,} images, momentum loss {row['mean']:.3f}"
        chart.point(count, row["mean"], tint, marker(method.index), tip, size)
    if line := _smoothed({row["class"]: row["mean"] for row in rows}, counts):
        low, high = chart.y_range
        chart.line([(x, min(max(y, low), high)) for x, y in line], tint, width=2.2, halo=True)
    return chart.svg()


def score_histogram(method: Method) -> str:
    """Memorization scores at the end, or over training where the run recorded them.

    Args:
        method: its first run is shown.

    Returns:
        SVG; empty without scores.
    """
    plain = method.plain[0]
    rows = [
        (int(row["epoch"]), row["score_histogram"])
        for row in plain["record"].get("history") or []
        if row.get("score_histogram") and sum(row["score_histogram"])
    ]
    tint = color(method.index)
    if len(rows) > 1:
        return _score_map(method.label, rows, tint)
    bins = plain["tracker"]["score_histogram"]
    total = sum(bins)
    if not total:
        return ""
    chart = Chart(
        f"Scores of {method.label}",
        "share of training samples by memorization score at the end of training",
        "memorization score",
        "share of samples, %",
        (0.0, 1.0),
        (0.0, max(bins) / total * 1.08),
        y_format=lambda value: f"{100 * value:g}",
    )
    for index, count in enumerate(bins):
        low, high = index / len(bins), (index + 1) / len(bins)
        tip = f"score {low:.2f} to {high:.2f}: {count:,} samples, {percent(count / total, 1)} %"
        chart.bar(low, high, count / total, tint, tip)
    return chart.svg()


def _score_map(label: str, rows: list[tuple[int, list[int]]], tint: str) -> str:
    """Epochs from left to right, scores upwards, shares as opacity."""
    rows = rows[:: max(1, len(rows) // 200)]  # more columns than pixels show nothing more
    epochs = [epoch for epoch, _ in rows]
    last = epochs[-1] + (epochs[-1] - epochs[-2])
    chart = Chart(
        f"Scores of {label} over training",
        "distribution of the memorization scores in every epoch; the darker, the more samples",
        "epoch",
        "memorization score",
        (epochs[0], last),
        (0.0, 1.0),
        x_format=_epoch,
    )
    largest = max(max(bins) / sum(bins) for _, bins in rows)
    for (epoch, bins), end in zip(rows, [*epochs[1:], last], strict=True):
        total = sum(bins)
        for index, count in enumerate(bins):
            if count:
                y = (index / len(bins), (index + 1) / len(bins))
                tip = (
                    f"epoch {epoch}, score {y[0]:.2f} to {y[1]:.2f}: {percent(count / total, 1)} %"
                )
                share = (count / total / largest) ** 0.5
                chart.cell((epoch, end), y, share, tint, tip)
    return chart.svg()
