"""Small SVG charts for the report: no script, no font, no network needed to read them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

# Okabe and Ito's colors, the light ones darkened to a contrast of 4.5 on white.
COLORS = ("#0b61a4", "#c2410c", "#00734f", "#8e3a80", "#7a5c00", "#444b54")
MARKERS = ("circle", "square", "triangle", "diamond")


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover a range.

    Args:
        low: start.
        high: end.
        count: about how many.

    Returns:
        Ticks within the range.

    Example:
        >>> nice_ticks(0, 1)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * m for m in (1, 2, 2.5, 5, 10) if base * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20, 50, … within a range; powers of ten alone where those would crowd."""
    ticks = []
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        ticks += [m * 10.0**exponent for m in (1, 2, 5)]
    inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    powers = [tick for tick in inside if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]
    return powers if len(inside) > 8 and len(powers) > 1 else inside


def number(value: float) -> str:
    """A tick's label: short, thousands separated."""
    if value and abs(value) < 0.001:
        return f"{value:.0e}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.3f}".rstrip("0").rstrip(".")


@dataclass
class Chart:
    """One chart with axes, filled by its methods and read by `svg`.

    Attributes:
        title: short name, read aloud by screen readers.
        summary: what the chart shows, in words.
        x_label: name and unit of the x axis.
        y_label: likewise.
        x_range: limits.
        y_range: limits.
        x_log: logarithmic x axis.
        y_format: how y ticks are written.
    """

    title: str
    summary: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_log: bool = False
    y_format: Callable[[float], str] = number
    x_format: Callable[[float], str] = number
    width: int = 520
    height: int = 320
    parts: list[str] = field(default_factory=list)

    left, right, top, bottom = 66, 14, 14, 48

    def x(self, value: float) -> float:
        """Pixel of a data value."""
        low, high = self.x_range
        if self.x_log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.left + share * (self.width - self.left - self.right), 2)

    def y(self, value: float) -> float:
        """Pixel of a data value; y grows upwards."""
        low, high = self.y_range
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.height - self.bottom - share * (self.height - self.top - self.bottom), 2)

    def line(
        self,
        points: Iterable[tuple[float, float]],
        color: str,
        *,
        dash: str = "",
        width: float = 2,
        halo: bool = False,
    ) -> None:
        """Connect points; a halo sets the line off from marks that it crosses."""
        path = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        if halo:
            self.parts.append(
                f'<polyline points="{path}" fill="none" stroke="var(--paper)" '
                f'stroke-width="{width + 2.6:g}" stroke-linejoin="round"/>'
            )
        style = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}" '
            f'stroke-linejoin="round"{style}/>'
        )

    def point(
        self, x: float, y: float, color: str, marker: str, tip: str, size: float = 3.5
    ) -> None:
        """One marker; its text appears when the pointer rests on it."""
        a, b = self.x(x), self.y(y)
        opacity = ".72" if size > 3 else ".4"
        shape = {
            "circle": f'<circle cx="{a}" cy="{b}" r="{size}"',
            "square": f'<rect x="{a - size:.2f}" y="{b - size:.2f}" width="{2 * size}" '
            f'height="{2 * size}"',
            "triangle": f'<path d="M{a},{b - 1.25 * size:.2f}l{1.2 * size},{2.1 * size}'
            f'h{-2.4 * size}z"',
            "diamond": f'<path d="M{a},{b - 1.35 * size:.2f}l{1.35 * size},{1.35 * size}'
            f'l{-1.35 * size},{1.35 * size}l{-1.35 * size},{-1.35 * size}z"',
        }[marker]
        kind = shape[1 : shape.index(" ")]
        self.parts.append(
            f'{shape} fill="{color}" fill-opacity="{opacity}" stroke="var(--paper)" '
            f'stroke-width="{0.6 if size > 3 else 0}"><title>{escape(tip)}</title></{kind}>'
        )

    def stem(self, x: float, low: float, high: float, color: str, width: float = 1.4) -> None:
        """A vertical bar from low to high, such as a quartile range."""
        self.parts.append(
            f'<line x1="{self.x(x)}" x2="{self.x(x)}" y1="{self.y(low)}" y2="{self.y(high)}" '
            f'stroke="{color}" stroke-width="{width}" stroke-opacity=".55"/>'
        )

    def bar(self, x0: float, x1: float, y: float, color: str, tip: str) -> None:
        """A filled bar between zero and y."""
        zero = min(max(0.0, self.y_range[0]), self.y_range[1])
        top, base = self.y(max(y, zero)), self.y(min(y, zero))
        width = max(self.x(x1) - self.x(x0) - 1, 0.6)
        self.parts.append(
            f'<rect x="{self.x(x0)}" y="{top}" width="{width:.2f}" '
            f'height="{max(base - top, 0.5):.2f}" fill="{color}">'
            f"<title>{escape(tip)}</title></rect>"
        )

    def cell(
        self, x: tuple[float, float], y: tuple[float, float], share: float, color: str, tip: str
    ) -> None:
        """A rectangle of a heat map; the share, from 0 to 1, is its opacity."""
        left, top = self.x(x[0]), self.y(y[1])
        width, height = self.x(x[1]) - left, self.y(y[0]) - top
        self.parts.append(
            f'<rect x="{left}" y="{top}" width="{width + 0.3:.2f}" height="{height + 0.3:.2f}" '
            f'fill="{color}" fill-opacity="{share:.3f}"><title>{escape(tip)}</title></rect>'
        )

    def level(self, y: float, text: str) -> None:
        """A dashed horizontal line with a name."""
        self.parts.append(
            f'<line x1="{self.left}" x2="{self.width - self.right}" y1="{self.y(y)}" '
            f'y2="{self.y(y)}" stroke="currentColor" stroke-dasharray="4 4" stroke-opacity=".5"/>'
            f'<text x="{self.width - self.right - 4}" y="{self.y(y) - 5}" text-anchor="end">'
            f"{escape(text)}</text>"
        )

    def svg(self) -> str:
        """The chart as an ``<svg>`` element."""
        low, high = self.x_range
        x_ticks = log_ticks(low, high) if self.x_log else nice_ticks(low, high, 6)
        y_ticks = nice_ticks(*self.y_range)
        base = self.height - self.bottom
        grid = []
        for tick in y_ticks:
            grid.append(
                f'<line class="grid" x1="{self.left}" x2="{self.width - self.right}" '
                f'y1="{self.y(tick)}" y2="{self.y(tick)}"/>'
                f'<text x="{self.left - 8}" y="{self.y(tick) + 4}" text-anchor="end">'
                f"{escape(self.y_format(tick))}</text>"
            )
        for tick in x_ticks:
            grid.append(
                f'<line class="grid" x1="{self.x(tick)}" x2="{self.x(tick)}" y1="{base}" '
                f'y2="{base + 5}"/><text x="{self.x(tick)}" y="{base + 19}" '
                f'text-anchor="middle">{escape(self.x_format(tick))}</text>'
            )
        middle_x = (self.left + self.width - self.right) / 2
        middle_y = (self.top + base) / 2
        axes = (
            f'<line class="axis" x1="{self.left}" x2="{self.width - self.right}" y1="{base}" '
            f'y2="{base}"/>'
            f'<text class="name" x="{middle_x}" y="{self.height - 6}" text-anchor="middle">'
            f"{escape(self.x_label)}</text>"
            f'<text class="name" transform="translate(14 {middle_y}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.y_label)}</text>'
        )
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title + ": " + self.summary, quote=True)}">'
            f"<title>{escape(self.title)}</title><desc>{escape(self.summary)}</desc>"
            f"{''.join(grid)}{axes}{''.join(self.parts)}</svg>"
        )


def smooth(
    x: Sequence[float], y: Sequence[float], bandwidth: float = 0.18, steps: int = 60
) -> list[tuple[float, float]]:
    """Local linear regression with a Gaussian kernel, for the line through scattered points.

    Args:
        x: positions; the kernel's width is a share of their range.
        y: values.
        bandwidth: that share.
        steps: points of the line.

    Returns:
        Points of the line; empty for fewer than three positions that differ.

    Example:
        >>> line = smooth([0, 1, 2, 3], [0, 2, 4, 6], steps=3)
        >>> [round(value, 6) for _, value in line]
        [0.0, 3.0, 6.0]
    """
    if len(set(x)) < 3:
        return []
    low, high = min(x), max(x)
    width = bandwidth * (high - low)
    line = []
    for step in range(steps):
        at = low + (high - low) * step / (steps - 1)
        weights = [math.exp(-0.5 * ((value - at) / width) ** 2) for value in x]
        total = math.fsum(weights)
        mean_x = math.fsum(w * a for w, a in zip(weights, x, strict=True)) / total
        mean_y = math.fsum(w * b for w, b in zip(weights, y, strict=True)) / total
        spread = math.fsum(w * (a - mean_x) ** 2 for w, a in zip(weights, x, strict=True))
        joint = math.fsum(
            w * (a - mean_x) * (b - mean_y) for w, a, b in zip(weights, x, y, strict=True)
        )
        slope = joint / spread if spread > 1e-12 * total else 0.0
        line.append((at, mean_y + slope * (at - mean_x)))
    return line
