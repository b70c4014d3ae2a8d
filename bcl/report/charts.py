"""The report's charts: Vega-Lite specifications drawn as SVG, which needs no script to be read."""

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bcl.core.errors import InputError
from bcl.report.compare import Method

Row = dict[str, Any]

# Okabe and Ito's colors, the light ones darkened to a contrast of 4.5 on white.
COLORS = ("#0b61a4", "#c2410c", "#00734f", "#8e3a80", "#7a5c00", "#444b54")
SHAPES = ("circle", "square", "triangle-up", "diamond")
DASHES = {"solid": [1, 0], "dashed": [7, 4], "dotted": [2, 3], "dash-dotted": [8, 3, 2, 3]}
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
PAPER, INK, SOFT, LINE = "#fff", "#1b2129", "#56606c", "#d8dde3"  # as in report.css
STYLE = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12, "labelColor": INK, "titleFontSize": 12.5, "titleFontWeight": "normal",
        "titleColor": SOFT, "titlePadding": 10, "gridColor": LINE, "tickColor": LINE,
    },
    "axisX": {"grid": False, "domainColor": INK, "labelSeparation": 12},
    "axisY": {"domain": False, "ticks": False, "minExtent": 44},
}  # fmt: skip
IMAGES = "training images of the class (log scale)"
MANY = 100  # marks of a chart


def color(index: int) -> str:
    """Color of a run."""
    return COLORS[index % len(COLORS)]


def shape(index: int) -> str:
    """Shape of a run's marks, so that color is never the only cue."""
    return SHAPES[index % len(SHAPES)]


# --- parts of a chart -----------------------------------------------------------------------


def axis(title: str, *, zero: bool = False, nice: bool = True, **options: Any) -> Row:
    """A linear axis: a position channel of Vega-Lite without its field; nice ends on a label."""
    scale: Row = {"zero": zero, "nice": nice} | ({"padding": 6} if nice and not zero else {})
    options = {"tickCount": 6, **options}
    return {"type": "quantitative", "title": title, "scale": scale, "axis": options}


def log_axis(title: str) -> Row:
    """A logarithmic axis labeled at 1, 2, 5, 10, ...; labels outside the data are not drawn."""
    made = axis(title, values=[digit * 10**power for power in range(8) for digit in (1, 2, 5)])
    return made | {"scale": {"type": "log", "padding": 12, "nice": False}}


def epoch_axis() -> Row:
    """An axis of epochs, of which there are no halves."""
    return axis("epoch", nice=False, labelExpr="datum.value % 1 ? '' : format(datum.value, ',')")


def layer(mark: str, rows: list[Row], method: Method | None = None, **options: Any) -> Row:
    """Marks of one kind; those of a method have a class by which the page can hide them.

    Args:
        mark: point, line, rule, bar or rect.
        rows: with ``x`` and ``y``, and ``x2`` and ``y2`` for marks of an extent; a rule goes from
            ``low`` to ``high``; ``tip`` is shown on hover.
        method: whose color the marks take.
        options: further properties of the mark.
    """
    made: Row = {"data": {"values": rows}, "mark": {"type": mark, **options}, "name": "all"}
    if method is not None:
        made["name"] = f"run{method.index}"
        made["mark"].setdefault("color", color(method.index))
    tips = mark not in ("line", "rule")
    made["mark"]["aria"] = tips
    made["encoding"] = {"description": {"field": "tip", "type": "nominal"}} if tips else {}
    return made


def points(rows: list[Row], method: Method, total: int = 0) -> Row:
    """A mark per row; where there are many they are small and faint, or they hide each other."""
    size, opacity = (14, 0.45) if total > 4 * MANY else (55, 0.8)
    marks = shape(method.index)
    return layer("point", rows, method, filled=True, shape=marks, size=size, opacity=opacity)


def line(xy: Iterable[tuple[float, float]], method: Method, **options: Any) -> list[Row]:
    """A line on a white edge, which sets it off from the marks it crosses."""
    rows = [{"x": x, "y": y} for x, y in xy]
    edge = layer("line", rows, method, color=PAPER, strokeWidth=4.2)
    return [edge, layer("line", rows, method, **{"strokeWidth": 2.4, **options})] if rows else []


def draw(title: str, summary: str, x: Row, y: Row, layers: Sequence[Row]) -> str:
    """Draw layers over common axes.

    Args:
        title: the chart's name, read by screen readers.
        summary: what it shows.
        x: the horizontal axis.
        y: the vertical one.
        layers: the lowest first.

    Returns:
        An ``<svg>`` element with a title, a description and a tip on each mark.

    Raises:
        InputError: vl-convert is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise InputError("charts need vl-convert: pip install 'bcl-cacr[report]'.") from error
    for number, each in enumerate(layers):
        fields, encoding = each["data"]["values"][0], each["encoding"]
        stem = each["mark"]["type"] == "rule" and "low" in fields
        encoding |= {"x": {**x, "field": "x"}, "y": {**y, "field": "low" if stem else "y"}}
        if stem:
            encoding["y2"] = {"field": "high"}
        encoding |= {channel: {"field": channel} for channel in ("x2", "y2") if channel in fields}
        each["name"] += f"x{number}"  # unique in a chart
    spec = {"$schema": SCHEMA, "width": 440, "height": 260, "config": STYLE, "layer": list(layers)}
    return _label(vl_convert.vegalite_to_svg(spec), html.escape(title), html.escape(summary))


def _label(svg: str, title: str, summary: str) -> str:
    """Name the chart, turn the marks' labels into tips, leave its size to the page."""
    head, _, body = svg.partition(">")
    box = head.partition("viewBox=")[2]
    body = re.sub(r' (?:role|aria-roledescription|aria-hidden|pointer-events)="[^"]*"', "", body)
    tip = r"<\1\2\4><title>\3</title></\1>"
    body = re.sub(r'<(\w+)([^>]*) aria-label="([^"]*)"([^>]*)/>', tip, body)
    body = re.sub(r"\d+\.\d{3,}(?=[^<>]*>)", lambda number: f"{float(number[0]):.4g}", body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox={box} role="img" '
        f'aria-label="{title}: {summary}"><title>{title}</title><desc>{summary}</desc>{body}'
    )


def smooth(
    x: Sequence[float], y: Sequence[float], bandwidth: float = 0.18
) -> list[tuple[float, float]]:
    """Local linear regression over log x, with a Gaussian kernel.

    Args:
        x: positive positions.
        y: values.
        bandwidth: standard deviation of the kernel, as a share of the range of log x.

    Returns:
        Sixty points within the range of y; none for fewer than three distinct positions.

    Example:
        >>> line = smooth([1, 2, 4, 8], [0, 2, 4, 6])
        >>> [(round(a, 6), round(b, 6)) for a, b in (line[0], line[-1])]
        [(1.0, 0.0), (8.0, 6.0)]
    """
    if len(set(x)) < 3:
        return []
    logs = np.log(np.asarray(x, dtype=float))
    places = np.linspace(logs.min(), logs.max(), 60)
    away = logs - places[:, None]  # (60, N)
    roots = np.exp(-0.25 * (away / (bandwidth * np.ptp(logs))) ** 2)  # polyfit squares them
    heights = [np.polyfit(a, y, 1, w=root)[1] for a, root in zip(away, roots, strict=True)]
    within = np.clip(heights, min(y), max(y))
    return list(zip(np.exp(places).tolist(), within.tolist(), strict=True))


# --- accuracy -------------------------------------------------------------------------------


def main_protocol(methods: Sequence[Method]) -> str:
    """The protocol of the per-class charts: the baseline's first linear one, or else its first."""
    entries = methods[0].plain[0]["protocols"]
    linear = [entry["name"] for entry in entries if entry["kind"] == "linear"]
    return str(linear[0] if linear else entries[0]["name"])


def accuracy_over_frequency(methods: Sequence[Method], protocol: str) -> str:
    """Accuracy of each class over its training images; empty without classes."""
    found = [(method, _by_class(method, protocol)) for method in methods]
    values = [value for _, by_class in found for value in by_class.values()]
    if not values:
        return ""
    return draw(
        "Accuracy over class frequency",
        f"test accuracy of each class ({protocol}) over its number of training images, one color "
        "and shape per run, with a smoothed line",
        log_axis(IMAGES),
        axis("test accuracy, %", zero=min(values) < 50),
        _over_frequency(found, "{:.1f} %"),
    )


def gain_over_baseline(methods: Sequence[Method], protocol: str) -> str:
    """Gain of each class over its training images; empty if there is nothing to compare."""
    base, found = _by_class(methods[0], protocol), []
    for method in methods[1:]:
        own = _by_class(method, protocol)
        found.append((method, {c: own[c] - base[c] for c in own if c in base}))
    if not any(gains for _, gains in found):
        return ""
    counts = [methods[0].plain[0]["data"]["class_counts"][c] for c in base]
    zero = [{"x": min(counts), "x2": max(counts), "y": 0.0}]
    return draw(
        "Gain over the baseline",
        f"accuracy of each class minus that of {methods[0].label} ({protocol}), in points, over "
        "its number of training images, with a smoothed line",
        log_axis(IMAGES),
        axis(
            f"points over {methods[0].label}",
            labelExpr="datum.value > 0 ? '+' + datum.label : datum.label",
        ),
        [
            layer("rule", zero, color=INK, strokeDash=[4, 4], opacity=0.6),
            *_over_frequency(found, "{:+.1f} points"),
        ],
    )


def _by_class(method: Method, protocol: str) -> dict[int, float]:
    """Accuracy in per cent of each class that has training images."""
    entry, counts = method.entry(protocol), method.plain[0]["data"]["class_counts"]
    shares = entry["per_class"] if entry else []
    return {c: 100 * v for c, v in enumerate(shares) if v is not None and counts[c] > 0}


def _over_frequency(found: Sequence[tuple[Method, Mapping[int, float]]], words: str) -> list[Row]:
    """A mark per class and a smoothed line per run, which lies over the marks if they are many."""
    marks, lines = [], []
    total = sum(len(values) for _, values in found)
    for method, values in found:
        if not values:
            continue
        data, rows = method.plain[0]["data"], []
        for c, value in values.items():
            name, count = data["class_names"][c], data["class_counts"][c]
            tip = f"{method.label}: {name}, {count:,} images, {words.format(value)}"
            rows.append({"x": count, "y": value, "tip": tip})
        marks.append(points(rows, method, total))
        lines += line(smooth([row["x"] for row in rows], list(values.values())), method)
    return [*marks, *lines] if total > MANY else [*lines, *marks]


def few_shot_curve(methods: Sequence[Method]) -> str:
    """Accuracy over labeled images per class; empty without two points of one solver."""
    curves = _few_shot(methods)
    if not curves:
        return ""
    dashes = dict(zip(_solvers(curves), DASHES.values(), strict=False))
    layers = []
    for method, solver, rows in curves:
        places = [(row["x"], row["y"]) for row in rows]
        layers += line(places, method, strokeDash=dashes.get(solver, [1, 0]))
        layers.append(layer("rule", rows, method, strokeWidth=1.4, opacity=0.6))
        layers.append(points(rows, method))
    return draw(
        "Few-shot curve",
        "test accuracy over labeled images per class, one line per run; bars are 95 % intervals "
        "over draws",
        log_axis("labeled images per class (log scale)"),
        axis("test accuracy, %"),
        layers,
    )


def solver_lines(methods: Sequence[Method]) -> str:
    """Which lines of the few-shot curve belong to which solver: "lbfgs solid, sgd dashed"."""
    pairs = zip(_solvers(_few_shot(methods)), DASHES, strict=False)
    return ", ".join(f"{solver} {dash}" for solver, dash in pairs)


def _few_shot(methods: Sequence[Method]) -> list[tuple[Method, str, list[Row]]]:
    """Lines of two points or more over the balanced set: method, solver, rows."""
    curves: dict[tuple[int, str], list[Row]] = {}
    for method in methods:
        for entry in method.plain[0]["protocols"]:
            if entry["kind"] != "linear" or "long-tailed" in entry["description"]:
                continue
            solver, images = (entry["draws"][0]["chosen"][k] for k in ("solver", "train_images"))
            shots = images / method.plain[0]["data"]["num_classes"]
            runs = [run["summary"]["accuracy"]["mean"] for run in method.entries(entry["name"])]
            mean = 100 * sum(runs) / len(runs)
            half = 100 * (entry["summary"]["accuracy"]["ci95"] or 0)
            tip = f"{method.label} ({solver}): {shots:,.4g} per class, {mean:.2f} %"
            row = {"x": shots, "y": mean, "low": mean - half, "high": mean + half, "tip": tip}
            curves.setdefault((method.index, solver), []).append(row)
    return [
        (methods[index], solver, sorted(rows, key=lambda row: float(row["x"])))
        for (index, solver), rows in curves.items()
        if len({row["x"] for row in rows}) > 1
    ]


def _solvers(curves: Sequence[tuple[Method, str, list[Row]]]) -> list[str]:
    return list(dict.fromkeys(solver for _, solver, _ in curves))


# --- training -------------------------------------------------------------------------------


def history_curve(
    methods: Sequence[Method], key: str, title: str, label: str, scale: float = 1
) -> str:
    """A value of each epoch's record, one line per run; empty if no run has it in two epochs."""
    layers = []
    for method in methods:
        for plain in method.plain:
            rows = [
                {"x": row["epoch"], "y": scale * row[key]}
                for row in plain["record"].get("history") or []
                if row.get("epoch") is not None and row.get(key) is not None
            ]
            if len(rows) > 1:
                width = 2 if len(method.plain) == 1 else 1.3
                layers.append(layer("line", rows, method, strokeWidth=width))
    if not layers:
        return ""
    y = axis(label)
    low, high = (edge(r["y"] for e in layers for r in e["data"]["values"]) for edge in (min, max))
    if low == high:  # a flat line needs an axis of its own
        margin = abs(low) / 10 or 1
        y["scale"] |= {"domain": [low - margin, high + margin]}
    return draw(title, f"{label} of each epoch, one line per run", epoch_axis(), y, layers)


def online_curves(methods: Sequence[Method]) -> list[dict[str, str]]:
    """``name`` and ``svg`` of each accuracy measured during training, "online_linear/all" first."""
    order = ("all", "many", "medium", "few")
    found = set()
    for row in (r for m in methods for p in m.plain for r in p["record"].get("history") or []):
        for key in row:
            if match := re.fullmatch(r"online_(\w+)/(\w+)", key):
                name, group = match.groups()
                place = order.index(group) if group in order else len(order)
                words = group.capitalize() if group in order else group
                found.add((name, place, f"Online {name}, {words}", key))
    drawn = [
        {"name": title, "svg": history_curve(methods, key, title, "accuracy, %", 100)}
        for _, _, title, key in sorted(found)
    ]
    return [each for each in drawn if each["svg"]]


# --- memorization ---------------------------------------------------------------------------


def momentum_loss(method: Method) -> str:
    """Momentum loss of each class over its training images; empty without seen samples."""
    plain, rows = method.plain[0], []
    for row in plain["tracker"]["by_class"]:
        name, count = (plain["data"][key][row["class"]] for key in ("class_names", "class_counts"))
        if row["mean"] is not None and count > 0:
            tip = f"{name}: {count:,} images, momentum loss {row['mean']:.3f}"
            rows.append({**row, "x": count, "y": row["mean"], "tip": tip})
    if not rows:
        return ""
    lines = line(smooth([row["x"] for row in rows], [row["y"] for row in rows]), method)
    marks = [points(rows, method, len(rows))]
    return draw(
        f"Momentum loss of {method.label}",
        "mean momentum loss of each class over its number of training images; bars from the lower "
        "to the upper quartile of its samples",
        log_axis(IMAGES),
        axis("momentum loss"),
        [
            layer("rule", rows, method, strokeWidth=1.4, opacity=0.5),
            *(marks + lines if len(rows) > MANY else lines + marks),
        ],
    )


def score_histogram(method: Method) -> str:
    """Memorization scores over training if recorded, or else at the end; empty without scores."""
    plain = method.plain[0]
    history = [
        (int(row["epoch"]), row["score_histogram"])
        for row in plain["record"].get("history") or []
        if row.get("score_histogram") and sum(row["score_histogram"])
    ]
    if len(history) > 1:
        return _score_map(method, history)
    bins = plain["tracker"]["score_histogram"]
    if not sum(bins):
        return ""
    rows = []
    for index, count in enumerate(bins):
        low, high, share = index / len(bins), (index + 1) / len(bins), 100 * count / sum(bins)
        tip = f"score {low:.2f} to {high:.2f}: {count:,} samples, {share:.1f} %"
        rows.append({"x": low, "x2": high, "y": share, "y2": 0, "tip": tip})
    return draw(
        f"Scores of {method.label}",
        "share of training samples by memorization score at the end of training",
        axis("memorization score", nice=False),
        axis("share of samples, %", zero=True),
        [layer("bar", rows, method, stroke=PAPER)],
    )


def _score_map(method: Method, history: list[tuple[int, list[int]]]) -> str:
    """Epochs from left to right, scores upwards, shares as tints."""
    history = history[:: math.ceil(len(history) / 120)]  # a page has no room for more columns
    epochs = [epoch for epoch, _ in history]
    ends = [*epochs[1:], 2 * epochs[-1] - epochs[-2]]
    largest = max(max(bins) / sum(bins) for _, bins in history)
    rows = []
    for (epoch, bins), end in zip(history, ends, strict=True):
        for index, count in enumerate(bins):
            low, high, share = index / len(bins), (index + 1) / len(bins), count / sum(bins)
            tip = f"epoch {epoch}, score {low:.2f} to {high:.2f}: {100 * share:.1f} %"
            row = {"x": epoch, "x2": end, "y": low, "y2": high, "tip": tip}
            if count:
                rows.append({**row, "share": (share / largest) ** 0.5})
    cells = layer("rect", rows, method)
    tints = {"domain": [0, 1], "range": [PAPER, color(method.index)], "interpolate": "rgb"}
    shade = {"field": "share", "type": "quantitative", "scale": tints, "legend": None}
    cells["encoding"]["color"] = shade
    return draw(
        f"Scores of {method.label} over training",
        "distribution of the memorization scores in each epoch; the darker, the more samples",
        epoch_axis(),
        axis("memorization score", nice=False),
        [cells],
    )


# --- a data set -----------------------------------------------------------------------------


def class_histogram(counts: Sequence[int], title: str, names: Sequence[str] | None = None) -> str:
    """Images per class as bars, the largest first."""
    rows = []
    for place, c in enumerate(sorted(range(len(counts)), key=lambda c: (-counts[c], c))):
        tip = f"{names[c] if names else f'class {c}'}: {counts[c]:,}"
        rows.append({"x": place, "x2": place + 1, "y": counts[c], "y2": 0, "tip": tip})
    return draw(
        title,
        "images per class, the largest first",
        axis(f"{len(counts)} classes, largest first", nice=False, tickMinStep=1),
        axis("images", zero=True, tickMinStep=1),
        [layer("bar", rows, color=COLORS[0])],
    )
