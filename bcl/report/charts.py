"""The report's charts: Vega-Lite specifications drawn as SVG, which needs no script to be read."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bcl.discovery.html import chart
from bcl.evaluation.results import ProbeReport
from bcl.report.compare import Method

Row = dict[str, Any]

# Okabe and Ito's colors, the light ones darkened to a contrast of 4.5 on white.
COLORS = ("#0b61a4", "#c2410c", "#00734f", "#8e3a80", "#7a5c00", "#444b54")
SHAPES = ("circle", "square", "triangle-up", "diamond")
DASHES = {"solid": [1, 0], "dashed": [7, 4], "dotted": [2, 3], "dash-dotted": [8, 3, 2, 3]}
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
PAPER, INK, SOFT, LINE = "#fff", "#1b2129", "#56606c", "#d8dde3"  # as in page.css
DARK_COLORS = ("#6db3ee", "#f0884e", "#4fc07a", "#d78ccb", "#cdb24f", "#aab4bf")
# What a dark page shows in place of each color.
DARK = dict(zip(COLORS, DARK_COLORS, strict=True))
DARK |= {PAPER: "#14181d", INK: "#e7ebef", SOFT: "#9aa5b1", LINE: "#323a43"}
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
SIGNED = "datum.value > 0 ? '+' + datum.label : datum.label"
IMAGES = "training images of the class (log scale)"
MANY = 100  # marks of a chart
EPOCHS = 300  # points of a training curve; more cannot be told apart
# Of the smoothed lines: standard deviation as a share of the range of log x, for so many classes.
BANDWIDTH, SMOOTH = 0.18, 30
FEATURES = {  # key: title, axis, factor
    "alignment": ("Alignment", "mean squared distance of two views", 1),
    "uniformity": ("Uniformity", "uniformity, lower is more even", 1),
    "effective_rank": ("Effective rank (RankMe)", "directions in use", 1),
    "neighbors_kept": ("Neighbors kept", "nearest neighbors kept, %", 100),
}


def color(index: int) -> str:
    """Color of a run."""
    return COLORS[index % len(COLORS)]


def shape(index: int) -> str:
    """Shape of a run's marks, so that color is never the only cue."""
    return SHAPES[index % len(SHAPES)]


# --- parts of a chart -----------------------------------------------------------------------


def axis(title: str | None, *, zero: bool = False, nice: bool = True, **options: Any) -> Row:
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

    Rows have ``x`` and ``y``, ``x2`` and ``y2`` for an extent, ``low`` and ``high`` for a rule, and
    ``tip``, values under the columns that `draw` is given, for the page to show and to save.
    """
    tips = bool(rows) and "tip" in rows[0] and mark not in ("line", "rule", "text")
    if tips:
        rows = [{**row, "tip": "\t".join(map(_cell, row["tip"]))} for row in rows]
    made: Row = {"type": mark, "aria": tips, **options}
    if method is not None:
        made.setdefault("color", color(method.index))
    return {
        "name": "all" if method is None else f"run{method.index}",
        "data": {"values": rows},
        "mark": made,
        "encoding": {"description": {"field": "tip", "type": "nominal"}} if tips else {},
    }


def _cell(value: Any) -> str:
    """A value of a tip: what stands between tabs."""
    return f"{value:.5g}" if isinstance(value, float) else " ".join(str(value).split())


def line(rows: list[Row], method: Method, **options: Any) -> list[Row]:
    """A line on a white edge, which sets it off from the marks it crosses; none without rows."""
    edge = layer("line", rows, method, color=PAPER, strokeWidth=4.2)
    return [edge, layer("line", rows, method, **{"strokeWidth": 2.4, **options})] if rows else []


def points(rows: list[Row], method: Method, total: int = 0) -> Row:
    """A mark per row, open, so that none hides another; where there are many, small and faint."""
    size, opacity = (14, 0.45) if total > 4 * MANY else (50, 1)
    marks = shape(method.index)
    looks = {"shape": marks, "size": size, "opacity": opacity, "strokeWidth": 1.8}
    return layer("point", rows, method, filled=total > 4 * MANY, **looks)


def trends(found: Sequence[tuple[Method, list[Row]]]) -> list[Row]:
    """Marks and a smoothed line per method; the lines lie on top where the marks are many."""
    marks, lines = [], []
    total = sum(len(rows) for _, rows in found)
    for method, rows in found:
        if rows:
            marks.append(points(rows, method, total))
            lines += line(smooth([row["x"] for row in rows], [row["y"] for row in rows]), method)
    return [*marks, *lines] if total > MANY else [*lines, *marks]


def shares(bins: Sequence[int]) -> list[tuple[float, float, int, float]]:
    """Of a histogram over [0, 1]: lower and upper end, count and share of each bin."""
    n, total = len(bins), sum(bins)
    return [(i / n, (i + 1) / n, count, count / total) for i, count in enumerate(bins)]


def draw(
    title: str,
    summary: str,
    x: Row,
    y: Row,
    layers: Sequence[Row],
    columns: Sequence[str] = (),
    size: tuple[int, int] = (360, 230),
    values: Sequence[str] = (),
) -> str:
    """The ``<svg>`` of layers, the lowest first, over common axes; named for screen readers.

    ``columns`` name the values of the marks' tips, or of ``values`` where lines have no marks.
    """
    for number, each in enumerate(layers):
        fields, encoding = each["data"]["values"][0], each["encoding"]
        stem = each["mark"]["type"] == "rule" and "low" in fields
        encoding |= {"x": {**x, "field": "x"}, "y": {**y, "field": "low" if stem else "y"}}
        if stem:
            encoding["y2"] = {"field": "high"}
        encoding |= {channel: {"field": channel} for channel in ("x2", "y2") if channel in fields}
        each["name"] += f"x{number}"  # unique in a chart
    width, height = size
    spec = {"$schema": SCHEMA, "width": width, "height": height, "config": STYLE}
    svg = chart({**spec, "layer": list(layers)})
    return _label(svg, title, summary, {"columns": "\t".join(columns), "values": "\n".join(values)})


def _label(svg: str, title: str, summary: str, data: Mapping[str, str]) -> str:
    """Name the chart, turn the marks' labels into tips, leave its size to the page."""
    head, _, body = svg.partition(">")
    box = head.partition("viewBox=")[2]
    body = re.sub(r' (?:role|aria-roledescription|aria-hidden|pointer-events)="[^"]*"', "", body)
    body = body.replace("&#x9;", "\t")
    body = re.sub(r'(<\w+[^>]*) aria-label=("[^"]*"[^>]*/>)', r"\1 data-tip=\2", body)
    body = re.sub(r' (?:d|transform)="[^"]*"', _shorter, body)
    title, summary = html.escape(title), html.escape(summary)
    kept = "".join(f' data-{name}="{html.escape(text)}"' for name, text in data.items() if text)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox={box} role="img"{kept} '
        f'aria-label="{title}: {summary}"><title>{title}</title><desc>{summary}</desc>{body}'
    )


def _shorter(attribute: re.Match[str]) -> str:
    """A path with four digits per number."""
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.4g}", attribute[0])


def smooth(x: Sequence[float], y: Sequence[float]) -> list[Row]:
    """Sixty points of a local linear regression over log x, within the range of y.

    None for fewer than three distinct positions; one straight line for fewer than `SMOOTH`.
    """
    if len(set(x)) < 3:
        return []
    logs = np.log(np.asarray(x, dtype=float))
    places = np.linspace(logs.min(), logs.max(), 60)
    away = logs - places[:, None]  # (60, N)
    width = BANDWIDTH * np.ptp(logs) if len(set(x)) >= SMOOTH else np.inf
    roots = np.exp(-0.25 * (away / width) ** 2)  # polyfit squares them
    heights = [np.polyfit(a, y, 1, w=root)[1] for a, root in zip(away, roots, strict=True)]
    within = zip(np.exp(places).tolist(), np.clip(heights, min(y), max(y)).tolist(), strict=True)
    return [{"x": x, "y": y} for x, y in within]


# --- accuracy -------------------------------------------------------------------------------


def accuracy_over_frequency(methods: Sequence[Method], protocol: str) -> str:
    """Accuracy of each class over its training images; empty without classes."""
    found = [
        (method, _over_frequency(method, _by_class(method, protocol), "{:.1f}"))
        for method in methods
    ]
    values = [row["y"] for _, rows in found for row in rows]
    if not values:
        return ""
    return draw(
        "Accuracy over class frequency",
        f"test accuracy of each class ({protocol}) over its number of training images, one color "
        "and shape per run, with a smoothed line",
        log_axis(IMAGES),
        axis("test accuracy, %", zero=min(values) < 50),
        trends(found),
        ("run", "class", "training images", "accuracy, %"),
    )


def gain_over_baseline(methods: Sequence[Method], protocol: str) -> str:
    """Gain of each class over its training images; empty if there is nothing to compare."""
    base, found = _by_class(methods[0], protocol), []
    for method in methods[1:]:
        own = _by_class(method, protocol)
        gains = {c: own[c] - base[c] for c in own if c in base}
        found.append((method, _over_frequency(method, gains, "{:+.1f}")))
    if not any(rows for _, rows in found):
        return ""
    counts = [methods[0].first.data["class_counts"][c] for c in base]
    zero = [{"x": min(counts), "x2": max(counts), "y": 0.0}]
    return draw(
        "Gain over the baseline",
        f"accuracy of each class minus that of {methods[0].label} ({protocol}), in points, over "
        "its number of training images, with a smoothed line",
        log_axis(IMAGES),
        axis(f"points over {methods[0].label}", labelExpr=SIGNED),
        [layer("rule", zero, color=INK, strokeDash=[4, 4], opacity=0.6), *trends(found)],
        ("run", "class", "training images", "gain, points"),
    )


def _by_class(method: Method, protocol: str) -> dict[int, float]:
    """Accuracy in per cent of each class that was tested and has training images."""
    counts = method.first.data["class_counts"]
    shares = enumerate(method.per_class(protocol))
    return {c: 100 * share for c, share in shares if share == share and counts[c] > 0}


def _over_frequency(method: Method, values: Mapping[int, float], words: str) -> list[Row]:
    """Class values over training images."""
    data, rows = method.first.data, []
    for c, value in values.items():
        name, count = data["class_names"][c], data["class_counts"][c]
        tip = (method.label, name, count, words.format(value))
        rows.append({"x": count, "y": value, "tip": tip})
    return rows


def few_shot_curve(methods: Sequence[Method]) -> str:
    """Accuracy over labeled images per class; empty without two points of one solver."""
    curves = _few_shot(methods)
    if not curves:
        return ""
    dashes = dict(zip(_solvers(curves), DASHES.values(), strict=False))
    lines, marks = [], []
    for method, solver, rows in curves:
        lines += line(rows, method, strokeDash=dashes.get(solver, [1, 0]))
        marks.append(layer("rule", rows, method, strokeWidth=1.4, opacity=0.6))
        marks.append(points(rows, method))
    return draw(
        "Few-shot curve",
        "test accuracy over labeled images per class, one line per run; bars are 95 % intervals "
        "over draws",
        log_axis("labeled images per class (log scale)"),
        axis("test accuracy, %"),
        [*lines, *marks],
        ("run", "solver", "images per class", "accuracy, %", "low", "high"),
    )


def solver_lines(methods: Sequence[Method]) -> str:
    """Which lines of the few-shot curve are of which solver: "lbfgs solid, sgd dashed"."""
    solvers = _solvers(_few_shot(methods))
    pairs = [f"{solver} {dash}" for solver, dash in zip(solvers, DASHES, strict=False)]
    return ", ".join(pairs if len(solvers) > 1 else solvers)


def _few_shot(methods: Sequence[Method]) -> list[tuple[Method, str, list[Row]]]:
    """Lines of two points or more over the balanced set: method, solver, rows."""
    curves: dict[tuple[int, str], list[Row]] = {}
    for method in methods:
        for result in method.first.protocols:
            if result.kind != "linear" or "long-tailed" in result.description:
                continue
            solver, images = (result.draws[0].chosen[key] for key in ("solver", "train_images"))
            shots = images / method.first.data["num_classes"]
            runs = [run.accuracy.mean for run in method.results(result.name).values()]
            mean, half = 100 * sum(runs) / len(runs), 100 * result.accuracy.ci95
            half = 0.0 if math.isnan(half) else half
            low, high = mean - half, mean + half
            tip = (method.label, solver, shots, mean, low, high)
            row = {"x": shots, "y": mean, "low": low, "high": high, "tip": tip}
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
    layers, values = [], []
    for method in methods:
        width = 2 if len(method.reports) == 1 else 1.3
        for run in method.reports:
            rows = [
                {"x": row["epoch"], "y": scale * row[key]}
                for row in _history(run)
                if row.get(key) is not None and math.isfinite(row[key])
            ]
            rows = rows[:: math.ceil(len(rows) / EPOCHS) or 1]
            if len(rows) > 1:
                layers.append(layer("line", rows, method, strokeWidth=width))
                about = method.label, run.record.get("seed")
                values += ["\t".join(map(_cell, (*about, r["x"], r["y"]))) for r in rows]
    if not layers:
        return ""
    y = axis(label)
    low, high = (edge(r["y"] for e in layers for r in e["data"]["values"]) for edge in (min, max))
    if low == high:  # a flat line needs an axis of its own
        margin = abs(low) / 10 or 1
        y["scale"] |= {"domain": [low - margin, high + margin]}
    summary, columns = f"{label} of each epoch, one line per run", ("run", "seed", "epoch", label)
    return draw(title, summary, epoch_axis(), y, layers, columns, values=values)


def online_curves(methods: Sequence[Method]) -> list[dict[str, str]]:
    """``name`` and ``svg`` of each accuracy measured during training, "online_linear/all" first."""
    order = ("all", "many", "medium", "few")
    runs = [run for method in methods for run in method.reports]
    found = set()
    for key in dict.fromkeys(key for run in runs for row in _history(run) for key in row):
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


def feature_curves(methods: Sequence[Method]) -> list[dict[str, str]]:
    """``name`` and ``svg`` of each measure of the features during training (`FeatureWatch`)."""
    drawn = [
        {"name": title, "svg": history_curve(methods, f"features/{key}", title, label, scale)}
        for key, (title, label, scale) in FEATURES.items()
    ]
    return [each for each in drawn if each["svg"]]


def _history(run: ProbeReport) -> list[Row]:
    """A run's records that name their epoch."""
    return [row for row in run.record.get("history") or [] if row.get("epoch") is not None]


# --- memorization ---------------------------------------------------------------------------


def momentum_loss(method: Method) -> str:
    """What the memory holds of each class over its training images; empty without seen samples."""
    data, rows, tracker = method.first.data, [], method.first.tracker or {}
    signal = tracker.get("signal", "loss")
    for row in tracker.get("by_class", ()):
        name, count = (data[key][row["class"]] for key in ("class_names", "class_counts"))
        if row["mean"] is not None and count > 0:
            tip = (name, count, *(row[key] for key in ("mean", "low", "high")))
            rows.append({**row, "x": count, "y": row["mean"], "tip": tip})
    if not rows:
        return ""
    stems = layer("rule", rows, method, strokeWidth=1.4, opacity=0.5)
    return draw(
        f"Momentum {signal} of {method.label}",
        f"mean momentum {signal} of each class over its number of training images; bars from the "
        "lower to the upper quartile of its samples",
        log_axis(IMAGES),
        axis(f"momentum {signal}"),
        [stems, *trends([(method, rows)])],
        ("class", "training images", f"momentum {signal}", "lower quartile", "upper quartile"),
    )


def score_histogram(method: Method) -> str:
    """Memorization scores over training if recorded, or else at the end; empty without scores."""
    records = [(row["epoch"], row.get("score_histogram")) for row in _history(method.first)]
    history = [(int(epoch), bins) for epoch, bins in records if bins and sum(bins)]
    if len(history) > 1:
        return _score_map(method, history)
    tracker = method.first.tracker
    if tracker is None or not sum(tracker["score_histogram"]):
        return ""
    rows = []
    for low, high, count, share in shares(tracker["score_histogram"]):
        tip = (low, high, count, f"{100 * share:.1f}")
        rows.append({"x": low, "x2": high, "y": 100 * share, "y2": 0, "tip": tip})
    return draw(
        f"Scores of {method.label}",
        "share of training samples by memorization score at the end of training",
        axis("memorization score", nice=False),
        axis("share of samples, %", zero=True),
        [layer("bar", rows, method, stroke=PAPER)],
        ("score from", "to", "samples", "share, %"),
    )


def _score_map(method: Method, history: list[tuple[int, list[int]]]) -> str:
    """Epochs from left to right, scores upwards, shares as tints."""
    history = history[:: math.ceil(len(history) / 120)]  # a page has no room for more columns
    epochs = [epoch for epoch, _ in history]
    ends = [*epochs[1:], 2 * epochs[-1] - epochs[-2]]
    largest = max(max(bins) / sum(bins) for _, bins in history)
    rows = []
    for (epoch, bins), end in zip(history, ends, strict=True):
        for low, high, count, share in shares(bins):
            tip = (epoch, low, high, f"{100 * share:.1f}")
            row = {"x": epoch, "x2": end, "y": low, "y2": high, "tip": tip}
            if count:
                rows.append({**row, "share": (share / largest) ** 0.5})
    cells = layer("rect", rows, method)
    tints = {"domain": [0, 1], "range": [0, 1]}
    shade = {"field": "share", "type": "quantitative", "scale": tints, "legend": None}
    cells["encoding"]["fillOpacity"] = shade
    return draw(
        f"Scores of {method.label} over training",
        "distribution of the memorization scores in each epoch; the stronger, the more samples",
        epoch_axis(),
        axis("memorization score", nice=False, grid=False),
        [cells],
        ("epoch", "score from", "to", "share, %"),
    )


# --- a data set -----------------------------------------------------------------------------


def class_histogram(counts: Sequence[int], title: str, names: Sequence[str] | None = None) -> str:
    """Images per class as bars, the largest first."""
    rows = []
    for place, c in enumerate(sorted(range(len(counts)), key=lambda c: (-counts[c], c))):
        tip = (names[c] if names else f"class {c}", counts[c])
        rows.append({"x": place, "x2": place + 1, "y": counts[c], "y2": 0, "tip": tip})
    svg = draw(
        title,
        "images per class, the largest first",
        axis(f"{len(counts)} classes, largest first", nice=False, tickMinStep=1),
        axis("images", zero=True, tickMinStep=1),
        [layer("bar", rows, color=COLORS[0])],
    )
    # In a file of its own a mark shows its title.
    mark = r'<(\w+)([^>]*) data-tip="([^"\t]*)\t([^"]*)"([^>]*)/>'
    return re.sub(mark, r"<\1\2\5><title>\3: \4</title></\1>", svg)
