"""The chart beside the verdict: each difference from the baseline with its interval."""

from collections.abc import Sequence
from typing import NamedTuple

from bcl.report.charts import INK, PAPER, SIGNED, axis, color, draw, layer, shape
from bcl.report.compare import COLUMNS, Comparison, Method
from bcl.report.differences import TESTED

WIDTH, LINE, BETWEEN = 220, 14, 14  # pixels: a chart, a method's line, between two groups


class Effect(NamedTuple):
    """A difference in points, or the accuracy of a method that is alone, with its interval."""

    method: Method
    column: str
    value: float
    low: float
    high: float
    p: float | None
    sure: bool  # established, and so filled


def effect_charts(tables: Sequence[Comparison], methods: Sequence[Method]) -> list[dict[str, str]]:
    """``name`` and ``svg`` of each protocol with differences, on a common scale.

    One line per group and method; marks of established differences are filled. A single method's
    accuracies take the place of differences.
    """
    found = {table.protocol: _effects(table, methods) for table in tables}
    every = [effect for effects in found.values() for effect in effects]
    columns = [c for c in TESTED if any(effect.column == c for effect in every)]
    edges = [edge for effect in every for edge in (effect.low, effect.high)]
    if len(methods) > 1:
        edges.append(0.0)
    return [
        {"name": name, "svg": _chart(name, effects, columns, (min(edges), max(edges)), methods)}
        for name, effects in found.items()
        if effects
    ]


def _effects(table: Comparison, methods: Sequence[Method]) -> list[Effect]:
    """Every difference of a protocol that the baseline has, or every accuracy of one method."""
    alone, found = len(methods) == 1, []
    for row in table.rows if alone or table.rows[0].index == 0 else ():
        for column in TESTED:
            value = row.values[column]
            center = value.mean if alone else value.gain
            if center is None:
                continue
            low, high = value.ends if alone else value.gain_interval or (center, center)
            numbers = 100 * center, 100 * low, 100 * high, value.p
            sure = alone or row.established(column) != 0
            found.append(Effect(methods[row.index], column, *numbers, sure))
    return found


def _chart(
    name: str,
    effects: Sequence[Effect],
    columns: Sequence[str],
    ends: tuple[float, float],
    methods: Sequence[Method],
) -> str:
    alone = len(methods) == 1
    what = "accuracy, %" if alone else f"points over {methods[0].label}"
    lines = max(1, len(methods) - 1)  # of a group
    high = LINE * lines + BETWEEN
    bottom = high * len(columns)
    middle = {column: high * (place + 0.5) for place, column in enumerate(columns)}
    rules, marks = [], []
    for effect in effects:
        place = 0 if alone else effect.method.index - (lines + 1) / 2
        y = middle[effect.column] + LINE * place
        tip = [effect.method.label, COLUMNS[effect.column], *effect[2:5]]
        if not alone:
            tip.append("" if effect.p is None else f"{effect.p:.2g}")
        span = [{"x": effect.low, "x2": effect.high, "y": y}]
        mark = [{"x": effect.value, "y": y, "tip": tip}]
        tint = color(effect.method.index)
        looks = {
            "shape": shape(effect.method.index),
            "fill": tint if effect.sure else PAPER,
            "size": 60,
        }
        rules.append(layer("rule", span, effect.method, strokeWidth=2 if effect.sure else 1.4))
        marks.append(layer("point", mark, effect.method, stroke=tint, opacity=1, **looks))
    zero = [layer("rule", [{"x": 0, "y": 0, "y2": bottom}], color=INK)]
    names = " : ".join(f"datum.value == {middle[c]} ? '{COLUMNS[c]}'" for c in columns)
    x = axis(what, nice=False, grid=True, tickCount=5)
    y_axis = axis(None, nice=False, grid=False, values=list(middle.values()))
    x["axis"] |= {} if alone else {"labelExpr": SIGNED}
    y_axis["axis"]["labelExpr"] = f"{names} : ''"
    x["scale"] |= {"domain": ends, "padding": 8}
    y_axis["scale"] |= {"domain": [0, bottom], "reverse": True}
    return draw(
        f"{'Accuracy' if alone else 'Differences'} under {name}",
        f"{what}, by group, with 95 % intervals",
        x,
        y_axis,
        [*([] if alone else zero), *rules, *marks],
        ("run", "group", what, "low", "high", *([] if alone else ["p"])),
        size=(WIDTH, bottom),
    )
